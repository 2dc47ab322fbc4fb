using System.Globalization;

namespace Hybrid.Samples.Charts;

/// <summary>A linear or logarithmic scale: its range, its ticks, and where a value stands between its ends.</summary>
internal sealed class Axis
{
    private const int WantedTicks = 6;
    private static readonly double[] StepFactors = [1, 2, 5, 10];
    private readonly double first;
    private readonly double last;
    private readonly bool isLog;

    private Axis(double first, double last, bool isLog, IReadOnlyList<double> ticks) =>
        (this.first, this.last, this.isLog, Ticks) = (first, last, isLog, ticks);

    /// <summary>Values that get a tick, ascending.</summary>
    public IReadOnlyList<double> Ticks { get; }

    /// <summary>The axis for some values. A logarithmic one spans whole powers of ten, a linear one whole steps of 1, 2 or 5.</summary>
    /// <param name="values">What the axis must hold; not empty.</param>
    /// <param name="isLog">Logarithmic; then every value must be positive.</param>
    /// <param name="fromZero">Starts a linear axis at zero where no value is below.</param>
    public static Axis For(IEnumerable<double> values, bool isLog, bool fromZero)
    {
        var all = values.ToArray();
        if (all.Length == 0 || !all.All(double.IsFinite))
        {
            throw new ArgumentException("Axis: a chart needs at least one value, and all of them finite.", nameof(values));
        }

        if (isLog && all.Min() <= 0)
        {
            throw new ArgumentException($"Axis: a logarithmic axis takes positive values; got {all.Min()}.", nameof(values));
        }

        return isLog ? Logarithmic(all.Min(), all.Max()) : Linear(fromZero ? Math.Min(0, all.Min()) : all.Min(), all.Max());
    }

    /// <summary>The axis that has a tick at each of some values, for lengths that double, say.</summary>
    public static Axis WithTicksAt(IEnumerable<double> values, bool isLog)
    {
        double[] ticks = [.. values.Distinct().Order()];
        return new Axis(ticks[0], ticks[^1], isLog, ticks);
    }

    /// <summary>0 at the low end, 1 at the high one.</summary>
    public double Place(double value)
    {
        var (low, high, at) = isLog ? (Math.Log(first), Math.Log(last), Math.Log(value)) : (first, last, value);
        return high > low ? (at - low) / (high - low) : 0.5;
    }

    /// <summary>The text at a tick.</summary>
    public static string Label(double tick)
    {
        var size = Math.Abs(tick);
        return size is 0 or (>= 1e-3 and < 1e6)
            ? tick.ToString("#,0.######", CultureInfo.InvariantCulture)
            : tick.ToString("0.##e0", CultureInfo.InvariantCulture);
    }

    private static Axis Logarithmic(double low, double high)
    {
        var (from, to) = ((int)Math.Floor(Math.Log10(low)), (int)Math.Ceiling(Math.Log10(high)));
        to = Math.Max(to, from + 1);
        var ticks = Enumerable.Range(from, to - from + 1).Select(power => Math.Pow(10, power)).ToArray();
        return new Axis(ticks[0], ticks[^1], true, ticks);
    }

    private static Axis Linear(double low, double high)
    {
        if (high <= low)
        {
            (low, high) = (low - Math.Max(Math.Abs(low), 1) / 2, high + Math.Max(Math.Abs(high), 1) / 2);
        }

        var rough = (high - low) / WantedTicks;
        var power = Math.Pow(10, Math.Floor(Math.Log10(rough)));
        var step = StepFactors.Select(factor => factor * power).First(candidate => candidate >= rough * 0.999);
        var (from, to) = ((long)Math.Floor((low / step) + 1e-9), (long)Math.Ceiling((high / step) - 1e-9));
        var ticks = Enumerable.Range(0, (int)(to - from) + 1).Select(i => (from + i) * step).ToArray();
        return new Axis(ticks[0], ticks[^1], false, ticks);
    }
}
