using Hybrid.Backbone;
using Hybrid.Configuration;
using Hybrid.Kernels;
using Hybrid.Mixers;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Mixers;

public class RwkvMixerTests
{
    // The cases were computed in float64 by another implementation, over 23 steps.
    private const double Tolerance = 1e-5;

    public static TheoryData<string> TimeMixCases => GoldenCases.Of("rwkv4_time_mix");

    public static TheoryData<string> ChannelMixCases => GoldenCases.Of("rwkv4_channel_mix");

    [Theory]
    [MemberData(nameof(TimeMixCases))]
    public void TheTimeMixEqualsTheReferenceImplementation(string name)
    {
        using var golden = GoldenCases.Load("rwkv4_time_mix", name);
        using var scope = NewDisposeScope();
        var inner = golden.Get("in.param.key.weight").size(0);
        using var mixer = new RwkvMixer(golden.Get("in.x").size(2), new RwkvOptions { Form = WkvForm.Rwkv4, AttentionHiddenSize = inner });
        Compare(mixer, golden, name);
    }

    [Theory]
    [MemberData(nameof(ChannelMixCases))]
    public void TheChannelMixEqualsTheReferenceImplementation(string name)
    {
        using var golden = GoldenCases.Load("rwkv4_channel_mix", name);
        using var scope = NewDisposeScope();
        var inner = golden.Get("in.param.key.weight").size(0);
        using var mixer = new RwkvChannelMixer(golden.Get("in.x").size(2), new RwkvChannelOptions { IntermediateSize = inner });
        Compare(mixer, golden, name);
    }

    [Fact]
    public void TheDataDependentFormEqualsItsFormulas()
    {
        const int time = 19;
        const int width = 5;
        const int inner = 3;
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(5);
        using var mixer = new RwkvMixer(width, new RwkvOptions { AttentionHiddenSize = inner });
        var weights = mixer.named_parameters().ToDictionary(entry => entry.name, entry => Values.Of(entry.parameter));
        var x = Values.Normal(6, 1, time, width);
        var tokens = Values.Of(x).Chunk(width).ToArray();
        var expected = new List<double>();
        var (n, d) = (new double[inner], new double[inner]);
        for (var t = 0; t < time; t++)
        {
            var before = t == 0 ? new double[width] : tokens[t - 1];
            var (r, k, v, w) = (Project("receptance"), Project("key"), Project("value"), Project("decay"));
            var gated = new double[inner];
            for (var e = 0; e < inner; e++)
            {
                var keep = 1 / (1 + Math.Exp(w[e] + weights["time_decay"][e]));
                n[e] = (keep * n[e]) + (Math.Exp(k[e]) * v[e]);
                d[e] = (keep * d[e]) + Math.Exp(k[e]);
                var extra = (Math.Exp(weights["time_first"][e]) - 1) * Math.Exp(k[e]);
                gated[e] = Values.Sigmoid(r[e]) * (n[e] + (extra * v[e])) / (d[e] + extra + 1e-6);
            }

            expected.AddRange(Multiply(weights["output.weight"], gated));

            double[] Project(string name)
            {
                var share = weights["time_mix_" + name];
                return Multiply(
                    weights[name + ".weight"], [.. tokens[t].Select((value, i) => (value * share[i]) + (before[i] * (1 - share[i])))]);
            }
        }

        TensorAssert.Close(Values.Tensor32([.. expected], 1, time, width), mixer.call(x), Tolerance, "y");
    }

    [Fact]
    public void AMeanOfEqualTokensIsTheirValueHoweverManyThereAre()
    {
        // Only the first token differs, because nothing is before it; the slowest decay, about e^-5, has forgotten it by the end.
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(7);
        using var mixer = new RwkvMixer(8);
        var x = Values.Normal(8, 1, 1, 8);
        var (r, v) = (x.matmul(Weight("receptance")).sigmoid(), x.matmul(Weight("value")));
        var y = mixer.call(x.expand(1, 2000, 8).contiguous());
        TensorAssert.Close((r * v).matmul(Weight("output")), y.narrow(1, 1999, 1), Tolerance, "the last token");

        Tensor Weight(string name) => mixer.get_parameter(name + ".weight")!.t();
    }

    [Fact]
    public void TheStateHoldsTheLastTokenAndTheSumsInFloat32()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = new RwkvMixer(4, new RwkvOptions { AttentionHiddenSize = 6 });
        mixer.to(ScalarType.BFloat16);
        using var state = (RwkvState)mixer.CreateState(2);
        Assert.Equal(2 * (4 + (3 * 6)) * sizeof(float), state.ByteSize);
        Assert.Equal(["shift", "num", "den", "max"], state.NamedTensors.Select(entry => entry.Name));
        var x = Values.Normal(9, 2, 5, 4).to_type(ScalarType.BFloat16);
        mixer.forward(x, new MixerContext { State = state });
        Assert.All(state.NamedTensors, entry => Assert.Equal(ScalarType.Float32, entry.Tensor.dtype));
        TensorAssert.Identical(x.select(1, 4).to_type(ScalarType.Float32), state.LastToken, "the last token");
    }

    [Theory]
    [InlineData(WkvForm.Rwkv4, "time_decay time_first time_mix_key time_mix_receptance time_mix_value")]
    [InlineData(WkvForm.DataDependent, "time_decay time_first time_mix_decay time_mix_key time_mix_receptance time_mix_value")]
    public void VectorsOverChannelsHaveNoWeightDecay(WkvForm form, string expected)
    {
        using var mixer = new RwkvMixer(8, new RwkvOptions { Form = form });
        Assert.Equal(expected.Split(' '), NamesWithoutDecay(mixer));
        Assert.Same(mixer.get_parameter("output.weight"), Assert.Single(mixer.ResidualOutputWeights));
        using var channels = new RwkvChannelMixer(8);
        Assert.Equal(["time_mix_key", "time_mix_receptance"], NamesWithoutDecay(channels));
        Assert.Same(channels.get_parameter("value.weight"), Assert.Single(channels.ResidualOutputWeights));
    }

    [Fact]
    public void BothFormsStartWithTheSameDecays()
    {
        using var scope = NewDisposeScope();
        using var rwkv4 = new RwkvMixer(9, new RwkvOptions { Form = WkvForm.Rwkv4 });
        using var dataDependent = new RwkvMixer(9);
        var rates = rwkv4.get_parameter("time_decay")!.exp();
        Assert.Equal(Math.Exp(-5), rates[0].item<float>(), 1e-6);
        Assert.Equal(Math.Exp(3), rates[8].item<float>(), 1e-4);
        TensorAssert.Close(rates, dataDependent.get_parameter("time_decay")!.softplus(), 1e-6, "rates");
    }

    [Fact]
    public void ALayerOfRwkv4IsATimeMixAndAChannelMix()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(10);
        using var backbone = new BackboneBuilder(8)
            .WithPattern(LayerPattern.Cycle(4, ["rwkv", "rwkv_channel_mix"]))
            .WithMixer("rwkv", new RwkvOptions { Form = WkvForm.Rwkv4 })
            .Build();
        var x = Values.Normal(11, 2, 9, 8);
        using var state = backbone.CreateState(2);
        var steps = x.split(1, 1).Select(step => backbone.forward(step, new MixerContext { State = state })).ToArray();
        TensorAssert.Close(backbone.forward(x, MixerContext.None), cat(steps, 1), Tolerance, "in single steps");
    }

    [Fact]
    public void TomlNamesTheForm()
    {
        var modules = HybridConfig.Parse(
            """
            [modules]
            active = ["rwkv", "rwkv_channel_mix"]
            [modules.rwkv]
            form = "rwkv4"
            attention_hidden_size = "auto"
            [modules.rwkv_channel_mix]
            intermediate_size = 24
            """).Modules!;
        Assert.Equal(
            [
                new StackedModule("rwkv", new RwkvOptions { Form = WkvForm.Rwkv4 }),
                new StackedModule("rwkv_channel_mix", new RwkvChannelOptions { IntermediateSize = 24 }),
            ],
            modules.Active);
    }

    [Fact]
    public void SizesBelowOneAreRefused()
    {
        var error = Assert.Throws<ArgumentOutOfRangeException>(() => new RwkvMixer(8, new RwkvOptions { AttentionHiddenSize = 0 }));
        Assert.StartsWith("RwkvOptions.AttentionHiddenSize must be at least 1; got 0.", error.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => new RwkvChannelMixer(8, new RwkvChannelOptions { IntermediateSize = 0 }));
    }

    private static void Compare(SequenceMixer mixer, GoldenCase golden, string name)
    {
        const string prefix = "in.param.";
        var weights = golden.Names.Where(key => key.StartsWith(prefix, StringComparison.Ordinal))
            .ToDictionary(key => key[prefix.Length..], golden.Get);
        var (missing, unexpected) = mixer.load_state_dict(weights);
        Assert.Empty(missing);
        Assert.Empty(unexpected);

        var x = golden.Get("in.x").requires_grad_(true);
        var y = mixer.call(x);
        TensorAssert.Close(golden.Get("out.y"), y, Tolerance, $"{name} y");
        golden.Loss(("y", y)).backward();
        TensorAssert.Close(golden.Get("grad.x"), x.grad!, Tolerance, $"{name} gradient of x");
        Assert.All(
            mixer.named_parameters(),
            entry => TensorAssert.Close(golden.Get("grad.param." + entry.name), entry.parameter.grad!, Tolerance, $"{name} gradient of {entry.name}"));

        using var guard = no_grad();
        using var state = mixer.CreateState(x.size(0));
        var steps = x.split(1, 1).Select(step => mixer.forward(step, new MixerContext { State = state })).ToArray();
        TensorAssert.Close(golden.Get("out.y"), cat(steps, 1), Tolerance, $"{name} in single steps");
    }

    private static IEnumerable<string> NamesWithoutDecay(SequenceMixer mixer) => mixer.named_parameters()
        .Where(entry => mixer.ParametersWithoutWeightDecay.Any(parameter => ReferenceEquals(parameter, entry.parameter)))
        .Select(entry => entry.name).Order(StringComparer.Ordinal);

    /// <summary>A row-major matrix times a vector.</summary>
    private static double[] Multiply(double[] matrix, double[] vector) =>
        [.. matrix.Chunk(vector.Length).Select(row => row.Zip(vector, (a, b) => a * b).Sum())];
}
