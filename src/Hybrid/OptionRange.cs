namespace Hybrid;

/// <summary>Range checks of option records, with one form of error text.</summary>
internal static class OptionRange
{
    public static void AtLeast(string owner, string option, double value, double minimum) =>
        Require(value >= minimum, owner, option, value, $"at least {minimum}");

    public static void Positive(string owner, string option, double value) =>
        Require(value > 0 && double.IsFinite(value), owner, option, value, "positive");

    public static void Between(string owner, string option, double value, double minimum, double maximum) =>
        Require(value >= minimum && value <= maximum, owner, option, value, $"{minimum}..{maximum}");

    /// <summary>A probability of dropping: 0 up to, not including, 1.</summary>
    public static void DropRate(string owner, string option, double value) =>
        Require(value is >= 0 and < 1, owner, option, value, "0 or more and below 1");

    private static void Require(bool holds, string owner, string option, double value, string expected)
    {
        if (!holds)
        {
            throw new ArgumentOutOfRangeException(option, value, $"{owner}.{option} must be {expected}; got {value}.");
        }
    }
}
