using Hybrid.Attention;
using Hybrid.Mixers;
using Hybrid.Routing;
using TorchSharp.Modules;
using Xunit;

namespace Hybrid.Tests.Contracts;

public class MambaContractTests : MixerContractTests
{
    public override string RegistryName => "mamba";

    protected override SequenceMixer Create() => new MambaMixer(12, new MambaOptions { DState = 5, DtRank = 3 });
}

public class MambaWithInnerNormsContractTests : MixerContractTests
{
    public override string RegistryName => "mamba";

    protected override SequenceMixer Create() => new MambaMixer(
        10, new MambaOptions { UseInnerNorms = true, UseBias = true, UseConvBias = false, DConv = 3, ExpandFactor = 3, DtLimitMin = 1e-3, DtLimitMax = 0.5 });
}

public class AttentionContractTests : MixerContractTests
{
    public override string RegistryName => "attention";

    protected override SequenceMixer Create() => new MultiHeadAttention(12, new AttentionOptions { NumHeads = 3 });
}

public class GroupedQueryAttentionContractTests : MixerContractTests
{
    public override string RegistryName => "attention";

    protected override SequenceMixer Create() => new MultiHeadAttention(
        12, new AttentionOptions { NumHeads = 4, NumKeyValueHeads = 2, HeadDim = 6, QkLayernorm = true, PartialRotaryFactor = 0.7, UseBias = true });

}

public class WindowedAttentionContractTests : MixerContractTests
{
    public override string RegistryName => "attention";

    protected override SequenceMixer Create() => new MultiHeadAttention(
        12, new AttentionOptions { NumHeads = 2, NumKeyValueHeads = 1, WindowSize = 9, UseRope = false });
}

public class ShortSequencesRoutedContractTests : MixerContractTests
{
    public override string RegistryName => "hybrid_attention";

    protected override SequenceMixer Create() => new HybridAttention(
        12, new HybridAttentionOptions { DropoutRate = 0, AttentionConfig = new() { NumHeads = 3 }, LayerNormEps = 1e-6 });

    protected override IEnumerable<(string Name, Parameter Parameter)> TrainedParameters(SequenceMixer mixer) =>
        mixer.named_parameters().Where(entry => entry.name.StartsWith("attention.", StringComparison.Ordinal));
}

public class LongSequencesRoutedContractTests : MixerContractTests
{
    public override string RegistryName => "hybrid_attention";

    protected override SequenceMixer Create() => new HybridAttention(
        12, new HybridAttentionOptions { MambaThreshold = 1, ResidualBranches = false, AttentionConfig = new() { NumHeads = 3 } });

    protected override IEnumerable<(string Name, Parameter Parameter)> TrainedParameters(SequenceMixer mixer) =>
        mixer.named_parameters().Where(entry => entry.name.StartsWith("mamba.", StringComparison.Ordinal));
}

public class RegisteredMixersTests
{
    [Fact]
    public void EveryRegisteredMixerHasAContractTest()
    {
        var covered = typeof(MixerContractTests).Assembly.GetTypes()
            .Where(type => !type.IsAbstract && type.IsSubclassOf(typeof(MixerContractTests)))
            .Select(type => ((MixerContractTests)Activator.CreateInstance(type)!).RegistryName).ToHashSet();
        Assert.Empty(MixerRegistry.Names.Where(name => !name.StartsWith("test_", StringComparison.Ordinal)).Except(covered));
    }

    [Fact]
    public void AUserRegistersAMixerAsTheLibraryDoes()
    {
        MixerRegistry.Register<MambaOptions>("test_mine", (width, options) => new MambaMixer(width, options));
        using var mixer = MixerRegistry.Create("test_mine", 8, new MambaOptions { DState = 2 });
        Assert.Equal(8, mixer.Width);
        Assert.Throws<ArgumentException>(() => MixerRegistry.Register<MambaOptions>("test_mine", (width, options) => new MambaMixer(width, options)));
        Assert.Throws<ArgumentException>(() => MixerRegistry.Register<MambaOptions>("Not A Name", (width, options) => new MambaMixer(width, options)));
        var error = Assert.Throws<ArgumentException>(() => MixerRegistry.Create("mambo", 8));
        Assert.Contains("did you mean 'mamba'?", error.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => MixerRegistry.Create("mamba", 8, new AttentionOptions()));
    }
}
