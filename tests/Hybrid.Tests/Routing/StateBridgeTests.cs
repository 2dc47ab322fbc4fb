using Hybrid.Backbone;
using Hybrid.Configuration;
using Hybrid.Modeling;
using Hybrid.Routing;
using Hybrid.Tests.Contracts;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Routing;

public class StateBridgeContractTests : MixerContractTests
{
    public override string RegistryName => "state_bridge";

    protected override SequenceMixer Create() => new StateBridge(6);
}

public class StateBridgeTests
{
    private const int Width = 8;

    [Fact]
    public void IsBetaTimesAProjectedAverage()
    {
        const int time = 70;
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(1);
        using var bridge = new StateBridge(Width);
        var (x, decay, weight) = (Values.Normal(2, 1, time, Width), Values.Of(bridge.get_parameter("decay")!), Values.Of(bridge.get_parameter("proj.weight")!));
        var (input, expected, summary) = (Values.Of(x), new double[time * Width], new double[Width]);
        for (var t = 0; t < time; t++)
        {
            for (var i = 0; i < Width; i++)
            {
                var a = Values.Sigmoid(decay[i]);
                summary[i] = (a * summary[i]) + ((1 - a) * input[(t * Width) + i]);
            }

            for (var i = 0; i < Width; i++)
            {
                expected[(t * Width) + i] = 0.1 * summary.Select((value, j) => weight[(i * Width) + j] * value).Sum();
            }
        }

        TensorAssert.Close(Values.Tensor32(expected, 1, time, Width), bridge.call(x), 1e-5, "beta W s");
    }

    [Fact]
    public void EveryChangeOfTheLayerTypeHasABridge()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var backbone = Build("mamba", "mamba", "attention", "mamba", "gru");
        Assert.Equal([null, null, "bridge", "bridge", "bridge"], backbone.Bridges.Select(bridge => bridge is null ? null : "bridge"));
        var x = Values.Normal(1, 2, 11, Width);
        var (stream, previous) = (x, x);
        for (var i = 0; i < 5; i++)
        {
            var input = backbone.Bridges[i] is { } bridge ? stream + bridge.call(stream - previous) : stream;
            (previous, stream) = (input, backbone.Blocks[i].call(input));
        }

        TensorAssert.Close(stream / (stream.square().mean([-1], keepdim: true) + 1e-5).sqrt(), backbone.call(x), 1e-6, "five layers, three bridges");
    }

    [Fact]
    public void WithoutAChangeThereIsNothingToBridge()
    {
        var error = Assert.Throws<ArgumentException>(() => Build("mamba", "mamba"));
        Assert.Contains("all 2 layers are 'mamba'", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void ABridgedStackContinuesFromEveryPrefix()
    {
        const long time = 14;
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var backbone = Build("mamba", "attention", "mamba");
        var x = Values.Normal(3, 2, time, Width);
        var whole = backbone.call(x);
        for (var prefix = 1L; prefix < time; prefix++)
        {
            using var state = backbone.CreateState(2);
            var pieces = new List<Tensor> { backbone.forward(x.narrow(1, 0, prefix), new MixerContext { State = state }) };
            using var clone = state.Clone();
            pieces.AddRange(Enumerable.Range((int)prefix, (int)(time - prefix)).Select(
                t => backbone.forward(x.narrow(1, t, 1), new MixerContext { State = clone })));
            TensorAssert.Close(whole, cat(pieces, 1), 1e-5, $"single steps from {prefix}");
        }
    }

    [Fact]
    public void PaddedAndPackedRowsEqualTheirSequencesAlone()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var backbone = Build("mamba", "attention", "mamba");
        var x = Values.Normal(4, 2, 9, Width);
        var padded = backbone.forward(x, new MixerContext { Lengths = [9, 4], PaddingSide = PaddingSide.Left });
        TensorAssert.Close(backbone.call(x.narrow(0, 1, 1).narrow(1, 5, 4)), padded.narrow(0, 1, 1).narrow(1, 5, 4), 1e-5, "padded");
        var ids = tensor(new long[] { 0, 0, 0, 1, 1, 1, 1, 1, 1 }).unsqueeze(0).repeat(2, 1);
        var packed = backbone.forward(x, new MixerContext { SequenceIds = ids });
        TensorAssert.Close(backbone.call(x.narrow(1, 3, 6)), packed.narrow(1, 3, 6), 1e-5, "packed");
    }

    [Fact]
    public void GradientsReachBetaAndTheProjectionOfEveryBridge()
    {
        using var scope = NewDisposeScope();
        using var backbone = Build("mamba", "attention", "mamba");
        backbone.call(Values.Normal(5, 2, 9, Width)).square().mean().mul(Values.Normal(6, 1)).sum().backward();
        var own = backbone.named_parameters().Where(entry => entry.name.StartsWith("state_bridge.", StringComparison.Ordinal)).ToArray();
        Assert.Equal(6, own.Length);
        Assert.All(own, entry => Assert.True(entry.parameter.grad!.abs().sum().ToDouble() > 0, entry.name));
    }

    [Fact]
    public void OneKeySwitchesTheBridgesOn()
    {
        const string toml = """
            [model]
            vocab_size = 11
            hidden_size = 8
            num_layers = 3
            layers = ["mamba", "attention", "mamba"]
            state_bridge = true
            [model.attention]
            num_heads = 2
            """;
        var config = HybridConfig.Parse(toml);
        Assert.Equal(config, HybridConfig.Parse(config.ToToml()));
        using var model = new CausalLanguageModel(config.Model!);
        using var plain = new CausalLanguageModel(config.Model! with { StateBridge = false });
        Assert.Equal(2, model.Backbone.Bridges.Count(bridge => bridge is not null));
        Assert.Equal(2 * ((8 * 8) + 8 + 1), model.CountParameters() - plain.CountParameters());
    }

    private static HybridBackbone Build(params string[] layers)
    {
        manual_seed(7);
        var builder = new BackboneBuilder(Width).WithPattern(LayerPattern.Cycle(layers.Length, layers)).WithStateBridges();
        return (layers.Contains("attention") ? builder.WithMixer("attention", new Hybrid.Attention.AttentionOptions { NumHeads = 2 }) : builder).Build();
    }
}
