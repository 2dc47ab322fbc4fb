using System.Globalization;
using Hybrid.Attention;
using Hybrid.Samples.Charts;
using Spectre.Console;
using BarChart = Hybrid.Samples.Charts.BarChart;

namespace Hybrid.Samples;

/// <summary>The findings as tables on the console and as charts in a folder.</summary>
internal static class Report
{
    private static readonly HeadType[] Types = Enum.GetValues<HeadType>();

    public static void Print(IReadOnlyList<MixResult> results, ComparisonOptions options)
    {
        var times = new Table { Border = TableBorder.Rounded };
        AddColumns(times, ["mix", "parameters", "call"], options.Lengths.Select(length => $"T = {length}"));
        var outputs = new Table { Border = TableBorder.Rounded };
        AddColumns(outputs, ["mix", "type", "heads"], ["mean", "std", "min", "max"]);
        var gradients = new Table { Border = TableBorder.Rounded };
        AddColumns(gradients, ["mix", "type", "heads"], ["in projection", "out projection", "own"]);
        foreach (var result in results)
        {
            var parameters = result.Parameters.ToString("#,0", CultureInfo.InvariantCulture);
            times.AddRow([result.Name, parameters, "forward", .. result.Timings.Select(time => Number(time.Forward))]);
            times.AddRow([result.Name, parameters, "and backward", .. result.Timings.Select(time => Number(time.Training))]);
            foreach (var head in result.Outputs)
            {
                outputs.AddRow([result.Name, Name(head.Type), $"{head.Heads}", .. new[] { head.Mean, head.Std, head.Min, head.Max }.Select(Number)]);
            }

            foreach (var head in result.Gradients)
            {
                var own = head.Type == HeadType.Standard ? "none" : Number(head.Own);
                gradients.AddRow(result.Name, Name(head.Type), $"{head.Heads}", Number(head.InProjection), Number(head.OutProjection), own);
            }
        }

        Show($"Median time of a call in ms; batch {options.Batch}, width {options.Width}", times);
        Show($"Outputs of the heads before the output projection, {options.Lengths[0]} tokens", outputs);
        Show($"Gradient norms of what belongs to the heads, {options.Lengths[0]} tokens", gradients);
    }

    public static void Draw(IReadOnlyList<MixResult> results, ComparisonOptions options, string folder)
    {
        var longest = options.Lengths.Count - 1;
        var names = results.Select(result => result.Name).ToArray();
        var setting = $"batch {options.Batch}, width {options.Width}";
        Save("time", new BarChart
        {
            Title = $"Time of a call at {options.Lengths[longest]} tokens ({setting})",
            XLabel = "standard / spectral / holonomy heads",
            YLabel = "ms",
            Categories = names,
            Series =
            [
                new("forward", [.. results.Select(result => result.Timings[longest].Forward)]),
                new("forward and backward", [.. results.Select(result => result.Timings[longest].Training)]),
            ],
        });
        Save("time-over-length", new LineChart
        {
            Title = $"Time of a forward call over length ({setting})",
            XLabel = "tokens",
            YLabel = "ms",
            LogX = true,
            LogY = true,
            Series = [.. results.Select(result => new LineSeries(result.Name, [.. result.Timings.Select(time => ((double)time.Length, time.Forward))]))],
        });
        Save("gradients", new BarChart
        {
            Title = $"Gradient norm by type of head at {options.Lengths[0]} tokens",
            XLabel = "standard / spectral / holonomy heads",
            YLabel = "norm",
            Categories = names,
            Series = ByType(results, (result, type) => result.Gradients.FirstOrDefault(entry => entry.Type == type) is { } norms
                ? Math.Sqrt((norms.InProjection * norms.InProjection) + (norms.OutProjection * norms.OutProjection) + (norms.Own * norms.Own))
                : double.NaN),
        });
        Save("spread", new BarChart
        {
            Title = $"Standard deviation of the outputs by type of head at {options.Lengths[0]} tokens",
            XLabel = "standard / spectral / holonomy heads",
            YLabel = "standard deviation",
            Categories = names,
            Series = ByType(results, (result, type) => result.Outputs.FirstOrDefault(entry => entry.Type == type)?.Std ?? double.NaN),
        });
        foreach (var result in results.Where(result => result.Outputs.Count == Types.Length).Take(1))
        {
            Save("outputs", new BarChart
            {
                Title = $"Outputs of the heads of {result.Name} at {options.Lengths[0]} tokens",
                YLabel = "value",
                Categories = [.. result.Outputs.Select(entry => Name(entry.Type))],
                Series =
                [
                    new("mean", [.. result.Outputs.Select(entry => entry.Mean)]),
                    new("standard deviation", [.. result.Outputs.Select(entry => entry.Std)]),
                    new("smallest", [.. result.Outputs.Select(entry => entry.Min)]),
                    new("largest", [.. result.Outputs.Select(entry => entry.Max)]),
                ],
            });
        }

        Console.WriteLine($"charts: {Path.GetFullPath(folder)}");

        void Save(string name, Chart chart) => chart.Save(Path.Combine(folder, name + ".svg"));
    }

    private static IReadOnlyList<BarSeries> ByType(IReadOnlyList<MixResult> results, Func<MixResult, HeadType, double> value) =>
        [.. Types.Select(type => new BarSeries(Name(type), [.. results.Select(result => value(result, type))]))];

    private static void AddColumns(Table table, IEnumerable<string> texts, IEnumerable<string> numbers)
    {
        foreach (var name in texts)
        {
            table.AddColumn(name, column => column.NoWrap());
        }

        foreach (var name in numbers)
        {
            table.AddColumn(name, column => column.NoWrap().RightAligned());
        }
    }

    private static void Show(string title, Table table)
    {
        Console.WriteLine(title);
        AnsiConsole.Write(table);
    }

    private static string Name(HeadType type) => type.ToString().ToLowerInvariant();

    private static string Number(double value) => value.ToString(Math.Abs(value) is > 0 and < 0.01 ? "0.0e0" : Math.Abs(value) < 10 ? "0.###" : "0.#", CultureInfo.InvariantCulture);
}
