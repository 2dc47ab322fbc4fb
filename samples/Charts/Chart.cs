namespace Hybrid.Samples.Charts;

/// <summary>A chart with a title, two axes and a legend, drawn as SVG. The picture follows the light or dark theme of its page.</summary>
public abstract record Chart
{
    private protected const double Left = 84;
    private protected const double Top = 44;
    private const double Right = 24;
    private const double Bottom = 64;
    private const double LegendRow = 20;
    private const double CharacterWidth = 6.6;

    /// <summary>What the chart shows.</summary>
    public required string Title { get; init; }

    /// <summary>What the horizontal axis counts, with its unit.</summary>
    public string XLabel { get; init; } = "";

    /// <summary>What the vertical axis counts, with its unit.</summary>
    public string YLabel { get; init; } = "";

    /// <summary>Logarithmic vertical axis: every value must be positive. Default false.</summary>
    public bool LogY { get; init; }

    /// <summary>Width of the picture in pixels. Default 760.</summary>
    public double Width { get; init; } = 760;

    /// <summary>Height of the picture in pixels. Default 420.</summary>
    public double Height { get; init; } = 420;

    /// <summary>Width and height of the plot itself.</summary>
    private protected (double Width, double Height) Plot =>
        (Width - Left - Right, Height - Top - Bottom - (LegendRow * LegendRows().Count));

    private protected abstract IReadOnlyList<string> SeriesNames { get; }

    /// <summary>The picture.</summary>
    /// <returns>An SVG document.</returns>
    public string ToSvg()
    {
        var canvas = new SvgCanvas(Width, Height, Title);
        canvas.Text(Width / 2, 26, Title, "middle", "title");
        Draw(canvas);
        canvas.Text(Left + (Plot.Width / 2), Top + Plot.Height + 46, XLabel, "middle");
        canvas.Text(20, Top + (Plot.Height / 2), YLabel, "middle", turn: -90);
        DrawLegend(canvas);
        return canvas.Finish();
    }

    /// <summary>Writes the picture, making the folder where it is missing.</summary>
    /// <param name="path">The file to write.</param>
    public void Save(string path)
    {
        if (Path.GetDirectoryName(path) is { Length: > 0 } folder)
        {
            Directory.CreateDirectory(folder);
        }

        File.WriteAllText(path, ToSvg());
    }

    /// <summary>Draws the axes' ticks and the series.</summary>
    private protected abstract void Draw(SvgCanvas canvas);

    /// <summary>The vertical coordinate of a value.</summary>
    private protected double YOf(Axis axis, double value) => Top + (Plot.Height * (1 - axis.Place(value)));

    private protected void DrawYAxis(SvgCanvas canvas, Axis axis)
    {
        foreach (var tick in axis.Ticks)
        {
            var y = YOf(axis, tick);
            canvas.Line(Left, y, Left + Plot.Width, y, "grid");
            canvas.Text(Left - 8, y + 4, Axis.Label(tick), "end");
        }

        canvas.Line(Left, Top, Left, Top + Plot.Height, "axis");
        canvas.Line(Left, Top + Plot.Height, Left + Plot.Width, Top + Plot.Height, "axis");
    }

    private void DrawLegend(SvgCanvas canvas)
    {
        var rows = LegendRows();
        for (var row = 0; row < rows.Count; row++)
        {
            var (x, y) = (Left, Height - 8 - (LegendRow * (rows.Count - 1 - row)));
            foreach (var series in rows[row])
            {
                canvas.Bar(x, y - 10, 12, 12, series, SeriesNames[series]);
                canvas.Text(x + 18, y, SeriesNames[series]);
                x += EntryWidth(series);
            }
        }
    }

    /// <summary>Series numbers by row of the legend; a single unnamed series needs none.</summary>
    private List<List<int>> LegendRows()
    {
        var rows = new List<List<int>>();
        var used = double.PositiveInfinity;
        for (var series = 0; series < SeriesNames.Count && SeriesNames[series].Length > 0; series++)
        {
            if (used + EntryWidth(series) > Width - Left)
            {
                rows.Add([]);
                used = 0;
            }

            rows[^1].Add(series);
            used += EntryWidth(series);
        }

        return rows;
    }

    private double EntryWidth(int series) => 34 + (SeriesNames[series].Length * CharacterWidth);
}
