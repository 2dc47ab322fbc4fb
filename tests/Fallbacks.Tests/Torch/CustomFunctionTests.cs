using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.autograd;

namespace Fallbacks.Tests.Torch;

public class CustomFunctionTests
{
    /// <summary>scale * x ^ 2, with a number and a text among its arguments.</summary>
    private sealed class ScaledSquare : SingleTensorFunction<ScaledSquare>
    {
        public override string Name => nameof(ScaledSquare);

        public override Tensor forward(AutogradContext ctx, params object[] vars)
        {
            Assert.False(is_grad_enabled());
            var (x, scale) = ((Tensor)vars[0], (double)vars[2]);
            ctx.save_for_backward([x]);
            ctx.save_data("scale", scale);
            return x.square().mul(scale);
        }

        public override List<Tensor> backward(AutogradContext ctx, Tensor grad_output)
        {
            var x = ctx.get_saved_variables()[0];
            Assert.Null(ctx.get_data("nothing"));
            return [grad_output * x * (2 * (double)ctx.get_data("scale")), null!, null!, null!];
        }
    }

    [Fact]
    public void OneOutputWithArgumentsThatAreNoTensors()
    {
        using var scope = NewDisposeScope();
        var x = tensor(new double[] { 1, -3 }, requires_grad: true);
        var y = ScaledSquare.apply(x, "text", 5.0, null!);
        Assert.True(y.requires_grad);
        Assert.False(y.is_leaf);
        Expect.Values(y, 5, 45);
        y.backward([tensor(new double[] { 1, 10 })]);
        Expect.Values(x.grad!, 10, -300);
    }

    [Fact]
    public void WithoutGradientsThereIsNoNode()
    {
        using var scope = NewDisposeScope();
        Assert.False(ScaledSquare.apply(ones(2), "", 2.0, null!).requires_grad);
        using var _ = no_grad();
        Assert.False(ScaledSquare.apply(ones(2, requires_grad: true), "", 2.0, null!).requires_grad);
    }

    [Fact]
    public void DoubleBackward()
    {
        using var scope = NewDisposeScope();
        var x = tensor(3.0, requires_grad: true);
        var first = grad([ScaledSquare.apply(x * 2, "", 5.0, null!)], [x], create_graph: true)[0];
        Expect.Values(first, 2 * 5.0 * 6 * 2);
        Expect.Values(grad([first], [x])[0], 2 * 5.0 * 4);
    }

    [Fact]
    public void SavedTensorsOutliveABackward()
    {
        using var scope = NewDisposeScope();
        var x = tensor(3.0, requires_grad: true);
        var y = ScaledSquare.apply(x, "", 1.0, null!);
        y.backward();
        y.backward();
        Expect.Values(x.grad!, 12);
    }

    /// <summary>TorchSharp raises it inside its native backward and the process ends.</summary>
    [Fact]
    public void SavedTensorsThatChangedAreAnError()
    {
        using var scope = NewDisposeScope();
        var x = tensor(3.0, requires_grad: true);
        var inner = x * 1;
        var y = ScaledSquare.apply(inner, "", 1.0, null!);
        inner.add_(1);
        var error = Assert.Throws<ExternalException>(() => y.backward());
        Assert.Contains("modified by an inplace operation", error.Message);
    }

    /// <summary>(a * b, a + b, a constant), of which gradients may be missing on both sides.</summary>
    private sealed class Several : MultiTensorFunction<Several>
    {
        public static readonly List<bool> Received = [];

        public override string Name => nameof(Several);

        public override List<Tensor> forward(AutogradContext ctx, params object[] vars)
        {
            var (a, b) = ((Tensor)vars[0], (Tensor)vars[1]);
            ctx.save_for_backward([a, null!, b]);
            if (vars.Length > 2) ctx.set_materialize_grads((bool)vars[2]);
            var constant = a.detach().clone();
            ctx.mark_non_differentiable([constant]);
            return [a * b, a + b, constant];
        }

        public override List<Tensor> backward(AutogradContext ctx, List<Tensor> grad_outputs)
        {
            var saved = ctx.get_saved_variables();
            Assert.Equal(3, saved.Count);
            Assert.Null(saved[1]);
            Received.Clear();
            Received.AddRange(grad_outputs.Select(g => !g.IsInvalid));
            var product = grad_outputs[0].IsInvalid ? zeros_like(saved[0]) : grad_outputs[0];
            var sum = grad_outputs[1].IsInvalid ? zeros_like(saved[0]) : grad_outputs[1];
            return [product * saved[2] + sum, product * saved[0] + sum, null!];
        }
    }

    [Fact]
    public void SeveralOutputs()
    {
        using var scope = NewDisposeScope();
        var (a, b) = (tensor(3.0, requires_grad: true), tensor(5.0, requires_grad: true));
        var outputs = Several.apply(a, b, true);
        Expect.Values(outputs[0], 15);
        Expect.Values(outputs[1], 8);
        Assert.False(outputs[2].requires_grad);
        (outputs[0] * 10 + outputs[1]).backward();
        Expect.Values(a.grad!, 51);
        Expect.Values(b.grad!, 31);
        Assert.Equal([true, true, true], Several.Received);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void AnUnusedOutputGivesZerosOrAnInvalidTensor(bool materialize)
    {
        using var scope = NewDisposeScope();
        var (a, b) = (tensor(3.0, requires_grad: true), tensor(5.0, requires_grad: true));
        Several.apply(a, b, materialize)[1].backward();
        Assert.Equal([materialize, true, materialize], Several.Received);
        Expect.Values(a.grad!, 1);
        Expect.Values(b.grad!, 1);
    }

    /// <summary>As in TorchSharp, where the exception ends the process.</summary>
    [Fact]
    public void ZerosForAnUnusedOutputNeedTheScopeOfTheForward()
    {
        using var scope = NewDisposeScope();
        var (a, b) = (tensor(3.0, requires_grad: true), tensor(5.0, requires_grad: true));
        Tensor sum;
        using (NewDisposeScope()) sum = Several.apply(a, b, true)[1].MoveToOuterDisposeScope();
        Assert.Throws<InvalidOperationException>(() => sum.backward());
    }

    [Fact]
    public void OneTensorInTwoPlaces()
    {
        using var scope = NewDisposeScope();
        var a = tensor(3.0, requires_grad: true);
        Several.apply(a, a, true)[0].backward();
        Expect.Values(a.grad!, 6);
    }

    [Fact]
    public void AnArgumentThatNeedsNoGradientMayGetOne()
    {
        using var scope = NewDisposeScope();
        var (a, b) = (tensor(3.0, requires_grad: true), tensor(5.0));
        Several.apply(a, b, true)[0].backward();
        Expect.Values(a.grad!, 5);
        Assert.Null(b.grad);
    }

    /// <summary>Saves its own output, as exp does.</summary>
    private sealed class Exponential : SingleTensorFunction<Exponential>
    {
        public override string Name => nameof(Exponential);

        public override Tensor forward(AutogradContext ctx, params object[] vars)
        {
            var y = ((Tensor)vars[0]).exp();
            ctx.save_for_backward([y]);
            return y;
        }

        public override List<Tensor> backward(AutogradContext ctx, Tensor grad_output) => [grad_output * ctx.get_saved_variables()[0]];
    }

    [Fact]
    public void ASavedOutputDifferentiatesTwice()
    {
        using var scope = NewDisposeScope();
        var x = tensor(0.5, requires_grad: true);
        var first = grad([Exponential.apply(x)], [x], create_graph: true)[0];
        Expect.Values(first, Expect.Double, [Math.Exp(0.5)]);
        var second = grad([first], [x], create_graph: true)[0];
        Expect.Values(second, Expect.Double, [Math.Exp(0.5)]);
        Expect.Values(grad([second], [x])[0], Expect.Double, [Math.Exp(0.5)]);
    }

    /// <summary>Doubles its argument in place.</summary>
    private sealed class DoubleInPlace : SingleTensorFunction<DoubleInPlace>
    {
        public override string Name => nameof(DoubleInPlace);

        public override Tensor forward(AutogradContext ctx, params object[] vars)
        {
            var x = (Tensor)vars[0];
            x.mul_(2);
            ctx.mark_dirty([x]);
            return x;
        }

        public override List<Tensor> backward(AutogradContext ctx, Tensor grad_output) => [grad_output * 2];
    }

    [Fact]
    public void AnArgumentChangedInPlace()
    {
        using var scope = NewDisposeScope();
        var x = tensor(3.0, requires_grad: true);
        var inner = x * 1;
        var y = DoubleInPlace.apply(inner);
        Expect.Values(inner, 6);
        y.square().backward();
        Expect.Values(x.grad!, 2 * 6 * 2);
    }

    /// <summary>Fails where it is told to.</summary>
    private sealed class Failing : SingleTensorFunction<Failing>
    {
        public override string Name => nameof(Failing);

        public override Tensor forward(AutogradContext ctx, params object[] vars)
        {
            ctx.save_data("how", vars[1]);
            return vars[1] is "forward" ? throw new InvalidOperationException("in forward") : ((Tensor)vars[0]).clone();
        }

        public override List<Tensor> backward(AutogradContext ctx, Tensor grad_output) => (string)ctx.get_data("how") switch
        {
            "managed" => throw new InvalidOperationException("in backward"),
            "native" => [grad_output.mm(grad_output), null!],
            "few" => [],
            "many" => [grad_output, null!, grad_output],
            "no tensor" => [grad_output, grad_output],
            _ => [grad_output, null!, null!],
        };
    }

    /// <summary>TorchSharp ends the process on a failure inside a backward; here it reaches the caller.</summary>
    [Fact]
    public void FailuresComeOutWhereTheCallWas()
    {
        using var scope = NewDisposeScope();
        Tensor Run(string how) => Failing.apply(ones(2, requires_grad: true), how).sum();

        Assert.Equal("in forward", Assert.Throws<InvalidOperationException>(() => Run("forward")).Message);
        Assert.True(is_grad_enabled());
        Assert.Equal("in backward", Assert.Throws<InvalidOperationException>(() => Run("managed").backward()).Message);
        Assert.Throws<ExternalException>(() => Run("native").backward());
        Assert.Contains("Failing", Assert.Throws<InvalidOperationException>(() => Run("few").backward()).Message);
        Assert.Throws<InvalidOperationException>(() => Run("many").backward());
        Assert.Throws<InvalidOperationException>(() => Run("no tensor").backward());
        Run("extra nulls are fine").backward();
    }

    /// <summary>The sum of all its arguments.</summary>
    private sealed class SumOfAll : SingleTensorFunction<SumOfAll>
    {
        public override string Name => nameof(SumOfAll);

        public override Tensor forward(AutogradContext ctx, params object[] vars)
        {
            ctx.save_data("count", vars.Length);
            return stack(vars.Cast<Tensor>()).sum(dim: 0);
        }

        public override List<Tensor> backward(AutogradContext ctx, Tensor grad_output) =>
            Enumerable.Range(1, (int)ctx.get_data("count")).Select(i => grad_output * i).ToList();
    }

    [Fact]
    public void AFunctionTakesAnyNumberOfTensors()
    {
        using var scope = NewDisposeScope();
        var inputs = Enumerable.Range(0, 40).Select(_ => tensor(1.0, requires_grad: true)).ToArray();
        SumOfAll.apply(inputs).backward();
        for (var i = 0; i < inputs.Length; i++) Expect.Values(inputs[i].grad!, i + 1);
    }

    /// <summary>Runs a backward pass of its own, as recomputation does.</summary>
    private sealed class Recomputed : SingleTensorFunction<Recomputed>
    {
        public override string Name => nameof(Recomputed);

        public override Tensor forward(AutogradContext ctx, params object[] vars)
        {
            ctx.save_for_backward([(Tensor)vars[0]]);
            return ((Tensor)vars[0]).pow(3);
        }

        public override List<Tensor> backward(AutogradContext ctx, Tensor grad_output)
        {
            var x = ctx.get_saved_variables()[0].detach().requires_grad_();
            using var _ = enable_grad();
            return [grad([x.pow(3)], [x], [grad_output])[0]];
        }
    }

    [Fact]
    public void ABackwardWithinABackward()
    {
        using var scope = NewDisposeScope();
        var x = tensor(2.0, requires_grad: true);
        Recomputed.apply(Recomputed.apply(x)).backward();
        Expect.Values(x.grad!, 9 * 256);
    }

    /// <summary>Keeps an object, its input and its output, which must not keep the node.</summary>
    private sealed class Watched : SingleTensorFunction<Watched>
    {
        public override string Name => nameof(Watched);

        public override Tensor forward(AutogradContext ctx, params object[] vars)
        {
            var x = (Tensor)vars[0];
            var y = x * 2;
            ctx.save_for_backward([x, y]);
            ctx.save_data("payload", vars[1]);
            return y;
        }

        public override List<Tensor> backward(AutogradContext ctx, Tensor grad_output) => [grad_output * 2, null!];
    }

    [Fact]
    public void WhatANodeKeepsDiesWithTheGraph()
    {
        static WeakReference Build(bool backward)
        {
            using var scope = NewDisposeScope();
            var payload = new object();
            var y = Watched.apply(ones(4, requires_grad: true), payload);
            if (backward) y.sum().backward();
            return new WeakReference(payload);
        }

        var references = new[] { Build(false), Build(true) };
        for (var i = 0; i < 5 && references.Any(r => r.IsAlive); i++)
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
        }
        Assert.All(references, r => Assert.False(r.IsAlive));
    }

    [Fact]
    public void TensorsOfABackwardBelongToTheCallersScope()
    {
        using var outer = NewDisposeScope();
        var x = ones(4, requires_grad: true);
        var before = Expect.Live;
        for (var i = 0; i < 20; i++)
        {
            using var scope = NewDisposeScope();
            ScaledSquare.apply(x, "", 2.0, null!).sum().backward();
        }
        Assert.Equal(before, Expect.Live);
    }
}
