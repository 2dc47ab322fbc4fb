using Hybrid.Modeling;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Modeling;

/// <summary>What a token leaves to the garbage collector, and how many tensors it makes: a few, whatever the layers.</summary>
public class DecodingGarbageTests
{
    /// <summary>The logits, and the view of the last position that they are computed from.</summary>
    private const long TensorsOfAToken = 2;

    /// <summary>Shapes of tensors as arrays, the block's dispose scope with its table, and the layer's context.</summary>
    private const long BytesOfALayer = 1000;

    [Theory]
    [InlineData("mamba", false)]
    [InlineData("mamba", true)]
    [InlineData("mamba2", false)]
    public void ALayerMakesNoTensorAndLittleGarbage(string mixer, bool feedForward)
    {
        var (shallow, deep) = (Measure(mixer, 2, feedForward), Measure(mixer, 10, feedForward));
        Assert.Equal(TensorsOfAToken, shallow.Tensors);
        Assert.Equal(TensorsOfAToken, deep.Tensors);
        Assert.InRange((deep.Bytes - shallow.Bytes) / 8, 1, BytesOfALayer);
    }

    [Fact]
    public void ATokenTakesNoMoreAfterManyOthers()
    {
        using var model = new Decoder("mamba", 3, false);
        var early = model.Measure();
        for (var token = 0; token < 200; token++)
        {
            model.Step();
        }

        Assert.Equal(early, model.Measure());
    }

    private static (long Tensors, long Bytes) Measure(string mixer, int layers, bool feedForward)
    {
        using var model = new Decoder(mixer, layers, feedForward);
        return model.Measure();
    }

    /// <summary>A small model and the state of one sequence, with the first tokens behind it.</summary>
    private sealed class Decoder : IDisposable
    {
        private readonly ThreadCount threads = new(1);
        private readonly CausalLanguageModel model;
        private readonly CompositeState state;
        private readonly MixerContext context;
        private readonly Tensor token = tensor(new long[] { 3 }).view(1, 1);

        public Decoder(string mixer, int layers, bool feedForward)
        {
            model = new CausalLanguageModel(new LanguageModelOptions
            {
                VocabSize = 11, HiddenSize = 32, NumLayers = layers, Layers = [mixer], FeedForward = feedForward ? new() : null,
            });
            model.eval();
            state = model.CreateState(1);
            context = new MixerContext { State = state };
            for (var i = 0; i < 5; i++)
            {
                Step();
            }
        }

        public void Step()
        {
            using var scope = NewDisposeScope();
            using var guard = no_grad();
            model.NextTokenLogits(token, context);
        }

        /// <summary>Tensors that a token makes, and bytes that it allocates on this thread.</summary>
        public (long Tensors, long Bytes) Measure()
        {
            var statistics = DisposeScopeManager.Statistics.TensorStatistics;
            var (tensors, bytes) = (statistics.CreatedInScopeCount, GC.GetAllocatedBytesForCurrentThread());
            Step();
            bytes = GC.GetAllocatedBytesForCurrentThread() - bytes;
            return (statistics.CreatedInScopeCount - tensors, bytes);
        }

        public void Dispose()
        {
            token.Dispose();
            state.Dispose();
            model.Dispose();
            threads.Dispose();
        }
    }
}
