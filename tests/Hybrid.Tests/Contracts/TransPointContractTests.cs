using Hybrid.Attention;
using Hybrid.Routing;
using TorchSharp.Modules;

namespace Hybrid.Tests.Contracts;

/// <summary>The point lies inside every sequence of the suite.</summary>
public class TransPointContractTests : MixerContractTests
{
    public override string RegistryName => "trans_point";

    protected override SequenceMixer Create() =>
        new TransPointMixer(12, new TransPointOptions { TransPoint = 9, DState = 6, HeadDim = 6, ChunkSize = 16 });
}

public class EarlyTransPointContractTests : MixerContractTests
{
    public override string RegistryName => "trans_point";

    protected override SequenceMixer Create() => new TransPointMixer(
        10,
        new TransPointOptions
        {
            TransPoint = 3, DState = 7, HeadDim = 5, NGroups = 2, DConv = 3, UseRope = false, UseBias = true, UseConvBias = false, ChunkSize = 5,
            AttentionMode = AttentionMode.Online, AttentionChunkSize = 2,
        });
}

public class LateTransPointContractTests : MixerContractTests
{
    public override string RegistryName => "trans_point";

    protected override SequenceMixer Create() =>
        new TransPointMixer(12, new TransPointOptions { TransPoint = 31, DState = 4, HeadDim = 4, NGroups = 3, RopeTheta = 100 });

    /// <summary>No sequence of the gradient tests reaches the state space.</summary>
    protected override IEnumerable<(string Name, Parameter Parameter)> TrainedParameters(SequenceMixer mixer) =>
        mixer.named_parameters().Where(entry => entry.name is not ("A_log" or "D" or "dt_bias"));
}

public class StateSpaceOnlyTransPointContractTests : MixerContractTests
{
    public override string RegistryName => "trans_point";

    protected override SequenceMixer Create() =>
        new TransPointMixer(8, new TransPointOptions { TransPoint = 0, DState = 4, HeadDim = 8, ExpandFactor = 1, DConv = 1 });
}

public class TransPointAtTheFirstTokenContractTests : MixerContractTests
{
    public override string RegistryName => "trans_point";

    protected override SequenceMixer Create() =>
        new TransPointMixer(8, new TransPointOptions { TransPoint = 1, DState = 6, HeadDim = 4, NGroups = 1 });
}
