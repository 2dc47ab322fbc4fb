using System.Text.Json;
using Hybrid.Kernels;
using Hybrid.Layers;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

/// <summary>State-space duality on the cases of the reference implementations.</summary>
public class StateSpaceDualityGoldenTests
{
    // Cases were rounded to float32 from float64, so this is the rounding of a float32 kernel over up to 100 steps.
    private const double Tolerance = 1e-5;

    public static TheoryData<string> Cases => GoldenCases.Of("ssd");

    public static TheoryData<string> MixerCases => GoldenCases.Of("ssd_mixer");

    /// <summary>Every case with the kernel that the dispatcher picks, and with the reference in one chunk and in chunks that do not divide its length.</summary>
    public static TheoryData<string, long, bool> CasesAndChunks
    {
        get
        {
            var data = new TheoryData<string, long, bool>();
            foreach (var row in Cases)
            {
                data.Add(row.Data, StateSpaceDuality.DefaultChunkSize, false);
                foreach (var chunk in new long[] { 256, 16, 5, 1 })
                {
                    data.Add(row.Data, chunk, true);
                }
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(CasesAndChunks))]
    public void EqualsTheReferenceImplementation(string name, long chunkSize, bool referenceKernel)
    {
        using var scope = NewDisposeScope();
        using var kernels = new KernelChoice(referenceKernel);
        using var golden = GoldenCases.Load("ssd", name);
        var inputs = golden.Inputs();
        var (y, state) = Run(golden, inputs, chunkSize);

        TensorAssert.Close(golden.Get("out.y"), y, Tolerance, $"{name} y");
        if (golden.Find("out.final_state") is { } expected)
        {
            TensorAssert.Close(expected, state, Tolerance, $"{name} final_state");
        }

        golden.Loss(("y", y), ("final_state", state)).backward();
        golden.CheckGradients(inputs, Tolerance);
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void AStateAfterAnyPrefixContinuesTheRecurrence(string name)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var golden = GoldenCases.Load("ssd", name);
        var inputs = golden.Inputs();
        var (whole, final) = Run(golden, inputs, 16);
        var length = inputs["x"].size(1);
        for (var split = 1L; split < length; split++)
        {
            using var inner = NewDisposeScope();
            var (first, middle) = Run(golden, Slice(inputs, 0, split), 16);
            var rest = Slice(inputs, split, length - split);
            rest["initial_states"] = middle;
            var (second, last) = Run(golden, rest, 16);
            TensorAssert.Close(golden.Get("out.y"), cat([first, second], 1), Tolerance, $"{name} y split at {split}");
            TensorAssert.Close(final, last, Tolerance, $"{name} final_state split at {split}");
        }

        TensorAssert.Close(golden.Get("out.y"), whole, Tolerance, $"{name} y");
    }

    [Theory]
    [MemberData(nameof(MixerCases))]
    public void TheWholeLayerAfterItsInputProjectionEqualsTheReference(string name)
    {
        using var scope = NewDisposeScope();
        using var golden = GoldenCases.Load("ssd_mixer", name);
        var inputs = golden.Inputs();
        var (heads, headWidth) = (inputs["A"].size(0), golden.Flag("headdim")!.Value.GetInt64());
        var (groups, states) = (golden.Flag("ngroups")!.Value.GetInt64(), golden.Flag("d_state")!.Value.GetInt64());
        var (inner, matrix) = (heads * headWidth, groups * states);
        using var norm = new GatedRmsNorm(inner, golden.Flag("eps")!.Value.GetDouble(), golden.Flag("norm_before_gate")!.Value.GetBoolean());
        norm.load_state_dict(new Dictionary<string, Tensor> { ["weight"] = inputs["norm_weight"] });

        var parts = inputs["zxbcdt"].split([inner, inner + (2 * matrix), heads], -1);
        var (convolved, _) = CausalConv1d.Apply(parts[1], inputs["conv_weight"], inputs.GetValueOrDefault("conv_bias"), Activation.Silu);
        var driven = convolved.split([inner, matrix, matrix], -1);
        var (min, max) = Limits(golden);
        var (mixed, _) = StateSpaceDuality.Apply(
            driven[0].unflatten(2, heads, headWidth), parts[2], inputs["A"], driven[1].unflatten(2, groups, states),
            driven[2].unflatten(2, groups, states), inputs.GetValueOrDefault("D"), dtBias: inputs["dt_bias"], dtSoftplus: true, dtMin: min, dtMax: max);
        var y = norm.call(mixed.flatten(2), parts[0]);
        if (inputs.TryGetValue("out_weight", out var weight))
        {
            y = nn.functional.linear(y, weight, inputs.GetValueOrDefault("out_bias"));
        }

        TensorAssert.Close(golden.Get("out.y"), y, Tolerance, $"{name} y");
        golden.Loss(("y", y)).backward();
        inputs["norm_weight"] = norm.get_parameter("weight")!;
        golden.CheckGradients(inputs, Tolerance);
    }

    [Fact]
    public void TheOutputDependsOnBAndC()
    {
        using var scope = NewDisposeScope();
        using var golden = GoldenCases.First("ssd");
        var inputs = golden.Inputs();
        var (before, _) = Run(golden, inputs, 16);
        foreach (var name in new[] { "B", "C" })
        {
            var changed = new Dictionary<string, Tensor>(inputs) { [name] = inputs[name] * 1.5 };
            Assert.True(TensorAssert.RelativeError(before, Run(golden, changed, 16).Y) > 0.05, name);
        }
    }

    private static Dictionary<string, Tensor> Slice(Dictionary<string, Tensor> inputs, long start, long length) => inputs.ToDictionary(
        entry => entry.Key,
        entry => entry.Key is "x" or "dt" or "B" or "C" or "z" ? entry.Value.narrow(1, start, length) : entry.Value);

    private static (double? Min, double? Max) Limits(GoldenCase golden)
    {
        if (golden.Flag("dt_limit") is not { } limits)
        {
            return (null, null);
        }

        var max = limits[1].ValueKind == JsonValueKind.String ? double.PositiveInfinity : limits[1].GetDouble();
        return (limits[0].GetDouble(), max);
    }

    private static (Tensor Y, Tensor State) Run(GoldenCase golden, Dictionary<string, Tensor> inputs, long chunkSize)
    {
        var (min, max) = Limits(golden);
        return StateSpaceDuality.Apply(
            inputs["x"], inputs["dt"], inputs["A"], inputs["B"], inputs["C"], inputs.GetValueOrDefault("D"), inputs.GetValueOrDefault("z"),
            inputs.GetValueOrDefault("dt_bias"), golden.Flag("dt_softplus")?.GetBoolean() ?? false, min, max,
            inputs.GetValueOrDefault("initial_states"), chunkSize: chunkSize);
    }
}
