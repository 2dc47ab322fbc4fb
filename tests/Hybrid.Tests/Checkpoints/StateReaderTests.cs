using Hybrid.Checkpoints;
using Hybrid.Tests.Infrastructure;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Checkpoints;

public sealed class StateReaderTests : IDisposable
{
    private readonly TemporaryFolder folder = new();
    private readonly SafeTensorsFile file;
    private readonly StateReader reader;

    public StateReaderTests()
    {
        var path = folder.File("state.safetensors");
        using var scope = NewDisposeScope();
        var k = arange(24).reshape(2, 3, 4).to_type(ScalarType.Float32);
        SafeTensorsFile.Write(path, [("k", k)], new Dictionary<string, string> { ["kind"] = "Test" });
        file = SafeTensorsFile.Open(path);
        reader = new StateReader(file, "state.safetensors");
    }

    [Fact]
    public void ReadsWhatFits()
    {
        using var scope = NewDisposeScope();
        var read = reader.Read("k", zeros(2, 3, 4), []);
        Assert.Equal(Enumerable.Range(0, 24).Select(value => (float)value), read.data<float>().ToArray());
        Assert.Equal([2, 3, 4], reader.Read("k", zeros(2, 7, 4), [1]).shape);
        Assert.Equal([2, 3, 4], reader.Read("k", zeros(9, 7, 4), [0, 1]).shape);
    }

    [Fact]
    public void TheTensorIsInTheCurrentScope()
    {
        using var like = zeros(2, 3, 4).DetachFromDisposeScope();
        var before = LiveTensors.Before();
        using (NewDisposeScope())
        {
            _ = reader.Read("k", like, []);
            Assert.Equal(before + 1, Tensor.TotalCount);
        }

        Assert.Equal(before, Tensor.TotalCount);
    }

    [Theory]
    [InlineData(new long[] { 2, 3, 5 }, new int[0], "F32 [2, 3, 5]")]
    [InlineData(new long[] { 2, 3, 5 }, new[] { 1 }, "F32 [2, any, 5]")]
    [InlineData(new long[] { 2, 3 }, new[] { 1 }, "F32 [2, any]")]
    [InlineData(new long[] { 2, 3, 4, 1 }, new[] { 3 }, "F32 [2, 3, 4, any]")]
    [InlineData(new long[0], new int[0], "F32 []")]
    public void AnotherShapeIsRefused(long[] shape, int[] free, string expected)
    {
        using var scope = NewDisposeScope();
        var error = Assert.Throws<InvalidDataException>(() => reader.Read("k", zeros(shape), free));
        Assert.Equal($"state.safetensors: tensor 'k': expected {expected}; found F32 [2, 3, 4].", error.Message);
    }

    [Fact]
    public void AnotherDtypeIsRefused()
    {
        using var scope = NewDisposeScope();
        var error = Assert.Throws<InvalidDataException>(() => reader.Read("k", zeros([2, 3, 4], dtype: ScalarType.Float16), []));
        Assert.Equal("state.safetensors: tensor 'k': expected F16 [2, 3, 4]; found F32 [2, 3, 4].", error.Message);
    }

    [Fact]
    public void AMissingTensorIsSaid()
    {
        using var scope = NewDisposeScope();
        var error = Assert.Throws<InvalidDataException>(() => reader.Read("v", zeros(2), []));
        Assert.Equal("state.safetensors: tensor 'v': expected F32 [2]; found no tensor of this name.", error.Message);
    }

    [Fact]
    public void MetadataAndErrorsOfTheCaller()
    {
        Assert.Equal("Test", reader.Metadata("kind"));
        Assert.Null(reader.Metadata("positions"));
        Assert.Equal("state.safetensors: expected a route; found 'x'.", reader.Mismatch("a route", "'x'").Message);
    }

    public void Dispose()
    {
        file.Dispose();
        folder.Dispose();
    }
}
