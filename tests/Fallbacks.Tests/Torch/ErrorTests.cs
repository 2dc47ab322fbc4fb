using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;

namespace Fallbacks.Tests.Torch;

public class ErrorTests
{
    [Fact]
    public void NativeErrorsCarryTheMessageOfLibtorch()
    {
        using var scope = NewDisposeScope();
        var shapes = Assert.Throws<ExternalException>(() => ones(2, 3) + ones(2, 4));
        Assert.StartsWith("The size of tensor a (3) must match the size of tensor b (4)", shapes.Message);
        // TorchSharp appends libtorch's C++ stack; the fallback leaves it out.
        Assert.DoesNotContain("frame #", shapes.Message);
        var product = Assert.Throws<ExternalException>(() => ones(2, 3).mm(ones(2, 3)));
        Assert.Contains("cannot be multiplied", product.Message);
        Assert.Throws<ExternalException>(() => ones(2).reshape(3));
        Assert.Throws<ExternalException>(() => ones(2).sum(5));
        Assert.Throws<ExternalException>(() => ones(2).size(3));
        Assert.Throws<ExternalException>(() => ones(2).ToSingle());
        Assert.Throws<ExternalException>(() => ones(2, dtype: int64).requires_grad = true);
    }

    [Fact]
    public void AThreadSeesItsOwnErrors()
    {
        var messages = new string[8];
        Parallel.For(0, messages.Length, i =>
        {
            using var scope = NewDisposeScope();
            for (var repeat = 0; repeat < 50; repeat++)
                messages[i] = Assert.Throws<ExternalException>(() => ones(2 + i) + ones(20)).Message;
        });
        for (var i = 0; i < messages.Length; i++) Assert.Contains($"tensor a ({2 + i})", messages[i]);
    }

    [Fact]
    public void AFailedCallLeavesNoTensorBehind()
    {
        using var outer = NewDisposeScope();
        var (x, y) = (ones(2, 3), ones(2, 4));
        var before = Expect.Live;
        Assert.Throws<ExternalException>(() => x + y);
        Assert.Equal(before, Expect.Live);
        Expect.Values((x + x).sum(), 12);
    }
}
