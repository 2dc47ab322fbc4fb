using Hybrid.Kernels;
using Hybrid.Layers;
using Hybrid.Modeling;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

public class StepBuffersTests
{
    [Fact]
    public void AStepFindsTheTensorsOfTheOneBefore()
    {
        using var scope = NewDisposeScope();
        using var buffers = new StepBuffers();
        var like = zeros(1);
        buffers.Begin();
        var first = buffers.Take(like, 2, 3);
        var second = buffers.Take(like, 2, 3);
        Assert.NotSame(first, second);
        var loose = buffers.Adopt(zeros(4));

        buffers.Begin();
        Assert.True(loose.IsInvalid);
        Assert.Same(first, buffers.Take(like, 2, 3));
        var other = buffers.Take(like.to_type(ScalarType.BFloat16), 2, 3);
        Assert.Equal(ScalarType.BFloat16, other.dtype);
        Assert.True(second.IsInvalid);
        Assert.Equal([5], buffers.Take(like, 5).shape);
    }

    [Fact]
    public void ALayerByItselfGivesUpItsResultOnly()
    {
        using var scope = NewDisposeScope();
        var like = zeros(1);
        Tensor taken, result;
        using (var lease = StepBuffers.For(MixerContext.None))
        {
            taken = lease.Buffers.Take(like, 3);
            result = lease.Result(lease.Buffers.Take(taken, 4));
        }

        Assert.True(taken.IsInvalid);
        Assert.False(result.IsInvalid);
        Assert.True(scope.Contains(result));
    }

    /// <summary>Few rows go through the kernels for them, more through matrix products, whose results the buffers adopt.</summary>
    [Theory]
    [InlineData(1, true, null)]
    [InlineData(3, false, FeedForwardKind.Swiglu)]
    [InlineData(9, true, FeedForwardKind.Gelu)]
    [InlineData(1, true, FeedForwardKind.GegluTanh)]
    [InlineData(2, true, FeedForwardKind.SquaredRelu)]
    public void AModelDecodesAsWithoutThem(int batch, bool tied, FeedForwardKind? feedForward)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var model = Model(3, tied, feedForward);
        using var state = model.CreateState(batch);
        using var expected = model.CreateState(batch);
        for (var t = 0; t < 4; t++)
        {
            var ids = randint(0, 50, [batch, 1], dtype: ScalarType.Int64);
            var logits = model.NextTokenLogits(ids, new MixerContext { State = state });
            using var kernels = new KernelChoice(referenceOnly: true);
            TensorAssert.Close(model.NextTokenLogits(ids, new MixerContext { State = expected }), logits, 1e-5, $"token {t}");
        }
    }

    /// <summary>Copies of a state decode on their own.</summary>
    [Fact]
    public void CopiesOfAStateShareNoBuffers()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var model = Model(2, tied: true);
        using var state = model.CreateState(2);
        var ids = randint(0, 50, [2, 1], dtype: ScalarType.Int64);
        model.NextTokenLogits(ids, new MixerContext { State = state });
        var copy = state.Clone();
        var expected = model.NextTokenLogits(ids, new MixerContext { State = state });
        copy.Dispose();
        using var selected = state.Select([1, 0]);
        model.NextTokenLogits(ids, new MixerContext { State = selected });
        Assert.True(model.NextTokenLogits(ids, new MixerContext { State = state }).isfinite().all().ToBoolean());
        Assert.Equal([2, 50], expected.shape);
    }

    private static CausalLanguageModel Model(int layers, bool tied, FeedForwardKind? feedForward = null)
    {
        manual_seed(3);
        var model = new CausalLanguageModel(new LanguageModelOptions
        {
            VocabSize = 50, HiddenSize = 24, NumLayers = layers, Layers = ["mamba"], MaxSeqLen = 100, TieEmbeddings = tied,
            ResidualMultiplier = tied ? 1 : 0.7,
            FeedForward = feedForward is { } kind
                ? new FeedForwardOptions { Kind = kind, GateMultiplier = kind is FeedForwardKind.Swiglu or FeedForwardKind.GegluTanh ? 1.5 : 1, OutputMultiplier = 0.5 }
                : null,
        });
        model.eval();
        return model;
    }
}
