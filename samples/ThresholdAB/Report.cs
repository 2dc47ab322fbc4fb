using System.Globalization;
using Hybrid.Routing;
using Hybrid.Samples.Charts;
using Spectre.Console;

namespace Hybrid.Samples;

/// <summary>The findings as tables on the console and as charts in a folder.</summary>
internal static class Report
{
    public static void Print(Findings findings)
    {
        AnsiConsole.Profile.Width = Math.Max(AnsiConsole.Profile.Width, 110);
        var branches = new Table().Title("One layer, its branches alone").AddColumns("tokens", "attention", "mamba", "attention / mamba");
        var calibration = findings.Calibration;
        for (var i = 0; i < calibration.Lengths.Count; i++)
        {
            var (attention, mamba) = (calibration.AttentionMs[i], calibration.MambaMs[i]);
            branches.AddRow($"{calibration.Lengths[i]}", $"{attention:f2} ms", $"{mamba:f2} ms", $"{attention / mamba:f2}");
        }

        AnsiConsole.Write(branches);
        AnsiConsole.WriteLine(Crossover(calibration) is { } length
            ? $"Mamba is the faster one from {length} tokens."
            : "Mamba is the faster one at none of these lengths.");

        var curves = new Table().Title("The whole model, a document: time, and memory above that of one token").AddColumn("tokens");
        foreach (var curve in findings.Curves)
        {
            curves.AddColumn(curve.Name);
        }

        for (var i = 0; i < calibration.Lengths.Count; i++)
        {
            curves.AddRow([$"{calibration.Lengths[i]}", .. findings.Curves.Select(curve => Cell(curve.Costs[i]))]);
        }

        AnsiConsole.Write(curves);

        var fastest = findings.Thresholds.Min(result => result.MeanMs);
        var thresholds = new Table().Title("Thresholds over the mix of documents")
            .AddColumns(["threshold", "attention", "mamba", "mean", "slowest", "peak memory", .. OnlyTrained("nats a byte")]);
        foreach (var result in findings.Thresholds)
        {
            thresholds.AddRow([
                $"{result.Threshold}{(result.Threshold == Crossover(calibration) ? " (measured)" : "")}",
                $"{result.AttentionShare:p0}",
                $"{result.MambaShare:p0}",
                $"{result.MeanMs:f1} ms{(result.MeanMs == fastest ? " *" : "")}",
                $"{result.SlowestMs:f1} ms",
                result.PeakMemoryMib is { } mib ? $"{mib:f0} MiB" : "unknown",
                .. OnlyTrained($"{result.NegativeLogLikelihood:f4}"),
            ]);
        }

        AnsiConsole.Write(thresholds);

        // The likelihood under fresh weights says nothing.
        string[] OnlyTrained(string cell) => findings.IsTrained ? [cell] : [];
    }

    /// <summary>Draws the curves, and writes the calibration as TOML that a configuration takes over.</summary>
    public static void Save(Findings findings, string folder)
    {
        var crossover = Crossover(findings.Calibration) is { } length ? $"Mamba is faster from {length} tokens" : "attention is faster throughout";
        Save("latency", $"Time of a document over its length: {crossover}", "ms", cost => cost.Ms);
        if (findings.Curves.All(curve => curve.Costs.All(cost => cost.Mib > 0)))
        {
            Save("memory", "Memory of a document over its length", "MiB above a document of one token", cost => cost.Mib!.Value);
        }

        findings.Calibration.Save(Path.Combine(folder, "calibration.toml"));
        Console.WriteLine($"charts and calibration.toml: {Path.GetFullPath(folder)}");

        void Save(string name, string title, string unit, Func<LengthCost, double> value) => new LineChart
        {
            Title = title,
            XLabel = "tokens",
            YLabel = unit,
            LogX = true,
            LogY = true,
            Series = [.. findings.Curves.Select(curve => new LineSeries(
                curve.Name, [.. curve.Costs.Select(cost => ((double)cost.Length, value(cost)))]))],
        }.Save(Path.Combine(folder, name + ".svg"));
    }

    private static long? Crossover(RoutingCalibration calibration) => calibration.Crossover() is var length and < long.MaxValue ? length : null;

    private static string Cell(LengthCost cost) =>
        $"{cost.Ms.ToString("f1", CultureInfo.InvariantCulture)} ms" + (cost.Mib is { } mib ? $", {mib.ToString("f1", CultureInfo.InvariantCulture)} MiB" : "");
}
