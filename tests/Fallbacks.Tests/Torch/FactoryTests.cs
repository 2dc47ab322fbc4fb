using TorchSharp;
using static TorchSharp.torch;

namespace Fallbacks.Tests.Torch;

public class FactoryTests
{
    [Fact]
    public void FilledTensors()
    {
        using var scope = NewDisposeScope();
        Expect.Values(zeros(2, 1), 0, 0);
        Expect.Values(ones([2L], int32), 1, 1);
        Expect.Values(full(2, 2.5), 2.5, 2.5);
        Expect.Shape(empty(2, 0, 3, 4), 2, 0, 3, 4);
        Expect.Values(eye(2, 3), 1, 0, 0, 0, 1, 0);
        Expect.Values(zeros_like(ones(2, dtype: int64)), 0, 0);
        Assert.Equal(ScalarType.Int64, zeros_like(ones(2, dtype: int64)).dtype);
        Expect.Values(full_like(ones(2), 3, float64), 3, 3);
        Assert.Equal(ScalarType.Float32, zeros(1).dtype);
        Assert.Equal(ScalarType.Int64, full(1, 3).dtype);
        Assert.Equal(ScalarType.Int64, full(1, true).dtype);
        Assert.Equal(ScalarType.Float32, full(1, 3.0).dtype);
        Assert.True(zeros(1, requires_grad: true).requires_grad);
        Assert.False(zeros(1).requires_grad);
    }

    [Fact]
    public void Sequences()
    {
        using var scope = NewDisposeScope();
        Expect.Values(arange(4), 0, 1, 2, 3);
        Assert.Equal(ScalarType.Int64, arange(4).dtype);
        Expect.Values(arange(1, 2, 0.25), 1, 1.25, 1.5, 1.75);
        Assert.Equal(ScalarType.Float32, arange(1, 2, 0.25).dtype);
        Expect.Values(arange(6, 0, -2), 6, 4, 2);
        Expect.Values(linspace(0, 1, 5), 0, 0.25, 0.5, 0.75, 1);
    }

    [Fact]
    public void ArraysBecomeTensorsOfTheirType()
    {
        using var scope = NewDisposeScope();
        Assert.Equal(ScalarType.Float32, tensor(new[] { 1f }).dtype);
        Assert.Equal(ScalarType.Float64, tensor(new[] { 1.0 }).dtype);
        Assert.Equal(ScalarType.Int64, tensor(new[] { 1L }).dtype);
        Assert.Equal(ScalarType.Int32, tensor(new[] { 1 }).dtype);
        Assert.Equal(ScalarType.Bool, tensor(new[] { true }).dtype);
        Assert.Equal(ScalarType.Byte, tensor(new byte[] { 1 }).dtype);
        Assert.Equal(ScalarType.Float16, tensor(new[] { (Half)1 }).dtype);
        Assert.Equal(ScalarType.BFloat16, tensor(new[] { (BFloat16)1f }).dtype);
        Expect.Values(tensor(new[] { (BFloat16)1.5f, (BFloat16)(-3f) }), 1.5, -3);
        Expect.Values(tensor(new float[,,] { { { 1, 2 }, { 3, 4 } } }), 1, 2, 3, 4);
        Expect.Shape(tensor(new float[,,] { { { 1, 2 }, { 3, 4 } } }), 1, 2, 2);
        Expect.Shape(tensor(new List<long> { 1, 2, 3, 4 }, 2, 2), 2, 2);
        Expect.Shape(tensor(new[] { 1f, 2, 3, 4 }, [2, 2]), 2, 2);
        Assert.Equal(ScalarType.Float16, tensor(new[] { 1f }, dtype: float16).dtype);
        Assert.Empty(tensor(3f).shape);
        Assert.Equal(ScalarType.Int64, tensor(3L).dtype);
        Assert.Throws<ArgumentException>(() => tensor(new[] { 1f, 2 }, [3]));
    }

    [Fact]
    public void ATensorOwnsACopyOfItsArray()
    {
        using var scope = NewDisposeScope();
        var array = new[] { 1f, 2 };
        var x = tensor(array);
        array[0] = 5;
        Expect.Values(x, 1, 2);
    }

    [Fact]
    public void ScalarsKnowTheirType()
    {
        using var scope = NewDisposeScope();
        Assert.Equal(ScalarType.Int64, ((Scalar)3L).Type);
        Assert.Equal(ScalarType.Int64, ((Scalar)(byte)3).Type);
        Assert.Equal(ScalarType.Float64, ((Scalar)3f).Type);
        Assert.Equal(ScalarType.Bool, ((Scalar)true).Type);
        Assert.Equal(ScalarType.Bool, tensor(true).ToScalar().Type);
        Assert.Equal(ScalarType.Float64, tensor(3f).ToScalar().Type);
        Assert.Equal(3.5, ((Scalar)3.5).ToDouble());
        Assert.Equal(2.5f, tensor(2.5).ToSingle());
        Assert.Equal(2, tensor(2.5).ToInt32());
        Assert.True(tensor(0.5).ToBoolean());
        Assert.Equal(7, (int)tensor(7L));
        Assert.Equal(1.5f, ones(1, dtype: bfloat16).mul(1.5).ToSingle());
    }
}
