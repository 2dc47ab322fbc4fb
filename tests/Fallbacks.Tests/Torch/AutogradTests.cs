using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;

namespace Fallbacks.Tests.Torch;

public class AutogradTests
{
    [Fact]
    public void BackwardAddsToTheGradientsOfLeaves()
    {
        using var scope = NewDisposeScope();
        var x = tensor(new double[] { 1, 2 }, requires_grad: true);
        Assert.Null(x.grad);
        x.square().sum().backward();
        Expect.Values(x.grad!, 2, 4);
        x.square().sum().backward();
        Expect.Values(x.grad!, 4, 8);
        x.grad = null;
        Assert.Null(x.grad);
        Assert.True(x.is_leaf);
        Assert.False(x.square().is_leaf);
    }

    [Fact]
    public void EachReadOfAGradientIsANewHandleOfOneTensor()
    {
        using var scope = NewDisposeScope();
        var x = ones(2, requires_grad: true);
        x.sum().backward();
        var (first, second) = (x.grad!, x.grad!);
        Assert.NotSame(first, second);
        first.zero_();
        Expect.Values(second, 0, 0);
        Assert.True(scope.Contains(first) && scope.Contains(second));
    }

    [Fact]
    public void GradientsOfOutputsCanBeGiven()
    {
        using var scope = NewDisposeScope();
        var x = tensor(new double[] { 1, 2 }, requires_grad: true);
        x.square().backward([tensor(new double[] { 1, 10 })]);
        Expect.Values(x.grad!, 2, 40);
    }

    [Fact]
    public void GradReturnsGradientsAndLeavesLeavesAlone()
    {
        using var scope = NewDisposeScope();
        var x = tensor(3.0, requires_grad: true);
        var y = tensor(4.0, requires_grad: true);
        var unused = tensor(5.0, requires_grad: true);
        var gradients = autograd.grad([x * y], [x, y]);
        Expect.Values(gradients[0], 4);
        Expect.Values(gradients[1], 3);
        Assert.Null(x.grad);
        gradients = autograd.grad([x * y], [x, unused], allow_unused: true);
        Assert.True(gradients[1].IsInvalid);
    }

    [Fact]
    public void SecondDerivatives()
    {
        using var scope = NewDisposeScope();
        var x = tensor(2.0, requires_grad: true);
        var first = autograd.grad([x.pow(3)], [x], create_graph: true)[0];
        Expect.Values(first, 12);
        Expect.Values(autograd.grad([first], [x])[0], 12);
    }

    [Fact]
    public void ModesSwitchRecordingAndComeBack()
    {
        using var scope = NewDisposeScope();
        var x = ones(1, requires_grad: true);
        using (no_grad())
        {
            Assert.False(is_grad_enabled());
            Assert.False((x * 2).requires_grad);
            using (enable_grad()) Assert.True((x * 2).requires_grad);
            Assert.False(is_grad_enabled());
        }
        Assert.True(is_grad_enabled());
        using (set_grad_enabled(false)) Assert.False((x * 2).requires_grad);
        using (inference_mode())
        {
            Assert.True(is_inference_mode_enabled());
            Assert.False((x * 2).requires_grad);
        }
        Assert.False(is_inference_mode_enabled());
        Assert.True((x * 2).requires_grad);
        Assert.False(x.detach().requires_grad);
    }

    [Fact]
    public void ModesBelongToTheirThread()
    {
        using var _ = no_grad();
        var elsewhere = false;
        var thread = new Thread(() => elsewhere = is_grad_enabled());
        thread.Start();
        thread.Join();
        Assert.True(elsewhere);
        Assert.False(is_grad_enabled());
    }

    [Fact]
    public void RetainedGradientsOfInnerTensors()
    {
        using var scope = NewDisposeScope();
        var x = ones(2, requires_grad: true);
        var y = x * 3;
        y.retain_grad();
        y.square().sum().backward();
        Expect.Values(y.grad!, 6, 6);
    }

    [Fact]
    public void ASecondBackwardNeedsTheGraphRetained()
    {
        using var scope = NewDisposeScope();
        var x = ones(2, requires_grad: true);
        var y = x.square().sum();
        y.backward(retain_graph: true);
        y.backward();
        Assert.Throws<ExternalException>(() => y.backward());
    }

    [Fact]
    public void ErrorsOfBackwardAreExceptions()
    {
        using var scope = NewDisposeScope();
        var error = Assert.Throws<ExternalException>(() => ones(2).sum().backward());
        Assert.Contains("does not require grad", error.Message);
        Assert.Throws<ExternalException>(() => ones(2, requires_grad: true).mul(2).backward());
    }

    [Fact]
    public void AnomalyModeIsThereWhileItIsOpen()
    {
        Assert.False(AnomalyMode.IsEnabled);
        using (autograd.detect_anomaly()) Assert.True(AnomalyMode.IsEnabled && AnomalyMode.ShouldCheckNaN);
        Assert.False(AnomalyMode.IsEnabled);
    }
}
