namespace Hybrid.Samples.Charts;

/// <summary>One colour of bars in a <see cref="BarChart"/>.</summary>
/// <param name="Name">Name in the legend; empty where the chart has just this series.</param>
/// <param name="Values">A value for each category; NaN leaves a gap.</param>
public sealed record BarSeries(string Name, IReadOnlyList<double> Values);

/// <summary>Groups of bars, one group a category. On a logarithmic axis bars start at its low end.</summary>
public sealed record BarChart : Chart
{
    private const double ShareOfGroup = 0.8;

    /// <summary>Names of the groups, left to right.</summary>
    public required IReadOnlyList<string> Categories { get; init; }

    /// <summary>The bars within each group.</summary>
    public required IReadOnlyList<BarSeries> Series { get; init; }

    private protected override IReadOnlyList<string> SeriesNames => [.. Series.Select(series => series.Name)];

    private protected override void Draw(SvgCanvas canvas)
    {
        if (Series.FirstOrDefault(series => series.Values.Count != Categories.Count) is { } uneven)
        {
            throw new ArgumentException(
                $"BarChart: series '{uneven.Name}' must have a value for each of {Categories.Count} categories; got {uneven.Values.Count}.");
        }

        var axis = Axis.For(Series.SelectMany(series => series.Values).Where(value => !double.IsNaN(value)), LogY, fromZero: true);
        DrawYAxis(canvas, axis);
        var group = Plot.Width / Categories.Count;
        var bar = group * ShareOfGroup / Series.Count;
        var baseline = YOf(axis, LogY ? axis.Ticks[0] : 0);
        for (var category = 0; category < Categories.Count; category++)
        {
            var start = Left + (group * category);
            canvas.Text(start + (group / 2), Top + Plot.Height + 20, Categories[category], "middle");
            for (var i = 0; i < Series.Count; i++)
            {
                var value = Series[i].Values[category];
                if (!double.IsNaN(value))
                {
                    var y = YOf(axis, value);
                    var x = start + (group * (1 - ShareOfGroup) / 2) + (bar * i);
                    canvas.Bar(x, Math.Min(y, baseline), bar * 0.94, Math.Abs(baseline - y), i, $"{Series[i].Name} {Categories[category]}: {Axis.Label(value)}");
                }
            }
        }

        canvas.Line(Left, baseline, Left + Plot.Width, baseline, "axis");
    }
}
