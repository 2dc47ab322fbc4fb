using Hybrid.Mixers;
using Hybrid.Modeling;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

public class DualityStepTests
{
    private const int Steps = 5;

    // Five steps of sums of up to 200 products each, in float32.
    private const double Tolerance = 5e-6;

    public static TheoryData<int, long, Mamba2Options> Layers => new()
    {
        { 1, 32, new Mamba2Options { DState = 16, HeadDim = 16 } },
        { 2, 15, new Mamba2Options { DState = 5, HeadDim = 6, DConv = 3, UseConvBias = false } },
        { 3, 12, new Mamba2Options { DState = 1, HeadDim = 3, DConv = 1, ExpandFactor = 1, NGroups = 2 } },
        { 2, 48, new Mamba2Options { DState = 8, HeadDim = 8, NGroups = 3, NormGroups = 3, UseBias = true } },
        { 1, 20, new Mamba2Options { DState = 33, HeadDim = 4, NormBeforeGate = true } },
        { 9, 20, new Mamba2Options { DState = 19, HeadDim = 20, NormBeforeGate = true, NormGroups = 4 } },
        { 2, 24, new Mamba2Options { DState = 16, HeadDim = 8, UseNorm = false } },
        { 2, 24, new Mamba2Options { DState = 16, HeadDim = 8, DtLimitMin = 0.01, DtLimitMax = 0.05 } },
        { 2, 24, new Mamba2Options { DState = 16, HeadDim = 8, InputMultiplier = 2, ProjectionMultipliers = [1, 2, 0.5, 3, 0.7] } },
    };

    [Theory]
    [MemberData(nameof(Layers))]
    public void EqualsTheComposedForm(int batch, long width, Mamba2Options options)
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
        using var mixer = Mixer(64, new Mamba2Options { HeadDim = 16, DState = 20 });
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
        using var mixer = Mixer(64, new Mamba2Options { HeadDim = 16, DState = 20 });
        using var state = (Mamba2State)mixer.CreateState(2);
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
            VocabSize = 1000, HiddenSize = 32, NumLayers = layers, Layers = ["mamba2"], MaxSeqLen = 1000,
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

    private static Mamba2Mixer Mixer(long width, Mamba2Options options)
    {
        manual_seed(5);
        return new Mamba2Mixer(width, options);
    }

    private static (Tensor Y, Mamba2State State) Run(Mamba2Mixer mixer, int batch, bool referenceOnly)
    {
        using var kernels = new KernelChoice(referenceOnly);
        var x = Values.Normal(6, batch, Steps, mixer.Width);
        var state = (Mamba2State)mixer.CreateState(batch);
        var outputs = new List<Tensor>();
        for (var t = 0; t < Steps; t++)
        {
            outputs.Add(mixer.forward(x.narrow(1, t, 1), new MixerContext { State = state }));
        }

        return (cat(outputs, 1), state);
    }
}
