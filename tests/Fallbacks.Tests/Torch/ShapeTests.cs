using TorchSharp;
using static TorchSharp.torch;

namespace Fallbacks.Tests.Torch;

public class ShapeTests
{
    [Fact]
    public void ViewsShareMemory()
    {
        using var scope = NewDisposeScope();
        var x = Expect.Range(2, 6);
        x.view(3, 4)[2, 3].fill_(-1);
        Expect.Values(x[1, 5], -1);
        Expect.Shape(x.reshape(-1, 2), 6, 2);
        Expect.Shape(x.flatten(), 12);
        Expect.Shape(x.unflatten(1, 2, 3), 2, 2, 3);
        Assert.True(x.view(3, 4).storage_offset() == 0 && x[1].storage_offset() == 6);
        Assert.Equal([1L, 6L], x.t().stride());
        Assert.False(x.t().is_contiguous());
        Assert.True(x.t().contiguous().is_contiguous());
    }

    [Fact]
    public void DimensionsMove()
    {
        using var scope = NewDisposeScope();
        var x = Expect.Range(2, 3, 4);
        Expect.Shape(x.permute(2, 0, 1), 4, 2, 3);
        Expect.Shape(x.transpose(-1, 0), 4, 3, 2);
        Expect.Shape(x.movedim([0], [2]), 3, 4, 2);
        Expect.Shape(x.unsqueeze(1).squeeze(1), 2, 3, 4);
        Expect.Shape(ones(1, 3, 1).squeeze(), 3);
        Expect.Shape(ones(1, 3, 1).squeeze(0), 3, 1);
        Expect.Shape(ones(3, 1).expand(-1, 5), 3, 5);
        Expect.Shape(ones(3, 1).expand(2, 3, 5), 2, 3, 5);
        Expect.Shape(ones(3).broadcast_to(2, 3), 2, 3);
        Expect.Shape(ones(2, 3).repeat(2, 1, 4), 2, 2, 12);
        Assert.Equal(3, x.ndim);
        Assert.Equal(4, x.size(-1));
        Assert.Equal(24, x.numel());
        Assert.Empty(x.sum().shape);
    }

    [Fact]
    public void PiecesAddUpToTheWhole()
    {
        using var scope = NewDisposeScope();
        var x = Expect.Range(5, 2);
        Assert.Equal([2L, 2L, 1L], x.split(2).Select(part => part.shape[0]));
        Assert.Equal([1L, 4L], x.split([1, 4]).Select(part => part.shape[0]));
        Assert.Equal([3L, 2L], x.chunk(2).Select(part => part.shape[0]));
        Assert.Equal(2, x.unbind(1).Length);
        Expect.Values(x.unbind(1)[1], 1, 3, 5, 7, 9);
        Expect.Values(cat(x.split(2)), Expect.Read(x));
        Expect.Shape(cat([x, x, x], -1), 5, 6);
        Expect.Shape(stack(new List<Tensor> { x, x }, 1), 5, 2, 2);
        Expect.Values(x.narrow(0, 1, 2), 2, 3, 4, 5);
        Expect.Values(x.slice(0, 0, 5, 2), 0, 1, 4, 5, 8, 9);
    }

    [Fact]
    public void ElementsMove()
    {
        using var scope = NewDisposeScope();
        var x = arange(5);
        Expect.Values(x.flip(0), 4, 3, 2, 1, 0);
        Expect.Values(x.roll(2), 3, 4, 0, 1, 2);
        Expect.Values(Expect.Range(2, 2).roll(1, 1), 1, 0, 3, 2);
        Expect.Values(x.repeat_interleave(2)[TensorIndex.Slice(stop: 4)], 0, 0, 1, 1);
        Expect.Values(tensor(new[] { 7, 8 }).repeat_interleave(tensor(new long[] { 1, 2 })), 7, 8, 8);
        Expect.Values(x.unfold(0, 3, 1)[1], 1, 2, 3);
        Expect.Values(x.as_strided([2, 2], [1, 2]), 0, 2, 1, 3);
        Expect.Values(ones(2, 3).tril(), 1, 0, 0, 1, 1, 0);
        Expect.Values(ones(2, 3).triu(1), 0, 1, 1, 0, 0, 1);
        Expect.Values(Expect.Range(2, 2).diagonal(), 0, 3);
        Expect.Values(x.@double().diff(), 1, 1, 1, 1);
    }

    [Fact]
    public void GatherScatterAndMask()
    {
        using var scope = NewDisposeScope();
        var x = Expect.Range(2, 3);
        var index = tensor(new long[,] { { 2, 0 }, { 1, 1 } });
        Expect.Values(x.gather(1, index), 2, 0, 4, 4);
        Expect.Values(zeros(2, 3).scatter(1, index, ones(2, 2)), 1, 0, 1, 0, 1, 0);
        Expect.Values(zeros(2, 3).scatter_add(1, index, ones(2, 2)), 1, 0, 1, 0, 2, 0);
        Expect.Values(x.index_select(1, tensor(new long[] { 2, 2 })), 2, 2, 5, 5);
        var y = zeros(3, 2);
        y.index_add_(0, tensor(new long[] { 0, 2, 0 }), ones(3, 2), 2);
        Expect.Values(y, 4, 4, 0, 0, 2, 2);
        y.index_copy_(0, tensor(new long[] { 1 }), full(1, 2, 9f));
        Expect.Values(y, 4, 4, 9, 9, 2, 2);
        Expect.Values(x.masked_fill(x > 2, -1), 0, 1, 2, -1, -1, -1);
        Expect.Values(x.masked_select(x > 2), 3, 4, 5);
        Expect.Values(where(x > 2, x, -x), 0, -1, -2, 3, 4, 5);
        Expect.Values((x > 3).nonzero(), 1, 1, 1, 2);
        Expect.Values(x.bucketize(tensor(new[] { 1.5f, 3.5f })), 0, 0, 1, 1, 2, 2);
    }

    [Fact]
    public void TypesConvert()
    {
        using var scope = NewDisposeScope();
        var x = tensor(new[] { 1.75f, -2.5f });
        Assert.Equal(ScalarType.Int32, x.@int().dtype);
        Expect.Values(x.@int(), 1, -2);
        Expect.Values(x.@bool(), 1, 1);
        Assert.Equal(ScalarType.BFloat16, x.bfloat16().dtype);
        Assert.Equal(ScalarType.Float16, x.half().dtype);
        Assert.Equal(ScalarType.Float64, x.to(float64).dtype);
        Assert.Equal(ScalarType.Int64, x.to(tensor(1L)).dtype);
        Assert.Equal(2, x.half().element_size());

        var same = x.to(float32);
        same.fill_(0);
        Expect.Values(x, 0, 0);
        var copy = x.to(float32, copy: true);
        copy.fill_(1);
        Expect.Values(x, 0, 0);
        var clone = x.clone();
        clone.fill_(1);
        Expect.Values(x, 0, 0);
        x.copy_(clone);
        Expect.Values(x, 1, 1);
    }
}
