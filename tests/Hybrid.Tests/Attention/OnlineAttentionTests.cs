using Hybrid.Attention;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Attention;

/// <summary>The online mode while autograd records: weights are computed again in the backward pass, so that none are kept.</summary>
public class OnlineAttentionTests
{
    [Fact]
    public void TrainingMemoryGrowsWithTheLengthAndNotItsSquare()
    {
        ResidentMemory.SkipUnlessMeasured();

        // One float a pair of visible positions is 2 heads x T^2 / 2 x 4 bytes: 64 MiB at T = 4096. The inputs, the result, the gradients and
        // what the pass saves are 2 x 4096 x 4 floats each, 128 KiB.
        const long Time = 4096;
        PeakBytes(Time, dropout: 0);
        var recomputed = PeakBytes(Time, dropout: 0);
        Assert.True(recomputed < 24L << 20, $"the peak is {recomputed >> 20} MiB");

        // With dropout the scores are kept, which shows that the measurement would see them.
        var kept = PeakBytes(Time, dropout: 1e-6);
        Assert.True(kept > 64L << 20, $"the peak with kept scores is {kept >> 20} MiB");
    }

    private static long PeakBytes(long time, double dropout)
    {
        using var scope = NewDisposeScope();
        var inputs = Enumerable.Range(1, 3).Select(seed => Values.Normal((ulong)seed, 1, 2, time, 4).requires_grad_(true)).ToArray();
        var visible = new KeyVisibility([0], time, null, null, CPU);
        var options = new AttentionOptions { Mode = AttentionMode.Online, ChunkSize = 256 };
        return ResidentMemory.PeakOf(
            () => ScaledDotProduct.Apply(inputs[0], inputs[1], inputs[2], visible, options, dropout).sum().backward());
    }

    [Fact]
    public void SecondDerivativesEqualDense()
    {
        using var scope = NewDisposeScope();
        var expected = SecondDerivatives(AttentionMode.Dense);
        foreach (var (want, got) in expected.Zip(SecondDerivatives(AttentionMode.Online)))
        {
            TensorAssert.Close(want, got, 1e-10, "second derivative");
        }

        // The gradient of |gradient|^2. With a soft cap the dense mode is plain operations.
        static Tensor[] SecondDerivatives(AttentionMode mode)
        {
            Tensor[] inputs =
            [
                .. new[] { Values.Normal(1, 2, 4, 7, 3), Values.Normal(2, 2, 2, 7, 3), Values.Normal(3, 2, 2, 7, 5) }
                    .Select(input => input.to_type(ScalarType.Float64).requires_grad_(true)),
            ];
            var visible = new KeyVisibility([0], 7, 4, null, CPU, [3, 0]);
            var options = new AttentionOptions { Mode = mode, ChunkSize = 3, SoftCap = 1.5 };
            var loss = ScaledDotProduct.Apply(inputs[0], inputs[1], inputs[2], visible, options, 0).square().sum();
            var gradients = autograd.grad([loss], inputs, retain_graph: true, create_graph: true);
            gradients.Select(gradient => gradient.square().sum()).Aggregate((a, b) => a + b).backward();
            return [.. inputs.Select(input => input.grad!)];
        }
    }

    [Fact]
    public void Bfloat16GradientsAreThoseOfFloat32Rounded()
    {
        using var scope = NewDisposeScope();
        var inputs = Enumerable.Range(1, 3).Select(seed => Values.Normal((ulong)seed, 1, 2, 40, 8).to_type(ScalarType.BFloat16)).ToArray();
        var expected = Gradients(inputs.Select(input => input.to_type(ScalarType.Float32)));
        foreach (var (want, got) in expected.Zip(Gradients(inputs)))
        {
            Assert.Equal(ScalarType.BFloat16, got.dtype);

            // The result, from which the backward pass starts, and the gradients have 8 bits of mantissa.
            TensorAssert.Close(want, got, 0.02, "gradient");
        }

        static Tensor[] Gradients(IEnumerable<Tensor> values)
        {
            var leaves = values.Select(value => value.detach().clone().requires_grad_(true)).ToArray();
            var visible = new KeyVisibility([0], 40, null, null, CPU);
            var options = new AttentionOptions { Mode = AttentionMode.Online, ChunkSize = 16 };
            ScaledDotProduct.Apply(leaves[0], leaves[1], leaves[2], visible, options, 0).to_type(ScalarType.Float32).square().sum().backward();
            return [.. leaves.Select(leaf => leaf.grad!)];
        }
    }

    [Fact]
    public void TheBackwardPassNeedsNothingOfTheCaller()
    {
        // The packing and all else that the call was given are gone when the backward pass runs.
        manual_seed(3);
        using var mixer = new MultiHeadAttention(8, new AttentionOptions { NumHeads = 2, Mode = AttentionMode.Online, ChunkSize = 3, WindowSize = 4 });
        using var x = Values.Normal(1, 2, 11, 8).requires_grad_(true);
        Tensor loss;
        using (var ids = arange(11).ge(5).to_type(ScalarType.Int64).expand(2, 11).contiguous())
        {
            loss = mixer.forward(x, new MixerContext { SequenceIds = ids }).square().sum();
        }

        loss.backward();
        loss.Dispose();
        using var scope = NewDisposeScope();
        var online = x.grad!.clone();
        x.grad!.zero_();
        foreach (var (start, length) in new[] { (0L, 5L), (5L, 6L) })
        {
            mixer.call(x.narrow(1, start, length)).square().sum().backward();
        }

        TensorAssert.Close(x.grad!, online, 1e-5, "packed against each alone");
    }

    [Fact]
    public void TrainingStepsLeaveNoTensorBehind()
    {
        manual_seed(3);
        using var mixer = new MultiHeadAttention(8, new AttentionOptions { NumHeads = 2, Mode = AttentionMode.Online, ChunkSize = 3 });
        using var x = Values.Normal(1, 2, 11, 8);
        Step();
        var before = LiveTensors.Before();
        for (var step = 0; step < 20; step++)
        {
            Step();
        }

        Assert.Equal(before, LiveTensors.Before());

        void Step()
        {
            using var scope = NewDisposeScope();
            mixer.forward(x, new MixerContext { PrefixLengths = [4, 0] }).square().sum().backward();
        }
    }
}
