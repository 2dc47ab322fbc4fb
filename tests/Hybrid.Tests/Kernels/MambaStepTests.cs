using Hybrid.Layers;
using Hybrid.Mixers;
using Hybrid.Modeling;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

public class MambaStepTests
{
    private const int Steps = 5;

    // Five steps of sums of up to 200 products each, in float32.
    private const double Tolerance = 5e-6;

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
    };

    [Theory]
    [MemberData(nameof(Layers))]
    public void EqualsTheComposedForm(int batch, long width, MambaOptions options)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = Mixer(width, options);
        var (expected, expectedState) = Run(mixer, batch, referenceOnly: true);
        var (actual, state) = Run(mixer, batch, referenceOnly: false);
        using (expectedState)
        using (state)
        {
            TensorAssert.Close(expected, actual, Tolerance, "outputs");
            TensorAssert.Close(expectedState.Recurrent, state.Recurrent, Tolerance, "recurrent state");
            if (options.DConv > 1)
            {
                TensorAssert.Close(expectedState.Convolution, state.Convolution, Tolerance, "window");
            }

            Assert.Equal(expectedState.Positions, state.Positions);
        }
    }

    [Fact]
    public void TheNumberOfThreadsDoesNotChangeABit()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = Mixer(200, new MambaOptions());
        Tensor RunOn(int threads)
        {
            using var count = new ThreadCount(threads);
            var (y, state) = Run(mixer, 2, referenceOnly: false);
            state.Dispose();
            return y;
        }

        var alone = RunOn(1);
        TensorAssert.Identical(alone, RunOn(2), "two threads");
        TensorAssert.Identical(alone, RunOn(3), "three threads");
    }

    [Fact]
    public void NotANumberStaysInItsRow()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = Mixer(20, new MambaOptions { DState = 6 });
        using var state = (MambaState)mixer.CreateState(2);
        var x = Values.Normal(1, 2, 1, 20);
        x[0, 0, 7] = float.NaN;
        var y = mixer.forward(x, new MixerContext { State = state });
        Assert.True(y[0].isnan().all().ToBoolean());
        Assert.True(y[1].isfinite().all().ToBoolean());
        Assert.True(state.Recurrent[0].isnan().all().ToBoolean());
        Assert.True(state.Recurrent[1].isfinite().all().ToBoolean());
    }

    [Fact]
    public void StatesOfOtherRowsAndCopiesGoOnFromWhereTheyAre()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = Mixer(20, new MambaOptions());
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

    [Fact]
    public void ATokenOfAModelAllocatesAFewKilobytesALayerAndLeavesNoTensor()
    {
        const int layers = 4;
        using var model = new CausalLanguageModel(new LanguageModelOptions
        {
            VocabSize = 1000, HiddenSize = 32, NumLayers = layers, Layers = ["mamba"], MaxSeqLen = 1000,
        });
        model.eval();
        using var guard = no_grad();
        using var state = model.CreateState(1);
        using var ids = tensor(new long[] { 5 }).view(1, 1);
        var context = new MixerContext { State = state };
        Token();
        var tensors = LiveTensors.Before();
        var bytes = GC.GetAllocatedBytesForCurrentThread();
        const int tokens = 20;
        for (var i = 0; i < tokens; i++)
        {
            Token();
        }

        var perToken = (GC.GetAllocatedBytesForCurrentThread() - bytes) / tokens;
        Assert.Equal(tensors, Tensor.TotalCount);
        Assert.InRange(perToken, 0, 5000 * (layers + 1));

        void Token()
        {
            using var scope = NewDisposeScope();
            model.NextTokenLogits(ids, context);
        }
    }

    private static MambaMixer Mixer(long width, MambaOptions options)
    {
        manual_seed(5);
        return new MambaMixer(width, options);
    }

    private static (Tensor Y, MambaState State) Run(MambaMixer mixer, int batch, bool referenceOnly)
    {
        using var kernels = new KernelChoice(referenceOnly);
        var x = Values.Normal(6, batch, Steps, mixer.Width);
        var state = (MambaState)mixer.CreateState(batch);
        var outputs = new List<Tensor>();
        for (var t = 0; t < Steps; t++)
        {
            outputs.Add(mixer.forward(x.narrow(1, t, 1), new MixerContext { State = state }));
        }

        return (cat(outputs, 1), state);
    }
}
