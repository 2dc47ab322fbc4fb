using System.Diagnostics.Metrics;
using Microsoft.Extensions.Logging;

namespace Hybrid.Routing;

/// <summary>
/// What routers tell the outside: the meter <c>Hybrid</c>, which OpenTelemetry and dotnet-counters read, and log entries. Without a
/// listener an instrument costs a comparison.
/// </summary>
/// <remarks>
/// Instruments: <c>hybrid.router.decisions</c> (tags module, reason), <c>hybrid.router.crossings</c> (tag module: the new one),
/// <c>hybrid.router.sequence_length</c> (tokens), <c>hybrid.router.decision_time</c> (us), <c>hybrid.router.processing_time</c> (ms, tag
/// module; with timing on) and <c>hybrid.router.branch_agreement</c>.
/// </remarks>
public static partial class RoutingTelemetry
{
    /// <summary>Name of the meter.</summary>
    public const string MeterName = "Hybrid";

    private static readonly Meter Meter = new(MeterName);

    private static readonly Counter<long> Decisions = Meter.CreateCounter<long>(
        "hybrid.router.decisions", "{decision}", "Decisions of the routers.");

    private static readonly Counter<long> Crossings = Meter.CreateCounter<long>(
        "hybrid.router.crossings", "{sequence}", "Carried sequences that another branch read anew.");

    private static readonly Histogram<long> SequenceLength = Meter.CreateHistogram<long>(
        "hybrid.router.sequence_length", "{token}", "Lengths that were decided on.");

    private static readonly Histogram<double> DecisionTime = Meter.CreateHistogram<double>(
        "hybrid.router.decision_time", "us", "Time to decide, with the measuring of content.");

    private static readonly Histogram<double> ProcessingTime = Meter.CreateHistogram<double>(
        "hybrid.router.processing_time", "ms", "Time of the branches.");

    private static readonly Histogram<double> BranchAgreement = Meter.CreateHistogram<double>(
        "hybrid.router.branch_agreement", "1", "Mean cosine of the outputs of both branches in shadow runs.");

    /// <summary>A branch as metrics and logs call it.</summary>
    internal static string NameOf(Route route) => route == Route.Mamba ? "mamba" : "attention";

    internal static void Decided(in RoutingDecision decision)
    {
        Decisions.Add(1, new("module", NameOf(decision.Route)), new("reason", decision.Detail));
        SequenceLength.Record(decision.Length);
    }

    internal static void Crossed(string module, long sequences) => Crossings.Add(sequences, new KeyValuePair<string, object?>("module", module));

    internal static void Called(string module, double decisionTimeUs, double? processingTimeMs)
    {
        DecisionTime.Record(decisionTimeUs);
        if (processingTimeMs is { } time)
        {
            ProcessingTime.Record(time, new KeyValuePair<string, object?>("module", module));
        }
    }

    internal static void Agreed(double agreement) => BranchAgreement.Record(agreement);

    [LoggerMessage(
        Level = LogLevel.Information,
        Message = "{Policy}: {Module} for {Length} tokens, because {Reason} (threshold {Threshold}, confidence {Confidence:f3})")]
    internal static partial void LogDecision(
        ILogger logger, string policy, string module, long length, string reason, long threshold, double confidence);

    [LoggerMessage(
        Level = LogLevel.Information,
        Message = "{Count} carried sequences crossed over to {Module}, which reads them anew")]
    internal static partial void LogCrossing(ILogger logger, long count, string module);
}
