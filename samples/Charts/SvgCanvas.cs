using System.Globalization;
using System.Security;
using System.Text;

namespace Hybrid.Samples.Charts;

/// <summary>Writes SVG elements. Colours are classes, so that one file is readable on light and on dark pages.</summary>
internal sealed class SvgCanvas
{
    // Okabe and Ito's colours, which colour-blind readers tell apart, darker on white and lighter on black.
    private static readonly string[] OnLight = ["#0072b2", "#d55e00", "#008f6b", "#b0578d", "#9a7d00", "#2a8fc7", "#555555", "#7a4fbf"];
    private static readonly string[] OnDark = ["#56b4e9", "#ff8b3d", "#2fd0a5", "#e79bc8", "#f0e442", "#8fd0ff", "#bbbbbb", "#b79bff"];
    private readonly StringBuilder text = new();

    public SvgCanvas(double width, double height, string title)
    {
        text.AppendLine(CultureInfo.InvariantCulture, $"""
            <svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">
            <title>{Escape(title)}</title>
            <style>
            text {Braced("font: 12px 'Segoe UI', 'DejaVu Sans', sans-serif")}
            .title {Braced("font-size: 16px; font-weight: 600")}
            {Theme("#ffffff", "#222222", "#dcdcdc", OnLight)}
            @media (prefers-color-scheme: dark) {Braced(Theme("#14171c", "#e6e6e6", "#3a3f47", OnDark))}
            </style>
            <rect class="page" width="{width}" height="{height}"/>
            """);
    }

    /// <summary>Number of distinct series colours; more series repeat them.</summary>
    public static int Colours => OnLight.Length;

    /// <summary>The document.</summary>
    public string Finish() => text + "</svg>\n";

    public void Line(double x1, double y1, double x2, double y2, string css) =>
        text.AppendLine(CultureInfo.InvariantCulture, $"""<line class="{css}" x1="{x1:0.##}" y1="{y1:0.##}" x2="{x2:0.##}" y2="{y2:0.##}"/>""");

    public void Path(IEnumerable<(double X, double Y)> points, int series)
    {
        var list = string.Join(' ', points.Select(point => string.Create(CultureInfo.InvariantCulture, $"{point.X:0.##},{point.Y:0.##}")));
        text.AppendLine(CultureInfo.InvariantCulture, $"""<polyline class="line s{series % Colours}" points="{list}"/>""");
    }

    public void Dot(double x, double y, int series, string hint) =>
        text.AppendLine(
            CultureInfo.InvariantCulture,
            $"""<circle class="fill s{series % Colours}" cx="{x:0.##}" cy="{y:0.##}" r="3"><title>{Escape(hint)}</title></circle>""");

    public void Bar(double x, double y, double width, double height, int series, string hint) =>
        text.AppendLine(
            CultureInfo.InvariantCulture,
            $"""<rect class="fill s{series % Colours}" x="{x:0.##}" y="{y:0.##}" width="{width:0.##}" height="{height:0.##}"><title>{Escape(hint)}</title></rect>""");

    public void Text(double x, double y, string content, string anchor = "start", string css = "text", double turn = 0)
    {
        var rotation = turn == 0 ? "" : string.Create(CultureInfo.InvariantCulture, $" transform=\"rotate({turn} {x:0.##} {y:0.##})\"");
        text.AppendLine(
            CultureInfo.InvariantCulture, $"""<text class="{css}" x="{x:0.##}" y="{y:0.##}" text-anchor="{anchor}"{rotation}>{Escape(content)}</text>""");
    }

    private static string Theme(string page, string ink, string grid, string[] colours)
    {
        var rules = new StringBuilder($".page {{ fill: {page} }} text {{ fill: {ink} }} .axis {{ stroke: {ink} }} .grid {{ stroke: {grid} }}");
        for (var i = 0; i < colours.Length; i++)
        {
            rules.Append(CultureInfo.InvariantCulture, $" .fill.s{i} {{ fill: {colours[i]} }}");
            rules.Append(CultureInfo.InvariantCulture, $" .line.s{i} {{ stroke: {colours[i]}; stroke-width: 2; fill: none }}");
        }

        return rules.ToString();
    }

    private static string Braced(string rules) => $"{{ {rules} }}";

    private static string Escape(string content) => SecurityElement.Escape(content);
}
