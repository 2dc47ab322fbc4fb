using Hybrid.Layers;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Layers;

public class GatedRmsNormTests
{
    // The cases were rounded to float32 from float64; a norm over 24 channels rounds a dozen times.
    private const double Tolerance = 2e-6;

    public static TheoryData<string> Cases => GoldenCases.Of("gated_rms_norm");

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsTheReferenceImplementation(string name)
    {
        using var scope = NewDisposeScope();
        using var golden = GoldenCases.Load("gated_rms_norm", name);
        var x = golden.Get("in.x").requires_grad_(true);
        var z = golden.Find("in.z")?.requires_grad_(true);
        var weight = golden.Get("in.weight");
        var (width, epsilon) = (weight.size(0), golden.Flag("eps")!.Value.GetDouble());

        // The case without a gate is RmsNorm's.
        using nn.Module norm = z is null
            ? new RmsNorm(width, epsilon)
            : new GatedRmsNorm(
                width, epsilon, golden.Flag("gate")!.Value.GetString() == "before", width / (golden.Flag("group_size")?.GetInt64() ?? width));
        norm.load_state_dict(new Dictionary<string, Tensor> { ["weight"] = weight });
        var y = norm is GatedRmsNorm gated ? gated.call(x, z!) : ((RmsNorm)norm).call(x);
        TensorAssert.Close(golden.Get("out.y"), y, Tolerance, $"{name} y");

        golden.Loss(("y", y)).backward();
        TensorAssert.Close(golden.Get("grad.x"), x.grad!, Tolerance, $"{name} gradient of x");
        TensorAssert.Close(golden.Get("grad.weight"), norm.get_parameter("weight")!.grad!, Tolerance, $"{name} gradient of weight");
        if (z is not null)
        {
            TensorAssert.Close(golden.Get("grad.z"), z.grad!, Tolerance, $"{name} gradient of z");
        }
    }

    [Theory]
    [InlineData(false, 1)]
    [InlineData(true, 1)]
    [InlineData(false, 3)]
    [InlineData(true, 3)]
    public void EqualsTheFormula(bool normBeforeGate, int groups)
    {
        const double epsilon = 0.25;
        const int width = 6;
        using var scope = NewDisposeScope();
        using var norm = new GatedRmsNorm(width, epsilon, normBeforeGate, groups);
        var (x, z, weight) = (Values.Normal(1, 2, width), Values.Normal(2, 2, width), Values.Normal(3, width));
        norm.load_state_dict(new Dictionary<string, Tensor> { ["weight"] = weight });
        var (input, gate, scale, actual) = (Values.Of(x), Values.Of(z), Values.Of(weight), Values.Of(norm.call(x, z)));
        for (var i = 0; i < actual.Length; i++)
        {
            var size = width / groups;
            var group = Enumerable.Range(i / size * size, size);
            var meanSquare = group.Average(k => Math.Pow(normBeforeGate ? input[k] : input[k] * Values.Silu(gate[k]), 2));
            var expected = input[i] * Values.Silu(gate[i]) * scale[i % width] / Math.Sqrt(meanSquare + epsilon);
            Assert.Equal(expected, actual[i], 1e-6);
        }
    }

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float16)]
    [InlineData(ScalarType.Float64)]
    public void KeepsTheTypeOfTheInput(ScalarType dtype)
    {
        using var scope = NewDisposeScope();
        using var norm = new GatedRmsNorm(4);
        norm.to(dtype);

        // 300 is a half, its square is not; SiLU(20) is 20 in every type. Gated and normalised, only the signs are left.
        var y = norm.call(Values.Tensor32([300, -300, 300, 300], 1, 4).to_type(dtype), full(1, 4, 20.0).to_type(dtype));
        Assert.Equal(dtype, y.dtype);
        TensorAssert.Close(Values.Tensor32([1, -1, 1, 1], 1, 4), y, 1e-6, "y");
    }

    [Theory]
    [InlineData(false, 1)]
    [InlineData(true, 2)]
    public void GradientsAgreeWithFiniteDifferences(bool normBeforeGate, long groups)
    {
        using var scope = NewDisposeScope();
        using var norm = new GatedRmsNorm(6, 1e-5, normBeforeGate, groups);
        norm.to(ScalarType.Float64);
        FiniteDifferences.Check(
            inputs => [norm.call(inputs[0], inputs[1])],
            [Values.Normal(5, 3, 6).to_type(ScalarType.Float64), Values.Normal(6, 3, 6).to_type(ScalarType.Float64)]);
    }

    [Fact]
    public void WrongShapesAndOptionsAreNamed()
    {
        using var scope = NewDisposeScope();
        using var norm = new GatedRmsNorm(4);
        Assert.Equal(["weight"], norm.state_dict().Keys);
        var error = Assert.Throws<ArgumentException>(() => norm.call(zeros(2, 3), zeros(2, 3)));
        Assert.StartsWith("GatedRmsNorm: the input must be [..., 4]; got [2, 3].", error.Message, StringComparison.Ordinal);
        error = Assert.Throws<ArgumentException>(() => norm.call(zeros(2, 4), zeros(1, 4)));
        Assert.StartsWith("GatedRmsNorm: the gate must be [2, 4]; got [1, 4].", error.Message, StringComparison.Ordinal);
        error = Assert.Throws<ArgumentException>(() => new GatedRmsNorm(4, groups: 3));
        Assert.StartsWith("GatedRmsNorm: groups must divide the width, 4; got 3.", error.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => new GatedRmsNorm(0));
        Assert.Throws<ArgumentOutOfRangeException>(() => new GatedRmsNorm(4, 0));
        Assert.Throws<ArgumentOutOfRangeException>(() => new GatedRmsNorm(4, groups: 0));
    }
}
