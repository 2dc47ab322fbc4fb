namespace Hybrid.Backbone;

/// <summary>State of a layer that looks at one token at a time: it counts them and remembers nothing else.</summary>
internal sealed class PositionState : MixerState
{
    /// <param name="batchSize">Number of sequences B; at least 1.</param>
    public PositionState(long batchSize)
        : base(batchSize)
    {
    }

    /// <inheritdoc/>
    public override bool CanTrim => true;

    /// <inheritdoc/>
    public override void Trim(long position) => TrimPositions(position);
}
