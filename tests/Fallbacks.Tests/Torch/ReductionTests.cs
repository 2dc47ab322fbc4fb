using TorchSharp;
using static TorchSharp.torch;

namespace Fallbacks.Tests.Torch;

public class ReductionTests
{
    private static Tensor Matrix => tensor(new double[,] { { 3, 1, 2 }, { 6, 5, 4 } });

    [Fact]
    public void SumsAndMeans()
    {
        using var scope = NewDisposeScope();
        Expect.Values(Matrix.sum(), 21);
        Expect.Values(Matrix.sum(dim: 0), 9, 6, 6);
        Expect.Values(Matrix.sum(-1, keepdim: true), 6, 15);
        Expect.Shape(Matrix.sum(-1, keepdim: true), 2, 1);
        Expect.Values(Matrix.sum([0, 1]), 21);
        Expect.Values(Matrix.mean(), 3.5);
        Expect.Values(Matrix.mean([1]), 2, 5);
        Expect.Values(Matrix.prod(1), 6, 120);
        Assert.Equal(ScalarType.Int64, ones(3, dtype: int32).sum().dtype);
        Assert.Equal(ScalarType.Float64, ones(3).sum(type: float64).dtype);
        Assert.Equal(ScalarType.Float32, ones(2, 3, dtype: bfloat16).mean([1], true, float32).dtype);
    }

    [Fact]
    public void VarianceDividesByCountOrCountLessOne()
    {
        using var scope = NewDisposeScope();
        Expect.Values(Matrix.var(1), 1, 1);
        Expect.Values(Matrix.var(1, unbiased: false), Expect.Double, [2.0 / 3, 2.0 / 3]);
        Expect.Values(Matrix.var(), 3.5);
        Expect.Values(Matrix.std([0, 1], keepdim: true), Expect.Double, [Math.Sqrt(3.5)]);
        Expect.Values(torch.var(Matrix, -1), 1, 1);
    }

    [Fact]
    public void Extremes()
    {
        using var scope = NewDisposeScope();
        var (values, indexes) = Matrix.max(1);
        Expect.Values(values, 3, 6);
        Expect.Values(indexes, 0, 0);
        Assert.Equal(ScalarType.Int64, indexes.dtype);
        Expect.Values(Matrix.min(0).values, 3, 1, 2);
        Expect.Values(Matrix.max(), 6);
        Expect.Values(Matrix.amax(0), 6, 5, 4);
        Expect.Values(Matrix.amin([1], keepdim: true), 1, 4);
        Expect.Values(Matrix.argmax(), 3);
        Expect.Values(Matrix.argmin(1), 1, 2);
        Expect.Values(Matrix.maximum(tensor(3.5)), 3.5, 3.5, 3.5, 6, 5, 4);
    }

    [Fact]
    public void NormsAndSoftmax()
    {
        using var scope = NewDisposeScope();
        var x = tensor(new double[,] { { 3, 4 }, { 0, 5 } });
        Expect.Values(x.norm(), Expect.Double, [Math.Sqrt(50)]);
        Expect.Values(x.norm(1), Expect.Double, [5, 5]);
        Expect.Values(x.norm(1, p: 1), 7, 5);
        Expect.Values(x.logsumexp(1), Expect.Double, [4 + Math.Log(1 + Math.Exp(-1)), 5 + Math.Log(1 + Math.Exp(-5))]);
        var p = 1 / (1 + Math.Exp(1));
        Expect.Values(x.softmax(-1)[0], Expect.Double, [p, 1 - p]);
        Expect.Values(x.log_softmax(-1)[0], Expect.Double, [Math.Log(p), Math.Log(1 - p)]);
        Assert.Equal(ScalarType.Float32, ones(3, dtype: bfloat16).softmax(0, float32).dtype);
    }

    [Fact]
    public void CumulativeSumsAndProducts()
    {
        using var scope = NewDisposeScope();
        Expect.Values(Matrix.cumsum(1), 3, 4, 6, 6, 11, 15);
        Expect.Values(Matrix.cumprod(0), 3, 1, 2, 18, 5, 8);
        Expect.Values(Matrix.log().logcumsumexp(1).exp(), Expect.Double, [3, 4, 6, 6, 11, 15]);
        Expect.Values(torch.cumsum(Matrix, 0), 3, 1, 2, 9, 6, 6);
    }

    [Fact]
    public void SortingAndSelectingTheLargest()
    {
        using var scope = NewDisposeScope();
        var (values, indices) = Matrix.sort(descending: true);
        Expect.Values(values, 3, 2, 1, 6, 5, 4);
        Expect.Values(indices, 0, 2, 1, 0, 1, 2);
        Expect.Values(Matrix.argsort(1), 1, 2, 0, 2, 1, 0);
        var top = Matrix.topk(2);
        Expect.Values(top.values, 3, 2, 6, 5);
        Expect.Values(top.indexes, 0, 2, 0, 1);
        Expect.Values(Matrix.topk(1, 0, largest: false).values, 3, 1, 2);
        Expect.Values(Matrix.kthvalue(2, 1).values, 2, 5);
        var (output, inverse, counts) = tensor(new[] { 5, 3, 5 }).unique(return_inverse: true, return_counts: true);
        Expect.Values(output, 3, 5);
        Expect.Values(inverse!, 1, 0, 1);
        Expect.Values(counts!, 1, 2);
    }

    [Fact]
    public void UniqueWithoutExtrasLeavesNothingBehind()
    {
        using var outer = NewDisposeScope();
        var x = tensor(new[] { 5, 3, 5 });
        var before = Expect.Live;
        var (output, inverse, counts) = x.unique();
        Assert.Null(inverse);
        Assert.Null(counts);
        Assert.Equal(before + 1, Expect.Live);
        output.Dispose();
    }
}
