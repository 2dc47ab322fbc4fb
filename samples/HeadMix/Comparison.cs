using System.Diagnostics;
using Hybrid.Attention;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Samples;

/// <summary>What to compare.</summary>
internal sealed record ComparisonOptions(
    long Width, long Batch, IReadOnlyList<long> Lengths, int Repeats, HolonomyKind Holonomy, MixedHeadCompat Compat, long Seed);

/// <summary>Median times of a mix at one length, in milliseconds.</summary>
internal sealed record Timing(long Length, double Forward, double Training);

/// <summary>What was found of one mix.</summary>
internal sealed record MixResult(
    string Name,
    long Parameters,
    IReadOnlyList<Timing> Timings,
    IReadOnlyList<HeadOutputStatistics> Outputs,
    IReadOnlyList<HeadGradientNorms> Gradients);

/// <summary>Runs every mix of eight heads on the same inputs.</summary>
internal static class Comparison
{
    private static readonly (string Name, IReadOnlyList<HeadType> Types)[] Mixes =
    [
        ("8/0/0", MixedHeadOptions.Mix(8, 0, 0)),
        ("0/8/0", MixedHeadOptions.Mix(0, 8, 0)),
        ("0/0/8", MixedHeadOptions.Mix(0, 0, 8)),
        ("4/2/2", MixedHeadOptions.Mix(4, 2, 2)),
        ("3/3/2", MixedHeadOptions.Mix(3, 3, 2)),
        ("alternating", [.. Enumerable.Range(0, 8).Select(head => (HeadType)(head % 3))]),
    ];

    /// <summary>Compares, prints and draws.</summary>
    /// <returns>Exit code: 0, or 2 where an option does not fit.</returns>
    public static int Run(ComparisonOptions options, string folder)
    {
        if (options.Lengths.Count == 0 || options.Lengths.Any(length => length < 2) || options.Batch < 1 || options.Repeats < 1)
        {
            Console.Error.WriteLine("HeadMix: batch and repeats must be at least 1, lengths at least 2.");
            return 2;
        }

        try
        {
            var results = Mixes.Select(mix => Measure(mix.Name, mix.Types, options)).ToArray();
            Report.Print(results, options);
            Report.Draw(results, options, folder);
            return 0;
        }
        catch (ArgumentException error)
        {
            Console.Error.WriteLine(error.Message);
            return 2;
        }
    }

    private static MixResult Measure(string name, IReadOnlyList<HeadType> types, ComparisonOptions options)
    {
        manual_seed(options.Seed);
        using var layer = new MixedHeadAttention(options.Width, new MixedHeadOptions
        {
            HeadTypes = types, Holonomy = options.Holonomy, Compat = options.Compat, MaxSeqLen = Math.Max(2, options.Lengths[0]),
        });
        using var scope = NewDisposeScope();
        var (outputs, gradients) = Look(layer, randn(options.Batch, options.Lengths[0], options.Width));
        var timings = options.Lengths.Select(length => Time(layer, length, options)).ToArray();
        return new MixResult(name, layer.parameters().Sum(parameter => parameter.numel()), timings, outputs, gradients);
    }

    private static (IReadOnlyList<HeadOutputStatistics> Outputs, IReadOnlyList<HeadGradientNorms> Gradients) Look(MixedHeadAttention layer, Tensor x)
    {
        using var scope = NewDisposeScope();
        (layer.call(x) * randn_like(x)).mean().backward();
        return (MixedHeadAnalysis.OutputStatistics(layer, x), MixedHeadAnalysis.GradientNorms(layer));
    }

    private static Timing Time(MixedHeadAttention layer, long length, ComparisonOptions options)
    {
        using var x = randn(options.Batch, length, options.Width);
        return new Timing(length, Median(options.Repeats, Forward), Median(options.Repeats, Train));

        void Forward()
        {
            using var guard = no_grad();
            using var scope = NewDisposeScope();
            layer.call(x);
        }

        void Train()
        {
            using var scope = NewDisposeScope();
            layer.call(x).mean().backward();
        }
    }

    /// <summary>Median time of a call in milliseconds, after one call that is not counted.</summary>
    private static double Median(int repeats, Action call)
    {
        call();
        var times = Enumerable.Range(0, repeats).Select(_ =>
        {
            var start = Stopwatch.GetTimestamp();
            call();
            return Stopwatch.GetElapsedTime(start).TotalMilliseconds;
        }).Order().ToArray();
        return times[times.Length / 2];
    }
}
