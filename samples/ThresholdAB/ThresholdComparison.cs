using Hybrid.Attention;
using Hybrid.Checkpoints;
using Hybrid.Modeling;
using Hybrid.Routing;
using static TorchSharp.torch;

namespace Hybrid.Samples;

/// <summary>What to compare, and on what.</summary>
internal sealed record ComparisonOptions
{
    public string? Checkpoint { get; init; }

    public string? TextFile { get; init; }

    public long Width { get; init; }

    public required IReadOnlyList<long> Lengths { get; init; }

    public required IReadOnlyList<long> Thresholds { get; init; }

    public int Documents { get; init; }

    public int Repeats { get; init; }

    public int Seed { get; init; }
}

/// <summary>A document of one length: time, and memory above that of a document of one token, where the system tells.</summary>
internal sealed record LengthCost(long Length, double Ms, double? Mib);

/// <summary>What one way to run the model costs over the lengths.</summary>
internal sealed record CostCurve(string Name, IReadOnlyList<LengthCost> Costs);

/// <summary>What the comparison found.</summary>
/// <param name="Calibration">One router's branches, timed alone.</param>
/// <param name="Curves">Attention, Mamba and the router with the calibrated threshold, through the whole model.</param>
/// <param name="Thresholds">One result a threshold, the calibrated one among them.</param>
/// <param name="IsTrained">False for fresh weights, whose likelihood means nothing.</param>
internal sealed record Findings(
    RoutingCalibration Calibration, IReadOnlyList<CostCurve> Curves, IReadOnlyList<ThresholdResult> Thresholds, bool IsTrained);

/// <summary>
/// Times both branches of a router, then the whole model on documents of one length with either branch and with the router, then thresholds
/// on a mix of documents.
/// </summary>
internal sealed class ThresholdComparison : IDisposable
{
    private readonly ComparisonOptions options;
    private readonly CausalLanguageModel model;
    private readonly Random random;
    private readonly byte[]? text;

    public ThresholdComparison(ComparisonOptions options)
    {
        if (options.Documents < 1 || options.Repeats < 1 || options.Lengths is not [> 0, ..] || options.Thresholds.Count == 0)
        {
            throw new ArgumentException(
                "ThresholdAB: documents, repeats and lengths must be at least 1, and there must be lengths and thresholds; got " +
                $"{options.Documents} documents, {options.Repeats} repeats, lengths [{string.Join(", ", options.Lengths)}] and {options.Thresholds.Count} thresholds.");
        }

        this.options = options;
        random = new Random(options.Seed);
        text = options.TextFile is { } file ? File.ReadAllBytes(file) : null;
        if (text is not null && text.Length <= options.Lengths[^1])
        {
            throw new ArgumentException($"ThresholdAB: the text must have more than {options.Lengths[^1]} bytes; got {text.Length}.");
        }

        manual_seed(options.Seed);
        model = options.Checkpoint is { } folder ? TrainingCheckpoint.Open(folder).LoadModel() : FreshModel();
    }

    public Findings Run()
    {
        if (model.Routers is not [var router, ..])
        {
            throw new ArgumentException("ThresholdAB: the model must have a router, a layer \"hybrid_attention\"; got none.");
        }

        model.eval();
        var calibration = router.Calibrate(options.Lengths, repeats: options.Repeats);
        var crossover = calibration.Crossover();
        (string Name, long Threshold)[] ways = [("attention", long.MaxValue), ("mamba", 1), ("router", crossover)];
        var costs = options.Lengths.Select(length => Costs(length, [.. ways.Select(way => way.Threshold)])).ToArray();
        var curves = ways.Select((way, i) => new CostCurve(way.Name, [.. costs.Select(cost => cost[i])])).ToArray();
        var documents = Enumerable.Range(0, options.Documents).Select(_ => Document(DrawLength())).ToArray();
        var thresholds = options.Thresholds.Append(crossover).Where(threshold => threshold < long.MaxValue).Distinct().Order().ToArray();
        return new Findings(calibration, curves, ThresholdExperiment.Run(model, thresholds, documents), options.Checkpoint is not null);
    }

    public void Dispose() => model.Dispose();

    /// <summary>Two layers of routers; time and memory do not depend on what weights have learnt.</summary>
    private CausalLanguageModel FreshModel() => new(new LanguageModelOptions
    {
        HiddenSize = options.Width,
        NumLayers = 2,
        MaxSeqLen = options.Lengths[^1],
        Layers = ["hybrid_attention"],
        Mixers = new Dictionary<string, object> { ["hybrid_attention"] = new HybridAttentionOptions { AttentionConfig = new AttentionOptions { NumHeads = 4 } } },
    });

    /// <summary>What a document costs with each threshold. They take turns, so that whatever else the machine does meets them alike.</summary>
    private LengthCost[] Costs(long length, long[] thresholds)
    {
        var runs = Enumerable.Range(0, options.Repeats).Select(_ => thresholds.Select(threshold => Run(length, threshold)).ToArray()).ToArray();
        return [.. thresholds.Select((_, i) => new LengthCost(length, Median(run => run[i].Ms)!.Value, Median(run => run[i].Mib)))];

        double? Median(Func<LengthCost[], double?> value) => runs.Select(value).Order().ElementAt(options.Repeats / 2);
    }

    private LengthCost Run(long length, long threshold)
    {
        var held = ThresholdExperiment.Run(model, [threshold], [Document(1)])[0].PeakMemoryMib;
        var result = ThresholdExperiment.Run(model, [threshold], [Document(length)])[0];
        return new LengthCost(length, result.MeanMs, result.PeakMemoryMib - held);
    }

    /// <summary>A length between the shortest and the longest one, log-uniform: as many documents of 128 to 256 tokens as of 2048 to 4096.</summary>
    private long DrawLength()
    {
        var (low, high) = (Math.Log(options.Lengths[0]), Math.Log(options.Lengths[^1]));
        return (long)Math.Exp(low + (random.NextDouble() * (high - low)));
    }

    /// <summary>A document of which so many tokens are read: the last of the ids is only predicted.</summary>
    private long[] Document(long length)
    {
        var start = text is null ? 0 : random.Next(text.Length - (int)length);
        return [.. Enumerable.Range(start, (int)length + 1).Select(i => text?[i] ?? (long)random.Next(256))];
    }
}
