using System.Globalization;

namespace Hybrid.Routing;

/// <summary>
/// A rule of a <see cref="CompositePolicy"/>: conditions that must all hold, and the branch they lead to. As text:
/// <c>training and length &gt; 1024 -&gt; mamba</c>. A condition is <c>training</c>, <c>not training</c> or a comparison
/// (<c>&lt; &lt;= &gt; &gt;= ==</c>) of <c>length</c>, <c>batch_size</c>, <c>free_memory_mib</c>, <c>repetition</c>, <c>novelty</c> or
/// <c>variance</c> with a number. A comparison with something that was not measured does not hold.
/// </summary>
public sealed class RoutingRule
{
    private const string Form = "conditions joined by 'and', then '-> mamba' or '-> attention', as in \"training and length > 1024 -> mamba\"";
    private static readonly string[] Comparisons = ["<=", ">=", "==", "<", ">"];

    private static readonly Dictionary<string, (Signal Signal, RoutingInputs Inputs)> Signals = new(StringComparer.Ordinal)
    {
        ["length"] = (Signal.Length, RoutingInputs.None),
        ["batch_size"] = (Signal.BatchSize, RoutingInputs.None),
        ["free_memory_mib"] = (Signal.FreeMemory, RoutingInputs.FreeMemory),
        ["repetition"] = (Signal.Repetition, RoutingInputs.Content),
        ["novelty"] = (Signal.Novelty, RoutingInputs.Content),
        ["variance"] = (Signal.Variance, RoutingInputs.Content),
    };

    private readonly Condition[] conditions;

    private RoutingRule(string text, Condition[] conditions, Route route, RoutingInputs inputs)
    {
        Text = text;
        Route = route;
        Inputs = inputs;
        this.conditions = conditions;
    }

    private enum Signal
    {
        Training,
        Length,
        BatchSize,
        FreeMemory,
        Repetition,
        Novelty,
        Variance,
    }

    private readonly record struct Condition(Signal Signal, string Comparison, double Value);

    /// <summary>The rule as it was written.</summary>
    public string Text { get; }

    /// <summary>The branch.</summary>
    public Route Route { get; }

    /// <summary>What its conditions read.</summary>
    public RoutingInputs Inputs { get; }

    /// <summary>Reads a rule.</summary>
    /// <param name="text">The rule.</param>
    /// <returns>The rule.</returns>
    /// <exception cref="ArgumentException">The text is no rule.</exception>
    public static RoutingRule Parse(string text)
    {
        var sides = text.Split("->");
        if (sides.Length != 2)
        {
            throw Wrong(text, Form);
        }

        var route = sides[1].Trim() switch
        {
            "mamba" => Route.Mamba,
            "attention" => Route.Attention,
            var other => throw Wrong(text, $"'-> mamba' or '-> attention'; got '-> {other}'"),
        };
        var inputs = RoutingInputs.None;
        var conditions = sides[0].Split(" and ").Select(part => ParseCondition(text, part.Trim(), ref inputs)).ToArray();
        return new RoutingRule(text, conditions, route, inputs);
    }

    /// <summary>True where every condition holds.</summary>
    /// <param name="request">The request.</param>
    /// <returns>Whether the rule applies.</returns>
    public bool Matches(in RoutingRequest request)
    {
        foreach (var condition in conditions)
        {
            if (!Holds(condition, Value(condition.Signal, request)))
            {
                return false;
            }
        }

        return true;
    }

    /// <inheritdoc/>
    public override string ToString() => Text;

    private static Condition ParseCondition(string rule, string text, ref RoutingInputs inputs)
    {
        if (text is "training" or "not training")
        {
            return new Condition(Signal.Training, "==", text == "training" ? 1 : 0);
        }

        if (Array.Find(Comparisons, sign => text.Contains(sign, StringComparison.Ordinal)) is not { } comparison)
        {
            throw Wrong(rule, $"'training', 'not training' or a comparison; got '{text}'");
        }

        var at = text.IndexOf(comparison, StringComparison.Ordinal);
        var (name, number) = (text[..at].Trim(), text[(at + comparison.Length)..].Trim());
        if (!Signals.TryGetValue(name, out var signal))
        {
            throw Wrong(rule, $"one of {string.Join(", ", Signals.Keys)} before '{comparison}'; got '{name}'");
        }

        if (!double.TryParse(number, NumberStyles.Float, CultureInfo.InvariantCulture, out var value) || !double.IsFinite(value))
        {
            throw Wrong(rule, $"a number after '{comparison}'; got '{number}'");
        }

        inputs |= signal.Inputs;
        return new Condition(signal.Signal, comparison, value);
    }

    /// <summary>What is compared; NaN, for which no comparison holds, where it was not measured.</summary>
    private static double Value(Signal signal, in RoutingRequest request) => signal switch
    {
        Signal.Training => request.Training ? 1 : 0,
        Signal.Length => request.Length,
        Signal.BatchSize => request.BatchSize,
        Signal.FreeMemory => request.FreeMemoryMib ?? double.NaN,
        Signal.Repetition => request.Content?.Repetition ?? double.NaN,
        Signal.Novelty => request.Content?.Novelty ?? double.NaN,
        _ => request.Content?.Variance ?? double.NaN,
    };

    private static bool Holds(in Condition condition, double value) => condition.Comparison switch
    {
        "<=" => value <= condition.Value,
        ">=" => value >= condition.Value,
        "==" => value == condition.Value,
        "<" => value < condition.Value,
        _ => value > condition.Value,
    };

    private static ArgumentException Wrong(string rule, string expected) =>
        new($"RoutingRule: the rule \"{rule}\" must have {expected}.", nameof(rule));
}
