using Hybrid.Backbone;
using Hybrid.Layers;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Layers;

public class NormKindTests
{
    /// <summary>A norm of the halved stream is one of the whole stream with an epsilon of 4 times as much, in evaluation mode only.</summary>
    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(3)]
    public void RescaledNormsAreThoseOfTheHalvedStreamInEvaluation(int halvings)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var norm = NormKind.LayerNorm.Create(6, 1e-2, halvings);
        using var reference = nn.LayerNorm(6, 1e-2);
        var x = Values.Normal(1, 2, 5, 6);
        TensorAssert.Close(reference.call(x), norm.call(x), 1e-6, "in training");
        norm.eval();
        TensorAssert.Close(reference.call(x / Math.Pow(2, halvings)), norm.call(x), 1e-6, "in evaluation");
    }

    [Fact]
    public void RescalingWithAnotherNormIsRefused()
    {
        var error = Assert.Throws<ArgumentException>(() => new BackboneBuilder(8).WithPattern(LayerPattern.Cycle(2, ["mamba"])).WithRescaling(1).Build());
        Assert.Contains("rescaling needs the norm LayerNorm; the blocks have Rms", error.Message, StringComparison.Ordinal);
    }
}
