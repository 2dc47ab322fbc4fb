using Hybrid.Kernels;
using Hybrid.Routing;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Routing;

public class TransPointMemoryTests
{
    /// <summary>Tokens, and the scale of the step sizes: at 30 a token forgets all before it, at 1e-3 nearly nothing.</summary>
    public static TheoryData<long, double> Cases => new()
    {
        { 1, 0.1 }, { 2, 1 }, { 17, 1e-3 }, { 63, 0.05 }, { 64, 1 }, { 65, 30 }, { 400, 0.01 },
    };

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsTheRecurrenceOverTheSameTokens(long time, double scale)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var (keys, values, steps, decay) = Inputs(time, scale);
        var expected = zeros(2, 6, 3, 5);
        for (var t = 0; t < time; t++)
        {
            var (key, value, step) = (keys.select(1, t).repeat_interleave(3, 1), values.select(1, t), steps.select(1, t));
            var added = (value * step.unsqueeze(-1)).unsqueeze(-1) * key.unsqueeze(2);
            expected = (expected * (step * decay).exp().unsqueeze(-1).unsqueeze(-1)) + added;
        }

        TensorAssert.Close(expected, TransPointMemory.Convert(keys, values, steps, decay), 1e-5, $"{time} tokens, steps of {scale}");
    }

    [Fact]
    public void EqualsTheFinalStateOfTheKernel()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var (keys, values, steps, decay) = Inputs(150, 0.1);
        var kernel = StateSpaceDuality.Apply(values, steps, decay, keys, keys);
        TensorAssert.Close(kernel.FinalState, TransPointMemory.Convert(keys, values, steps, decay), 1e-5, "the final state");
    }

    [Fact]
    public void AStepOfZeroLeavesATokenOut()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var (keys, values, steps, decay) = Inputs(9, 0.3);
        var expected = TransPointMemory.Convert(keys.narrow(1, 0, 6), values.narrow(1, 0, 6), steps.narrow(1, 0, 6), decay);
        steps.narrow(1, 6, 3).zero_();
        TensorAssert.Close(expected, TransPointMemory.Convert(keys, values, steps, decay), 1e-6, "three tokens left out");
    }

    [Fact]
    public void GradientsEqualFiniteDifferences()
    {
        using var scope = NewDisposeScope();
        var (keys, values, steps, decay) = Inputs(7, 0.3);
        FiniteDifferences.Check(
            inputs => [TransPointMemory.Convert(inputs[0], inputs[1], inputs[2], inputs[3])],
            [.. new[] { keys, values, steps, decay }.Select(input => input.to_type(ScalarType.Float64))]);
    }

    [Fact]
    public void ShapesThatDoNotFitAreNamed()
    {
        using var scope = NewDisposeScope();
        var (keys, values, steps, decay) = Inputs(4, 0.1);
        Expect("keys must be [2, 4, G, N] with G dividing 6; got [2, 3, 2, 5].", keys.narrow(1, 0, 3), values, steps, decay);
        Expect("keys must be [2, 4, G, N] with G dividing 6; got [2, 4, 4, 5].", keys.repeat(1, 1, 2, 1), values, steps, decay);
        Expect("values must be [B, S, H, K], all at least 1; got [2, 4, 18].", keys, values.flatten(2), steps, decay);
        Expect("steps must be [2, 4, 6]; got [2, 4, 5].", keys, values, steps.narrow(2, 0, 5), decay);
        Expect("decay must be [6]; got [1].", keys, values, steps, decay.narrow(0, 0, 1));

        static void Expect(string text, Tensor keys, Tensor values, Tensor steps, Tensor decay) => Assert.StartsWith(
            "TransPointMemory: " + text,
            Assert.Throws<ArgumentException>(() => TransPointMemory.Convert(keys, values, steps, decay)).Message,
            StringComparison.Ordinal);
    }

    /// <summary>Two rows, six heads of width 3 in two groups, state size 5.</summary>
    private static (Tensor Keys, Tensor Values, Tensor Steps, Tensor Decay) Inputs(long time, double scale) => (
        Values.Normal(1, 2, time, 2, 5),
        Values.Normal(2, 2, time, 6, 3),
        Values.Normal(3, 2, time, 6).abs() * scale,
        -(Values.Normal(4, 6).abs() + 0.1));
}
