using Hybrid.Attention;
using Hybrid.Routing;
using Spectre.Console;
using static TorchSharp.torch;

// A mix of short and long documents through one router: attention below 512 tokens, Mamba from there on.
const long Width = 128;
const long Threshold = 512;
long[] lengths = [40, 40, 96, 200, 40, 510, 512, 96, 900, 2048, 40, 1500, 200, 40, 511, 3000];

manual_seed(1);
using var router = new HybridAttention(Width, new HybridAttentionOptions
{
    MambaThreshold = Threshold,
    Timing = CallTiming.Device,
    ShadowRate = 0.25,
    AttentionConfig = new AttentionOptions { NumHeads = 4 },
});
router.eval();
using var guard = no_grad();

using (NewDisposeScope())
{
    router.Run(randn(1, Threshold - 1, Width));
    router.Run(randn(1, Threshold, Width));
    router.Policy = new LengthThresholdPolicy(Threshold, attentionMaxLength: 2048);
    router.ResetMetrics();
}

AnsiConsole.Profile.Width = Math.Max(AnsiConsole.Profile.Width, 110);
var table = new Table().Title("One call a document").AddColumns("tokens", "module", "reason", "confidence", "decided", "processed", "a token", "agreement");
foreach (var length in lengths)
{
    using var scope = NewDisposeScope();
    var metrics = router.Run(randn(1, length, Width)).Metrics;
    table.AddRow(
        $"{metrics.SequenceLength}",
        metrics.SelectedModule,
        metrics.SelectionReason,
        $"{metrics.DecisionConfidence:f2}",
        $"{metrics.RouterTimeUs:f1} us",
        $"{metrics.ProcessingTimeMs:f2} ms",
        $"{1000 * metrics.ProcessingTimeMs / metrics.SequenceLength:f1} us",
        metrics.BranchAgreement is { } agreement ? $"{agreement:f3}" : "");
}

AnsiConsole.Write(table);

// The same documents as one padded batch: rows go their own ways and come back in order.
using (var scope = NewDisposeScope())
{
    var metrics = router.Run(randn(lengths.Length, lengths.Max(), Width), new() { Lengths = lengths }).Metrics;
    AnsiConsole.MarkupLineInterpolated($"one batch of {metrics.BatchSize}, padded to {metrics.SequenceLength}: {metrics.SelectedModule}, {metrics.ProcessingTimeMs:f0} ms");
}

var totals = router.GetMetrics();
var cache = router.GetCacheMetrics();
AnsiConsole.Write(new BarChart().Label($"{totals.TotalDecisions} decisions, {totals.AverageLength:f0} tokens on average").CenterLabel().Width(70)
    .AddItem("attention", totals.AttentionCount, Color.Blue)
    .AddItem("mamba", totals.MambaCount, Color.Green));
AnsiConsole.Write(new BarChart().Label($"decision cache: {cache.Size} held, hit rate {cache.HitRate:p0}").CenterLabel().Width(70)
    .AddItem("hits", cache.Hits, Color.Green)
    .AddItem("misses", cache.Misses, Color.Grey));

// Where the two really cross on this machine, measured.
var calibration = router.Calibrate([64, 256, 1024], repeats: 3);
var crossover = calibration.Crossover();
AnsiConsole.MarkupLineInterpolated(
    $"measured here: {string.Join(", ", calibration.Lengths.Select((length, i) => $"{length} tokens {calibration.AttentionMs[i]:f1} against {calibration.MambaMs[i]:f1} ms"))}; Mamba is faster {(crossover == long.MaxValue ? "at none of them" : $"from {crossover} tokens")}");
