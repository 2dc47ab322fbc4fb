namespace Hybrid.Samples.Charts;

/// <summary>One line of a <see cref="LineChart"/>.</summary>
/// <param name="Name">Name in the legend.</param>
/// <param name="Points">The points, in the order in which the line joins them.</param>
public sealed record LineSeries(string Name, IReadOnlyList<(double X, double Y)> Points);

/// <summary>Lines over a numeric horizontal axis.</summary>
public sealed record LineChart : Chart
{
    private const int MostPointsWithDots = 40;
    private const int MostTicksAtPoints = 10;

    /// <summary>The lines; at least one point among them.</summary>
    public required IReadOnlyList<LineSeries> Series { get; init; }

    /// <summary>Logarithmic horizontal axis: every x must be positive. Default false.</summary>
    public bool LogX { get; init; }

    private protected override IReadOnlyList<string> SeriesNames => [.. Series.Select(series => series.Name)];

    private protected override void Draw(SvgCanvas canvas)
    {
        double[] abscissas = [.. Series.SelectMany(series => series.Points).Select(point => point.X).Distinct()];
        var x = LogX && abscissas.Length is > 1 and <= MostTicksAtPoints
            ? Axis.WithTicksAt(abscissas, isLog: true)
            : Axis.For(abscissas, LogX, fromZero: false);
        var y = Axis.For(Series.SelectMany(series => series.Points).Select(point => point.Y), LogY, fromZero: !LogY);
        DrawYAxis(canvas, y);
        foreach (var tick in x.Ticks)
        {
            canvas.Line(XOf(x, tick), Top, XOf(x, tick), Top + Plot.Height, "grid");
            canvas.Text(XOf(x, tick), Top + Plot.Height + 20, Axis.Label(tick), "middle");
        }

        for (var i = 0; i < Series.Count; i++)
        {
            canvas.Path(Series[i].Points.Select(point => (XOf(x, point.X), YOf(y, point.Y))), i);
            foreach (var point in Series[i].Points.Take(Series[i].Points.Count <= MostPointsWithDots ? MostPointsWithDots : 0))
            {
                canvas.Dot(XOf(x, point.X), YOf(y, point.Y), i, $"{Series[i].Name}: {Axis.Label(point.X)}, {Axis.Label(point.Y)}");
            }
        }
    }

    private double XOf(Axis axis, double value) => Left + (Plot.Width * axis.Place(value));
}
