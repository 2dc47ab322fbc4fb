using Hybrid.Attention;
using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

public class RotationTests
{
    // Two products and a sum in float32.
    private const double Tolerance = 5e-7;

    /// <summary>Channels that turn around the width of a register, channels that do not, angles of all heads and of each.</summary>
    [Theory]
    [InlineData(1, 1, 1, 1, 0, false)]
    [InlineData(2, 3, 2, 3, 1, false)]
    [InlineData(2, 2, 5, 15, 0, true)]
    [InlineData(1, 4, 63, 16, 7, false)]
    [InlineData(3, 2, 65, 17, 30, true)]
    [InlineData(1, 2, 100, 33, 0, false)]
    public void EqualsTensorOperationsWithGradients(int batch, int heads, int time, int half, int rest, bool ofEachHead)
    {
        using var scope = NewDisposeScope();
        var x = Values.Normal(1, batch, time, heads, (2 * half) + rest).transpose(1, 2);
        var turns = Values.Normal(2, batch, ofEachHead ? heads : 1, time, half) * 9;
        var (cos, sin) = (turns.cos(), turns.sin());
        var fast = Differentiation.Results([x], leaf => [Rotation.Apply(leaf[0], (cos, sin))]);
        var reference = Differentiation.Results([x], leaf => [Rotation.Reference(leaf[0], (cos.@double(), sin.@double()))], ScalarType.Float64);
        TensorAssert.AllClose(reference, fast, Tolerance, "rotation", "y", "dx");

        using var guard = no_grad();
        var own = x.clone();
        Rotation.ApplyInPlace(own, (cos, sin));
        TensorAssert.Identical(fast[0], own, "in place");
    }

    [Fact]
    public void SecondDerivativesGoThroughTheRotation()
    {
        using var scope = NewDisposeScope();
        var (fast, reference) = (Second(Rotation.Apply), Second(Rotation.Reference));
        Assert.True(reference.abs().max().ToDouble() > 0.1);
        TensorAssert.Close(reference, fast, 1e-5, "the gradient of the squared gradient");

        static Tensor Second(Func<Tensor, (Tensor Cos, Tensor Sin), Tensor> turn)
        {
            var (x, turns) = (Values.Normal(1, 1, 2, 3, 9).requires_grad_(true), Values.Normal(2, 1, 1, 3, 4));
            var y = turn(x, (turns.cos(), turns.sin()));
            var first = autograd.grad([y.pow(3).sum()], [x], retain_graph: true, create_graph: true)[0];
            return autograd.grad([first.square().sum()], [x])[0];
        }
    }

    [Fact]
    public void LearnedAnglesAreLeftToTensorOperations()
    {
        using var scope = NewDisposeScope();
        var (x, turns) = (Values.Normal(1, 1, 2, 3, 8), Values.Normal(2, 1, 1, 3, 4).requires_grad_(true));
        Assert.False(Rotation.CanRun(x, (turns.cos(), turns.sin())));
        new RotaryEmbedding(8).Rotate(x, (turns.cos(), turns.sin())).square().narrow(-1, 0, 4).sum().backward();
        Assert.True(turns.grad!.abs().max().ToDouble() > 0.1);
    }

    [Fact]
    public void AFewTokensTurnAsManyDo()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var rotary = new RotaryEmbedding(10, 500, new RopeScaling { Kind = RopeScalingKind.Yarn, Factor = 4, OriginalMaxPositionEmbeddings = 64 });
        var (query, key) = (Values.Normal(1, 2, 4, 3, 12), Values.Normal(2, 2, 2, 3, 12));
        var angles = rotary.Angles(tensor(new long[] { 7, 8, 9, 1000, 1001, 1002 }).view(2, 3));
        var (expectedQuery, expectedKey) = (rotary.Rotate(query, angles), rotary.Rotate(key, angles));
        var (turnedQuery, turnedKey) = rotary.TurnConsecutive(query.clone(), key.clone(), [7, 1000]);
        TensorAssert.Close(expectedQuery, turnedQuery, 1e-6, "query");
        TensorAssert.Close(expectedKey, turnedKey, 1e-6, "key");
    }

    [Fact]
    public void ShapesThatDoNotFitAreNamed()
    {
        using var scope = NewDisposeScope();
        var rotary = new RotaryEmbedding(8);
        var angles = rotary.Angles(arange(3, dtype: ScalarType.Int64).unsqueeze(0));
        var error = Assert.Throws<ArgumentException>(() => rotary.Rotate(zeros(1, 2, 3, 7), angles));
        Assert.StartsWith("RotaryEmbedding: x must be [B, H, T, K] with K at least 8; got [1, 2, 3, 7].", error.Message, StringComparison.Ordinal);
        error = Assert.Throws<ArgumentException>(() => rotary.Rotate(zeros(1, 2, 4, 8), angles));
        Assert.StartsWith("RotaryEmbedding: the angles must be [1 or 1, 2 or 1, 4, 4]; got [1, 1, 3, 4].", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void LeavesNoTensorBehind()
    {
        using var x = Values.Normal(1, 1, 2, 5, 8).requires_grad_(true);
        using var turns = Values.Normal(2, 1, 1, 5, 4);
        Step();
        var before = LiveTensors.Before();
        Step();
        Assert.Equal(before, LiveTensors.Before());

        void Step()
        {
            using var scope = NewDisposeScope();
            Rotation.Apply(x, (turns.cos(), turns.sin())).sum().backward();
        }
    }
}
