namespace Hybrid.Routing;

/// <summary>
/// Routes to the branch that was measured to be the faster one at this length, on this kind of device and with this dtype. Where nothing
/// was measured, the length policy decides. <see cref="HybridAttention.Calibrate"/> measures.
/// </summary>
public sealed class AdaptivePolicy : RoutingPolicy
{
    private sealed record Measured(RoutingCalibration Calibration, long Crossover);

    private sealed record Table(int Version, Measured[] Entries);

    private readonly Lock change = new();
    private readonly LengthThresholdPolicy byLength;
    private volatile Table table;

    /// <param name="calibration">What was measured; null means nothing yet.</param>
    /// <param name="byLength">Decides where nothing was measured; its M stays the longest sequence for attention.</param>
    public AdaptivePolicy(RoutingCalibration? calibration, LengthThresholdPolicy byLength)
        : base("adaptive")
    {
        calibration?.Validate();
        this.byLength = byLength;
        table = new Table(1, calibration is null ? [] : [new Measured(calibration, calibration.Crossover())]);
    }

    /// <inheritdoc/>
    public override int Version => table.Version;

    /// <inheritdoc/>
    public override long Threshold => byLength.Threshold;

    /// <summary>What was measured so far.</summary>
    public IReadOnlyList<RoutingCalibration> Calibrations => [.. table.Entries.Select(entry => entry.Calibration)];

    /// <summary>Adds a measurement; it takes the place of one on the same device, dtype and batch size.</summary>
    /// <param name="calibration">The measurement.</param>
    public void Adopt(RoutingCalibration calibration)
    {
        calibration.Validate();
        lock (change)
        {
            var others = table.Entries.Where(entry => !entry.Calibration.MeasuresTheSameAs(calibration));
            table = new Table(table.Version + 1, [.. others, new Measured(calibration, calibration.Crossover())]);
        }
    }

    /// <inheritdoc/>
    public override RoutingDecision Decide(in RoutingRequest request)
    {
        request.Validate();
        if (Nearest(request) is not { } crossover || (request.Length > byLength.AttentionMaxLength && request.Length < crossover))
        {
            return byLength.Decide(request);
        }

        var route = request.Length >= crossover ? Route.Mamba : Route.Attention;
        var confidence = crossover == long.MaxValue ? 1 : LengthThresholdPolicy.Margin(request.Length, crossover);
        return new RoutingDecision(route, RoutingReason.MeasuredFaster, "measured_faster", confidence, request.Length, crossover);
    }

    /// <summary>The crossover on this device and dtype whose batch size is nearest, as a ratio.</summary>
    private long? Nearest(in RoutingRequest request)
    {
        long? nearest = null;
        var smallest = double.PositiveInfinity;
        foreach (var (calibration, crossover) in table.Entries)
        {
            if (calibration.Device != request.Device || calibration.Dtype != request.Dtype)
            {
                continue;
            }

            var ratio = (double)Math.Max(calibration.BatchSize, request.BatchSize) / Math.Min(calibration.BatchSize, request.BatchSize);
            if (ratio < smallest)
            {
                (nearest, smallest) = (crossover, ratio);
            }
        }

        return nearest;
    }
}
