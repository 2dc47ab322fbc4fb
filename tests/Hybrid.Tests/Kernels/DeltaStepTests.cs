using Hybrid.Mixers;
using Hybrid.Modeling;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

public class DeltaStepTests
{
    private const int Steps = 5;

    // Five steps of sums of up to 200 products each, in float32.
    private const double Tolerance = 5e-6;

    public static TheoryData<int, long, GatedDeltaNetOptions> Layers => new()
    {
        { 1, 32, new GatedDeltaNetOptions() },
        { 2, 15, new GatedDeltaNetOptions { NumKeyHeads = 3, DConv = 3 } },
        { 3, 12, new GatedDeltaNetOptions { NumKeyHeads = 1, DConv = 1, KeyHeadDim = 5, ValueHeadDim = 7 } },
        { 2, 24, new GatedDeltaNetOptions { NumKeyHeads = 2, NumValueHeads = 6, KeyHeadDim = 9, ValueHeadDim = 16 } },
        { 9, 20, new GatedDeltaNetOptions { NumKeyHeads = 2, NumValueHeads = 4, KeyHeadDim = 3, ValueHeadDim = 33 } },
        { 1, 24, new GatedDeltaNetOptions { NumKeyHeads = 1, KeyHeadDim = 2, ValueHeadDim = 300 } },
    };

    [Theory]
    [MemberData(nameof(Layers))]
    public void EqualsTheComposedForm(int batch, long width, GatedDeltaNetOptions options)
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
        using var mixer = Mixer(64, new GatedDeltaNetOptions { NumValueHeads = 8 });
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
        using var mixer = Mixer(64, new GatedDeltaNetOptions { NumValueHeads = 8 });
        using var state = (GatedDeltaNetState)mixer.CreateState(2);
        var x = Values.Normal(1, 2, 1, 64);
        x[0, 0, 7] = float.NaN;
        var y = mixer.forward(x, new MixerContext { State = state });
        Assert.True(y[0].isnan().all().ToBoolean());
        Assert.True(y[1].isfinite().all().ToBoolean());
        Assert.True(state.Recurrent[0].isnan().all().ToBoolean());
        Assert.True(state.Recurrent[1].isfinite().all().ToBoolean());
    }

    [Fact]
    public void ATokenOfAModelAllocatesAFewKilobytesALayerAndLeavesNoTensor()
    {
        const int layers = 4;
        using var model = new CausalLanguageModel(new LanguageModelOptions
        {
            VocabSize = 1000, HiddenSize = 32, NumLayers = layers, Layers = ["gated_delta_net"], MaxSeqLen = 1000,
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
        Assert.InRange(perToken, 0, 6000 * (layers + 1));

        void Token()
        {
            using var scope = NewDisposeScope();
            model.NextTokenLogits(ids, context);
        }
    }

    private static GatedDeltaNetMixer Mixer(long width, GatedDeltaNetOptions options)
    {
        manual_seed(5);
        return new GatedDeltaNetMixer(width, options);
    }

    private static (Tensor Y, GatedDeltaNetState State) Run(GatedDeltaNetMixer mixer, int batch, bool referenceOnly)
    {
        using var kernels = new KernelChoice(referenceOnly);
        var x = Values.Normal(6, batch, Steps, mixer.Width);
        var state = (GatedDeltaNetState)mixer.CreateState(batch);
        var outputs = new List<Tensor>();
        for (var t = 0; t < Steps; t++)
        {
            outputs.Add(mixer.forward(x.narrow(1, t, 1), new MixerContext { State = state }));
        }

        return (cat(outputs, 1), state);
    }
}
