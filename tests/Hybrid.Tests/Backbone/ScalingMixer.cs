using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Tests.Backbone;

/// <summary>A mixer that multiplies by a constant, so that what stands around it can be computed by hand.</summary>
internal sealed class ScalingMixer : SequenceMixer
{
    private readonly double factor;

    public ScalingMixer(long width, double factor)
        : base(nameof(ScalingMixer), width)
    {
        this.factor = factor;
        RegisterComponents();
    }

    public override MixerState CreateState(long batchSize) => new Counter(batchSize);

    public override Tensor forward(Tensor x, MixerContext context)
    {
        RequireState<Counter>(context.State, x.size(0))?.Count(x.size(1), context.Lengths);
        return x * factor;
    }

    /// <summary>A state that remembers nothing but its positions.</summary>
    public sealed class Counter(long batchSize) : MixerState(batchSize)
    {
        public void Count(long tokens, IReadOnlyList<long>? lengths) => Advance(tokens, lengths);
    }
}
