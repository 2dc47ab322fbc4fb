using Hybrid.Backbone;
using Hybrid.Configuration;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Backbone;

public class ParallelMixerTests
{
    [Theory]
    [InlineData(true, 6)]
    [InlineData(false, 1)]
    public void TheGateSharesTheTokenBetweenTheBranches(bool perChannel, long gates)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var block = new ResidualBlock(
            new ParallelMixer(new ScalingMixer(6, 2), new ScalingMixer(6, -5), perChannel), new BlockOptions { NormEps = 0.01 });
        var (weight, bias) = (block.get_parameter("mixer.gate.weight")!, block.get_parameter("mixer.gate.bias")!);
        Assert.Equal([gates, 6], weight.shape);
        var x = Values.Normal(1, 2, 3, 6);
        var normed = x / (x.square().mean([-1], keepdim: true) + 0.01).sqrt();
        var gate = (normed.matmul(weight.t()) + bias).sigmoid();
        TensorAssert.Close(x + (gate * 2 * normed) + ((1 - gate) * -5 * normed), block.call(x), 1e-6, "x + g ssm + (1 - g) attention");
    }

    [Fact]
    public void TheStateIsAPairOfTheBranches()
    {
        using var mixer = new ParallelMixer(12, new ParallelMixerOptions { AttentionConfig = new() { NumHeads = 3 } });
        using var state = Assert.IsType<CompositeState>(mixer.CreateState(2));
        Assert.Equal(["0.conv", "0.ssm", "1.k", "1.v"], state.NamedTensors.Select(entry => entry.Name));
        Assert.False(state.CanTrim);
        using var other = new CompositeState(2, []);
        using var x = zeros(2, 3, 12);
        var error = Assert.Throws<ArgumentException>(() => mixer.forward(x, new MixerContext { State = other }));
        Assert.Contains("the state must have 2 parts, made by CreateState; got 0 parts", error.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => new ParallelMixer(new ScalingMixer(4, 1), new ScalingMixer(5, 1)));
    }

    [Fact]
    public void ATableStatesIt()
    {
        const string text = """
            [model]
            layers = ["parallel"]
            [model.parallel]
            gate_per_channel = false
            mamba_config = { d_state = 8 }
            attention_config = { num_heads = 2, window_size = 9 }
            """;
        Assert.Equal(
            new ParallelMixerOptions
            {
                GatePerChannel = false, MambaConfig = new() { DState = 8 }, AttentionConfig = new() { NumHeads = 2, WindowSize = 9 },
            },
            HybridConfig.Parse(text).Model!.Mixers["parallel"]);
    }
}
