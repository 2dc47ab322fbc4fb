using Hybrid.Routing;
using Hybrid.Tests.Contracts;
using static TorchSharp.torch;

namespace Hybrid.Tests.Routing;

public class WeightedParallelHybridContractTests : MixerContractTests
{
    public override string RegistryName => "parallel_hybrid";

    protected override SequenceMixer Create() => SmallParallelHybrid.Make(new ParallelHybridOptions());
}

public class ResidualParallelHybridContractTests : MixerContractTests
{
    public override string RegistryName => "parallel_hybrid";

    protected override SequenceMixer Create() => SmallParallelHybrid.Make(
        new ParallelHybridOptions { Residual = true, FusionQueries = ParallelPath.Attention, FusionConfig = new() { NumHeads = 2, WindowSize = 5 } });
}

public class AdaptiveParallelHybridContractTests : MixerContractTests
{
    public override string RegistryName => "parallel_hybrid";

    protected override bool HonoursPrefixes => false;

    protected override SequenceMixer Create() => SmallParallelHybrid.Make(
        new ParallelHybridOptions { Mode = ParallelHybridMode.Adaptive, DecisionTokens = 4 });
}

/// <summary>The rows of the batches here take different paths.</summary>
public class DivergingParallelHybridContractTests : MixerContractTests
{
    public override string RegistryName => "parallel_hybrid";

    protected override bool HonoursPrefixes => false;

    protected override SequenceMixer Create() => SmallParallelHybrid.Diverging(3);
}

public abstract class ForcedParallelHybridContractTests(ParallelPath path) : MixerContractTests
{
    public override string RegistryName => "parallel_hybrid";

    protected override bool HonoursPrefixes => false;

    protected override SequenceMixer Create()
    {
        var mixer = SmallParallelHybrid.Make(new ParallelHybridOptions { Mode = ParallelHybridMode.Adaptive, DecisionTokens = 3 });
        SmallParallelHybrid.Prefer(mixer, path);
        return mixer;
    }
}

public class MambaAloneContractTests() : ForcedParallelHybridContractTests(ParallelPath.Mamba);

public class AttentionAloneContractTests() : ForcedParallelHybridContractTests(ParallelPath.Attention);

public class FusionAloneContractTests() : ForcedParallelHybridContractTests(ParallelPath.Fusion);

/// <summary>Small layers whose gate is known.</summary>
internal static class SmallParallelHybrid
{
    public const long Width = 8;

    public static ParallelHybrid Make(ParallelHybridOptions options) => new(
        Width,
        options with
        {
            MambaConfig = new() { DState = 4, DtRank = 2 },
            AttentionConfig = new() { NumHeads = 2 },
            FusionConfig = options.FusionConfig with { NumHeads = 2 },
        });

    /// <summary>
    /// An adaptive layer whose gate goes by the variance v of the first tokens alone: logits 4 (0.75 - v), 0 and 4 (v - 1), so that
    /// normal samples come down each path. (GELU leaves numbers above 4 as they are.)
    /// </summary>
    public static ParallelHybrid Diverging(long decisionTokens)
    {
        var mixer = Make(new ParallelHybridOptions { Mode = ParallelHybridMode.Adaptive, DecisionTokens = decisionTokens });
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        Set("fc1.weight", 0, 1, 0, 0, 0, 0);
        Set("fc1.bias", 4, 0);
        Set("fc2.weight", 1, 0);
        Set("fc2.bias", 0);
        Set("fc3.weight", -4, 0, 4);
        Set("fc3.bias", 4 * 4.75f, 0, -4 * 5);
        return mixer;

        void Set(string name, params float[] values)
        {
            var parameter = mixer.get_parameter("analyser." + name)!;
            parameter.copy_(tensor(values).view(parameter.shape));
        }
    }

    /// <summary>Makes the gate prefer a path whatever the input.</summary>
    public static void Prefer(ParallelHybrid mixer, ParallelPath path)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var bias = mixer.get_parameter("analyser.fc3.bias")!;
        bias.zero_();
        bias.narrow(0, (long)path, 1).fill_(3);
    }
}
