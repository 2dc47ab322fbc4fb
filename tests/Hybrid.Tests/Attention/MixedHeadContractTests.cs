using Hybrid.Attention;
using Hybrid.Tests.Contracts;
using static Hybrid.Attention.HeadType;

namespace Hybrid.Tests.Attention;

public class MixedHeadContractTests : MixerContractTests
{
    public override string RegistryName => "mixed_heads";

    protected override SequenceMixer Create() => new MixedHeadAttention(
        16, new MixedHeadOptions { HeadTypes = [Standard, Spectral, Holonomy, Spectral], SpectralBins = 7, SpectralLags = 20 });
}

public class TransportedHeadContractTests : MixerContractTests
{
    public override string RegistryName => "mixed_heads";

    protected override SequenceMixer Create() => new MixedHeadAttention(
        15,
        new MixedHeadOptions
        {
            HeadTypes = [Holonomy, Standard, Spectral],
            Holonomy = HolonomyKind.Transport,
            UseDct = true,
            TokenGate = true,
            SpectralBins = 5,
            SpectralLags = 9,
        });
}

public class PathHeadContractTests : MixerContractTests
{
    public override string RegistryName => "mixed_heads";

    protected override SequenceMixer Create() => new MixedHeadAttention(
        12, new MixedHeadOptions { HeadTypes = [Holonomy, Spectral, Holonomy], Holonomy = HolonomyKind.Path, SpectralLags = 33, Residual = true });
}

public class AttendingHeadsAloneContractTests : MixerContractTests
{
    public override string RegistryName => "mixed_heads";

    protected override SequenceMixer Create() => new MixedHeadAttention(
        12, new MixedHeadOptions { HeadTypes = [Standard, Holonomy], Holonomy = HolonomyKind.Transport });
}

public class SpectralHeadsAloneContractTests : MixerContractTests
{
    public override string RegistryName => "mixed_heads";

    protected override SequenceMixer Create() => new MixedHeadAttention(
        12, new MixedHeadOptions { HeadTypes = [Spectral, Spectral], SpectralBins = 3, SpectralLags = 90, TokenGate = true });
}
