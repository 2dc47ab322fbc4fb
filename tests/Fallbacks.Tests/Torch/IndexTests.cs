using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;

namespace Fallbacks.Tests.Torch;

public class IndexTests
{
    private static readonly TensorIndex All = TensorIndex.Colon;
    private static readonly TensorIndex Dots = TensorIndex.Ellipsis;
    private static readonly TensorIndex New = TensorIndex.None;

    [Fact]
    public void NumbersSlicesAndRanges()
    {
        using var scope = NewDisposeScope();
        var x = Expect.Range(3, 4);
        Expect.Values(x[1], 4, 5, 6, 7);
        Expect.Values(x[-1, -1], 11);
        Expect.Values(x[All, 1], 1, 5, 9);
        Expect.Values(x[TensorIndex.Slice(1), TensorIndex.Slice(null, -1, 2)], 4, 6, 8, 10);
        Expect.Values(x[1.., ..2], 4, 5, 8, 9);
        Expect.Values(x[^1, 1..^1], 9, 10);
        Expect.Values(x[0..2, ^2..], 2, 3, 6, 7);
        Expect.Shape(x[(1, null), (0, 0)], 2, 0);
        Expect.Shape(x[10..], 0, 4);
    }

    [Fact]
    public void NewAxesAndEllipsis()
    {
        using var scope = NewDisposeScope();
        var x = Expect.Range(2, 3, 4);
        Expect.Shape(x[Dots, 0], 2, 3);
        Expect.Shape(x[0, Dots], 3, 4);
        Expect.Shape(x[0, Dots, 1..3], 3, 2);
        Expect.Shape(x[Dots], 2, 3, 4);
        Expect.Shape(x[New], 1, 2, 3, 4);
        Expect.Shape(x[All, New, Dots, New], 2, 1, 3, 4, 1);
        Expect.Shape(x[TensorIndex.Bool(true)], 1, 2, 3, 4);
        Expect.Shape(x[TensorIndex.Bool(false)], 0, 2, 3, 4);
    }

    [Fact]
    public void TensorsPickAndMask()
    {
        using var scope = NewDisposeScope();
        var x = Expect.Range(3, 4);
        var rows = tensor(new long[] { 2, 0 });
        Expect.Values(x[rows], 8, 9, 10, 11, 0, 1, 2, 3);
        Expect.Values(x[rows, tensor(new long[] { 1, 3 })], 9, 3);
        Expect.Values(x[All, TensorIndex.Tensor(rows)], 2, 0, 6, 4, 10, 8);
        Expect.Values(x[1.., TensorIndex.Tensor(rows)], 6, 4, 10, 8);
        Expect.Values(x[x > 8], 9, 10, 11);
        Expect.Values(x[TensorIndex.Tensor(tensor(new[] { true, false, true })), 1], 1, 9);
        Expect.Values(x[TensorIndex.Tensor(tensor(2L)), 1], 9);
        Expect.Shape(x[rows.unsqueeze(1)], 2, 1, 4);
    }

    [Fact]
    public void IndexedPlacesTakeValues()
    {
        using var scope = NewDisposeScope();
        var x = zeros(2, 3);
        x[0, 1] = tensor(5f);
        x[1] = tensor(new float[] { 1, 2, 3 });
        Expect.Values(x, 0, 5, 0, 1, 2, 3);
        x[All, 0] = 9f;
        Expect.Values(x, 9, 5, 0, 9, 2, 3);
        x[Dots, 1..] = ones(1, 1, 2) * 4;
        Expect.Values(x, 9, 4, 4, 9, 4, 4);
        x[x > 5] = tensor(0f);
        Expect.Values(x, 0, 4, 4, 0, 4, 4);
        x[All, TensorIndex.Tensor(tensor(new long[] { 0, 2 }))] = tensor(new float[] { 7, 8 });
        Expect.Values(x, 7, 4, 8, 7, 4, 8);
        x.index_put_(1f, TensorIndex.Single(0), TensorIndex.Slice(0, 2));
        Expect.Values(x, 1, 1, 8, 7, 4, 8);
        x.index_put_(ones(3), [tensor(new long[] { 0, 0, 1 }), tensor(new long[] { 2, 2, 0 })], accumulate: true);
        Expect.Values(x, 1, 1, 10, 8, 4, 8);
    }

    [Fact]
    public void IndexingLeavesNoTensorsBehind()
    {
        using var outer = NewDisposeScope();
        var x = Expect.Range(2, 3, 4);
        var rows = tensor(new long[] { 1, 0 });
        var before = Expect.Live;
        using (var scope = NewDisposeScope())
        {
            _ = x[0, New, 1.., TensorIndex.Tensor(rows)];
            Assert.Equal(1, scope.DisposablesCount);
            _ = x[1, 2, 3];
            Assert.Equal(2, scope.DisposablesCount);
        }
        var value = ones(4);
        x[0, 1] = value;
        x[TensorIndex.Tensor(rows), 0] = value;
        value.Dispose();
        Assert.Equal(before, Expect.Live);
    }

    [Fact]
    public void GradientsFlowThroughIndices()
    {
        using var scope = NewDisposeScope();
        var x = ones(2, 3, requires_grad: true);
        (x[0, 1..].sum() * 2 + x[TensorIndex.Tensor(tensor(new long[] { 1, 1 })), 0].sum()).backward();
        Expect.Values(x.grad!, 0, 2, 2, 2, 0, 0);
    }

    [Fact]
    public void TooManyIndicesAreAnError()
    {
        using var scope = NewDisposeScope();
        Assert.Throws<ExternalException>(() => ones(2)[All, All]);
        Assert.Throws<ArgumentException>(() => ones(2).slice(0, 0, 1, 0));
        Assert.ThrowsAny<Exception>(() => ones(2)[5]);
    }
}
