using Hybrid.Layers;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Layers;

public class MixtureOfExpertsTests
{
    private const int Width = 6;
    private const int Inner = 5;

    // One layer in float32, in another order of additions than the reference.
    private const double Tolerance = 1e-5;

    public static TheoryData<string> Cases => GoldenCases.Of("moe");

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsTheReferenceImplementation(string name)
    {
        using var scope = NewDisposeScope();
        using var golden = GoldenCases.Load("moe", name);
        using var layer = Load(name, golden);
        var x = golden.Get("in.x").requires_grad_(true);

        var (y, balance) = layer.ForwardWithBalanceLoss(x);
        TensorAssert.Close(golden.Get("out.y"), y, Tolerance, $"{name} y");
        if (golden.Find("out.aux_loss") is { } expected)
        {
            TensorAssert.Close(expected, balance, Tolerance, $"{name} load-balance loss");
        }

        golden.Loss(("y", y), ("aux_loss", balance)).backward();
        TensorAssert.Close(golden.Get("grad.x"), x.grad!, Tolerance, $"{name} gradient of x");
        var gradients = golden.Names.Where(entry => entry.StartsWith("grad.param.", StringComparison.Ordinal)).ToArray();
        Assert.Equal(layer.parameters().Count(), gradients.Length);
        Assert.All(
            gradients,
            entry => TensorAssert.Close(
                golden.Get(entry), layer.get_parameter(NameHere(entry["grad.param.".Length..]))!.grad!, Tolerance, $"{name} {entry}"));
    }

    public static TheoryData<ExpertWeighting, int, int, bool> Forms => new(
        from weighting in Enum.GetValues<ExpertWeighting>()
        from tokens in new[] { 1, 2, 65 }
        from topK in new[] { 1, 3, 7 }
        from shared in new[] { false, true }
        select (weighting, tokens, topK, shared));

    [Theory]
    [MemberData(nameof(Forms))]
    public void EqualsTheFormulaTokenByToken(ExpertWeighting weighting, int tokens, int topK, bool shared)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var layer = Make(weighting, topK, shared);
        var x = Values.Normal(5, 1, tokens, Width).to_type(ScalarType.Float64);
        var (y, balance) = layer.ForwardWithBalanceLoss(x);
        var (expected, expectedBalance) = NaiveExperts.Run(layer, x[0], weighting, topK);
        TensorAssert.Close(expected, y[0], 1e-12, "output");
        Assert.Equal(expectedBalance, balance.ToDouble(), 1e-12);
        TensorAssert.Identical(y, layer.call(x), "without the loss");
    }

    [Theory]
    [InlineData(ExpertWeighting.SoftmaxThenTopk)]
    [InlineData(ExpertWeighting.SoftmaxTopkRenormalised)]
    [InlineData(ExpertWeighting.TopkThenSoftmax)]
    [InlineData(ExpertWeighting.SigmoidTopkRenormalised)]
    public void GradientsEqualFiniteDifferences(ExpertWeighting weighting)
    {
        using var layer = Make(weighting, 2, shared: true);
        FiniteDifferences.Check(
            inputs =>
            {
                var (y, balance) = layer.ForwardWithBalanceLoss(inputs[0]);
                return [y, balance];
            },
            [Values.Normal(5, 3, 3, Width).to_type(ScalarType.Float64)]);
    }

    [Fact]
    public void TheBiasAndTheGroupsChooseAndTheScoresWeigh()
    {
        // One-hot tokens read single columns of the router: s = sigmoid of those, and an expert e answers with the constant 10^e.
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var layer = new MixtureOfExperts(1, new MixtureOfExpertsOptions
        {
            NumExperts = 6, TopK = 2, IntermediateSize = 1, ExpertKind = FeedForwardKind.SquaredRelu, RoutedScale = 2,
            Weighting = ExpertWeighting.SigmoidTopkRenormalised, NumGroups = 3, TopGroups = 1,
        });
        double[] scores = [0.9, 0.1, 0.6, 0.5, 0.2, 0.3];
        layer.get_parameter("router.weight")!.copy_(tensor(scores.Select(s => Math.Log(s / (1 - s))).ToArray()).view(6, 1));
        layer.get_parameter("experts.up_proj")!.fill_(1);
        layer.get_parameter("experts.down_proj")!.copy_(tensor(new double[] { 1, 10, 100, 1000, 10000, 100000 }).view(6, 1, 1));
        var bias = layer.get_buffer("e_score_correction_bias")!;

        // Group 1 has the largest sum of two, 1.1, though expert 0 has the largest score.
        Expect(2 * ((0.6 * 100) + (0.5 * 1000)) / 1.1);

        // The bias moves the choice to group 2; the weights stay those of the scores.
        bias[4].fill_(0.8);
        Expect(2 * ((0.2 * 10000) + (0.3 * 100000)) / 0.5);

        // Scores below zero with their bias are still chosen inside the best group, before any of another group.
        bias.fill_(-5);
        Expect(2 * ((0.6 * 100) + (0.5 * 1000)) / 1.1);

        void Expect(double value) => Assert.Equal(1, layer.call(ones(1, 1)).ToDouble() / value, 1e-5);
    }

    [Fact]
    public void ExpertsThatNobodyChoosesDoNotCompute()
    {
        using var scope = NewDisposeScope();
        using var layer = Make(ExpertWeighting.SoftmaxThenTopk, 2, shared: false);
        using (no_grad())
        {
            // Positive inputs choose the experts of large positive router rows: 1 and 4.
            layer.get_parameter("router.weight")!.copy_(
                tensor(new double[] { -1, 9, -2, -3, 8, -4, -5 }).unsqueeze(1).expand(7, Width));
            foreach (var idle in new[] { 0, 2, 3, 5, 6 })
            {
                layer.get_parameter("experts.gate_up_proj")![idle].fill_(double.NaN);
                layer.get_parameter("experts.down_proj")![idle].fill_(double.NaN);
            }
        }

        var y = layer.call(ones(2, 3, Width, dtype: ScalarType.Float64));
        Assert.True(y.isfinite().all().ToBoolean());
        y.sum().backward();
        var gradient = layer.get_parameter("experts.down_proj")!.grad!;
        var used = gradient.abs().amax([1L, 2L]).gt(0).data<bool>().ToArray();
        Assert.Equal([false, true, false, false, true, false, false], used);
    }

    [Fact]
    public void TheLoadBalanceLossIsTheNumberOfChoicesWhereTheRouterIsEven()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var layer = Make(ExpertWeighting.SoftmaxThenTopk, 3, shared: false);
        var router = layer.get_parameter("router.weight")!;
        var x = ones(1, 4, Width, dtype: ScalarType.Float64);
        router.zero_();
        Assert.Equal(3, layer.ForwardWithBalanceLoss(x).BalanceLoss.ToDouble(), 1e-12);

        // All tokens surely choose expert 2: load 1 and probability 1 there, and E = 7; the other two choices have no probability.
        router[2].fill_(100);
        Assert.Equal(7, layer.ForwardWithBalanceLoss(x).BalanceLoss.ToDouble(), 1e-12);
    }

    [Fact]
    public void TokensDoNotReachEachOther()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var layer = Make(ExpertWeighting.TopkThenSoftmax, 2, shared: true);
        var x = Values.Normal(5, 2, 9, Width).to_type(ScalarType.Float64);
        var other = x.clone();
        other.narrow(1, 6, 3).fill_(50);
        TensorAssert.Close(layer.call(x).narrow(1, 0, 6), layer.call(other).narrow(1, 0, 6), 1e-14, "the other tokens");
    }

    [Fact]
    public void OneLayerServesSeveralThreads()
    {
        using var layer = Make(ExpertWeighting.SoftmaxThenTopk, 2, shared: true);
        var inputs = Enumerable.Range(0, 8).Select(i => Values.Normal((ulong)i, 1, 5 + i, Width).to_type(ScalarType.Float64)).ToArray();
        var alone = Array.ConvertAll(inputs, Run);
        var together = new double[inputs.Length][];
        Parallel.For(0, inputs.Length, i => together[i] = Run(inputs[i]));
        Assert.Equal(alone, together);

        double[] Run(Tensor x)
        {
            using var scope = NewDisposeScope();
            using var guard = no_grad();
            var (y, balance) = layer.ForwardWithBalanceLoss(x);
            return [.. Values.Of(y), balance.ToDouble()];
        }
    }

    [Fact]
    public void NothingIsLeftBehind()
    {
        using var guard = no_grad();
        using var layer = Make(ExpertWeighting.SoftmaxTopkRenormalised, 2, shared: true);
        using var x = zeros(1, 3, Width, dtype: ScalarType.Float64);
        var before = LiveTensors.Before();
        layer.call(x).Dispose();
        var (y, balance) = layer.ForwardWithBalanceLoss(x);
        Assert.Equal(before + 2, Tensor.TotalCount);
        y.Dispose();
        balance.Dispose();
    }

    [Fact]
    public void HalfPrecisionRoutesInSingle()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var layer = Make(ExpertWeighting.SoftmaxThenTopk, 2, shared: true);
        var x = Values.Normal(5, 2, 4, Width);
        layer.to(ScalarType.BFloat16);
        var (y, balance) = layer.ForwardWithBalanceLoss(x.to_type(ScalarType.BFloat16));
        Assert.Equal((ScalarType.BFloat16, ScalarType.Float32), (y.dtype, balance.dtype));

        // The same weights and inputs, computed in single; three roundings to 8 bits a branch.
        layer.to(ScalarType.Float32);
        TensorAssert.Close(layer.call(x.to_type(ScalarType.BFloat16).to_type(ScalarType.Float32)), y.to_type(ScalarType.Float32), 0.02, "bfloat16");
    }

    [Fact]
    public void WeightsStartLikeThoseOfLinearLayers()
    {
        manual_seed(3);
        using var scope = NewDisposeScope();
        using var layer = new MixtureOfExperts(16, new MixtureOfExpertsOptions { SharedExpertIntermediateSize = 9 });
        Assert.Equal(
            [
                "experts.down_proj", "experts.gate_up_proj", "router.weight", "shared_expert.down_proj.weight", "shared_expert.gate_proj.weight",
                "shared_expert.up_proj.weight", "shared_expert_gate.weight",
            ],
            layer.state_dict().Keys.Order(StringComparer.Ordinal));
        Assert.Equal([8, 96, 16], layer.get_parameter("experts.gate_up_proj")!.shape);   // 8/3 of 16 is 42.7, so 48
        Assert.Equal([8, 16, 48], layer.get_parameter("experts.down_proj")!.shape);
        Within("experts.gate_up_proj", 1 / Math.Sqrt(16));
        Within("experts.down_proj", 1 / Math.Sqrt(48));

        void Within(string name, double bound)
        {
            var values = Values.Of(layer.get_parameter(name)!);
            Assert.InRange(values.Max(), 0.99 * bound, bound);
            Assert.InRange(values.Min(), -bound, -0.99 * bound);
        }
    }

    [Theory]
    [InlineData("[2, 3, 5]", new long[] { 2, 3, 5 })]
    [InlineData("[2, 0, 6]", new long[] { 2, 0, 6 })]
    public void InputsOfAnotherShapeAreRefused(string shape, long[] sizes)
    {
        using var layer = new MixtureOfExperts(Width);
        using var x = zeros(sizes);
        var error = Assert.Throws<ArgumentException>(() => layer.call(x));
        Assert.StartsWith($"MixtureOfExperts: the input must be [..., 6] with at least one token; got {shape}.", error.Message, StringComparison.Ordinal);
    }

    /// <summary>Seven experts in float64.</summary>
    private static MixtureOfExperts Make(ExpertWeighting weighting, int topK, bool shared)
    {
        manual_seed(3);
        var layer = new MixtureOfExperts(Width, new MixtureOfExpertsOptions
        {
            NumExperts = 7, TopK = topK, IntermediateSize = Inner, Weighting = weighting, SharedExpertIntermediateSize = shared ? 4 : null,
        });
        layer.to(ScalarType.Float64);
        if (layer.get_buffer("e_score_correction_bias") is { } bias)
        {
            bias.copy_(Values.Normal(4, 7) * 0.2);
        }

        return layer;
    }

    private static MixtureOfExperts Load(string name, GoldenCase golden)
    {
        var nemotron = name.StartsWith("nemotron", StringComparison.Ordinal);
        var weights = golden.Names.Where(entry => entry.StartsWith("in.", StringComparison.Ordinal) && entry != "in.x")
            .ToDictionary(entry => NameHere(entry.Split('.', 3)[2]), golden.Get);
        var layer = new MixtureOfExperts(golden.Get("in.x").size(-1), new MixtureOfExpertsOptions
        {
            NumExperts = golden.Flag("experts")!.Value.GetInt64(),
            TopK = golden.Flag("top_k")!.Value.GetInt32(),
            IntermediateSize = weights["experts.down_proj"].size(2),
            ExpertKind = nemotron ? FeedForwardKind.SquaredRelu : FeedForwardKind.Swiglu,
            SharedExpertIntermediateSize = weights.GetValueOrDefault("shared_expert.up_proj.weight")?.size(0),
            UseSharedExpertGate = !nemotron,
            NumGroups = golden.Flag("groups")?.GetInt32() ?? 1,
            TopGroups = golden.Flag("top_groups")?.GetInt32() ?? 1,
            RoutedScale = golden.Flag("scale")?.GetDouble() ?? 1,
            Weighting = name.Split('_')[0] switch
            {
                "jamba" => ExpertWeighting.SoftmaxThenTopk,
                "qwen3" => ExpertWeighting.SoftmaxTopkRenormalised,
                "granite" => ExpertWeighting.TopkThenSoftmax,
                "nemotron" => ExpertWeighting.SigmoidTopkRenormalised,
                _ => throw new InvalidOperationException($"no form of the router is known for '{name}'"),
            },
        });
        var (missing, unexpected) = layer.load_state_dict(weights);
        Assert.Empty(missing);
        Assert.Empty(unexpected);
        return layer;
    }

    /// <summary>Jamba's names are the layer's own; the others have their own for some.</summary>
    private static string NameHere(string name) => name switch
    {
        "gate.weight" or "router.layer.weight" => "router.weight",
        "input_linear.weight" => "experts.gate_up_proj",
        "output_linear.weight" => "experts.down_proj",
        "gate.e_score_correction_bias" => "e_score_correction_bias",
        _ => name.Replace("shared_experts.", "shared_expert.", StringComparison.Ordinal),
    };
}
