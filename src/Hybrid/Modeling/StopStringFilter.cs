using System.Text;

namespace Hybrid.Modeling;

/// <summary>
/// Passes a text on in pieces up to the first of some strings, and holds back what may be the beginning of one. The first is the one that is
/// complete first, so that it does not matter how the text is cut into pieces; of two that end together, the longer.
/// </summary>
/// <param name="stops">The strings; none empty.</param>
internal sealed class StopStringFilter(IReadOnlyCollection<string> stops)
{
    private readonly StringBuilder held = new();

    /// <summary>True once one of the strings came.</summary>
    public bool Stopped { get; private set; }

    /// <summary>Adds a piece.</summary>
    /// <param name="piece">Text that follows the pieces before.</param>
    /// <returns>The text that is certain to come before any of the strings.</returns>
    public string Append(string piece)
    {
        if (stops.Count == 0)
        {
            return piece;
        }

        held.Append(piece);
        var text = held.ToString();
        var found = stops.Select(stop => (Begin: text.IndexOf(stop, StringComparison.Ordinal), stop.Length)).Where(place => place.Begin >= 0).ToArray();
        Stopped = found.Length > 0;
        var certain = Stopped
            ? found.MinBy(place => (place.Begin + place.Length, place.Begin)).Begin
            : text.Length - LongestBeginning(text);
        held.Clear();
        held.Append(Stopped ? "" : text[certain..]);
        return text[..certain];
    }

    /// <summary>Ends the text.</summary>
    /// <returns>What was held back and turned out to be text.</returns>
    public string Finish()
    {
        var rest = held.ToString();
        held.Clear();
        return rest;
    }

    /// <summary>Length of the longest end of a text that one of the strings begins with.</summary>
    private int LongestBeginning(string text)
    {
        for (var length = Math.Min(text.Length, stops.Max(stop => stop.Length) - 1); length > 0; length--)
        {
            var end = text.AsSpan(text.Length - length);
            foreach (var stop in stops)
            {
                if (stop.AsSpan().StartsWith(end))
                {
                    return length;
                }
            }
        }

        return 0;
    }
}
