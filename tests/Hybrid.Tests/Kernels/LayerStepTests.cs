using Hybrid.Modeling;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

/// <summary>What holds for the fused decoding step of every layer with a window of inputs and a recurrent state.</summary>
public abstract class LayerStepTests
{
    // Five steps of sums of up to 200 products each, in float32.
    protected const double Tolerance = 5e-6;

    private const int Steps = 5;
    private const string Window = "conv";

    /// <summary>The name under which the layer is registered.</summary>
    protected abstract string Name { get; }

    /// <summary>What a token of a model may leave to the garbage collector, for each layer and once more.</summary>
    protected abstract long BytesOfALayer { get; }

    /// <summary>A layer with work for several threads.</summary>
    protected abstract SequenceMixer Wide();

    [Fact]
    public void TheNumberOfThreadsDoesNotChangeABit()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(5);
        using var mixer = Wide();
        ThreadCount.ChangesNothing(() =>
        {
            using var state = mixer.CreateState(2);
            return [Run(mixer, state, referenceOnly: false)];
        });
    }

    [Fact]
    public void NotANumberStaysInItsRow()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(5);
        using var mixer = Wide();
        using var state = mixer.CreateState(2);
        var x = Values.Normal(1, 2, 1, mixer.Width);
        x[0, 0, 7] = float.NaN;
        var y = mixer.forward(x, new MixerContext { State = state });
        var recurrent = state.NamedTensors.Single(entry => entry.Name != Window).Tensor;
        foreach (var result in new[] { y, recurrent })
        {
            Assert.True(result[0].isnan().all().ToBoolean());
            Assert.True(result[1].isfinite().all().ToBoolean());
        }
    }

    [Fact]
    public void ATokenOfAModelAllocatesAFewKilobytesALayerAndLeavesNoTensor()
    {
        const int layers = 4, tokens = 20;
        using var model = new CausalLanguageModel(new LanguageModelOptions
        {
            VocabSize = 1000, HiddenSize = 32, NumLayers = layers, Layers = [Name], MaxSeqLen = 1000,
        });
        model.eval();
        using var guard = no_grad();
        using var state = model.CreateState(1);
        using var ids = tensor(new long[] { 5 }).view(1, 1);
        var context = new MixerContext { State = state };
        Token();
        var tensors = LiveTensors.Before();
        var bytes = GC.GetAllocatedBytesForCurrentThread();
        for (var i = 0; i < tokens; i++)
        {
            Token();
        }

        var perToken = (GC.GetAllocatedBytesForCurrentThread() - bytes) / tokens;
        Assert.Equal(tensors, Tensor.TotalCount);
        Assert.InRange(perToken, 0, BytesOfALayer * (layers + 1));

        void Token()
        {
            using var scope = NewDisposeScope();
            model.NextTokenLogits(ids, context);
        }
    }

    /// <summary>Outputs and states of a few tokens by the step and by plain tensor operations.</summary>
    protected static void AssertEqualsTheComposedForm(int batch, Func<SequenceMixer> create)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(5);
        using var mixer = create();
        using var expectedState = mixer.CreateState(batch);
        using var state = mixer.CreateState(batch);
        TensorAssert.Close(Run(mixer, expectedState, referenceOnly: true), Run(mixer, state, referenceOnly: false), Tolerance, "outputs");
        foreach (var ((name, expected), (_, actual)) in expectedState.NamedTensors.Zip(state.NamedTensors).Where(pair => pair.First.Tensor.numel() > 0))
        {
            TensorAssert.Close(expected, actual, Tolerance, name);
        }

        Assert.Equal(expectedState.Positions, state.Positions);
    }

    private static Tensor Run(SequenceMixer mixer, MixerState state, bool referenceOnly)
    {
        using var kernels = new KernelChoice(referenceOnly);
        var x = Values.Normal(6, state.Positions.Count, Steps, mixer.Width);
        return cat([.. Enumerable.Range(0, Steps).Select(t => mixer.forward(x.narrow(1, t, 1), new MixerContext { State = state }))], 1);
    }
}
