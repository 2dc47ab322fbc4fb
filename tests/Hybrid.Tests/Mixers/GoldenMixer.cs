using Hybrid.Tests.Infrastructure;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Mixers;

/// <summary>What every golden case of a whole mixer says: input x, output y, the gradient of x and of every parameter.</summary>
internal static class GoldenMixer
{
    public static void CheckOutputAndGradients(GoldenCase golden, SequenceMixer mixer, string name, double tolerance)
    {
        using var scope = NewDisposeScope();
        var x = golden.Get("in.x").requires_grad_(true);

        var y = mixer.call(x);
        TensorAssert.Close(golden.Get("out.y"), y, tolerance, $"{name} y");

        golden.Loss(("y", y)).backward();
        TensorAssert.Close(golden.Get("grad.x"), x.grad!, tolerance, $"{name} gradient of x");
        Assert.All(
            mixer.named_parameters(),
            entry => TensorAssert.Close(
                golden.Get("grad.param." + entry.name), entry.parameter.grad!, tolerance, $"{name} gradient of {entry.name}"));
    }

    public static void CheckSingleSteps(GoldenCase golden, SequenceMixer mixer, string name, double tolerance)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var x = golden.Get("in.x");
        using var state = mixer.CreateState(x.size(0));
        var steps = x.split(1, 1).Select(step => mixer.forward(step, new MixerContext { State = state })).ToArray();
        TensorAssert.Close(golden.Get("out.y"), cat(steps, 1), tolerance, name);
    }
}
