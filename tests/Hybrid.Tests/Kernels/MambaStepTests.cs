using Hybrid.Layers;
using Hybrid.Mixers;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

public class MambaStepTests : LayerStepTests
{
    public static TheoryData<int, long, MambaOptions> Layers => new()
    {
        { 1, 8, new MambaOptions() },
        { 1, 100, new MambaOptions { DState = 16 } },
        { 2, 65, new MambaOptions { DState = 5, DConv = 3 } },
        { 3, 9, new MambaOptions { DState = 1, DConv = 1, ExpandFactor = 1 } },
        { 2, 16, new MambaOptions { DState = 8, DConv = 2, UseConvBias = false, UseBias = true } },
        { 9, 24, new MambaOptions { DState = 12, DtRank = 3, ExpandFactor = 3 } },
        { 1, 24, new MambaOptions { DState = 33, DtRank = 20, Activation = Activation.Identity } },
        { 2, 24, new MambaOptions { DState = 16, DtLimitMin = 0.01, DtLimitMax = 0.05 } },
        { 2, 24, new MambaOptions { DState = 16, DtLimitMax = 0.02 } },
        { 2, 24, new MambaOptions { UseInnerNorms = true } },
        { 1, 40, new MambaOptions { DState = 5, UseInnerNorms = true, UseInnerNormWeights = false, InnerNormEps = 0.1 } },
    };

    protected override string Name => "mamba";

    protected override long BytesOfALayer => 5000;

    [Theory]
    [MemberData(nameof(Layers))]
    public void EqualsTheComposedForm(int batch, long width, MambaOptions options) =>
        AssertEqualsTheComposedForm(batch, () => new MambaMixer(width, options));

    [Fact]
    public void StatesOfOtherRowsAndCopiesGoOnFromWhereTheyAre()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(5);
        using var mixer = new MambaMixer(20, new MambaOptions());
        var x = Values.Normal(4, 3, 6, 20);
        using var state = mixer.CreateState(3);
        mixer.forward(x.narrow(1, 0, 4), new MixerContext { State = state });
        using var copy = state.Clone();
        using var swapped = state.Select([2, 0]);
        var y = mixer.forward(x.narrow(1, 4, 1), new MixerContext { State = state });
        TensorAssert.Identical(y, mixer.forward(x.narrow(1, 4, 1), new MixerContext { State = copy }), "copy");
        var other = mixer.forward(x.narrow(1, 4, 1).index_select(0, tensor(new long[] { 2, 0 })), new MixerContext { State = swapped });
        TensorAssert.Close(y[2], other[0], Tolerance, "row 2");
        TensorAssert.Close(mixer.call(x.narrow(1, 0, 5)).narrow(1, 4, 1), y, Tolerance, "without a state");
    }

    protected override SequenceMixer Wide() => new MambaMixer(200, new MambaOptions());
}
