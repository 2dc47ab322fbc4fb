using System.Runtime.CompilerServices;
using Hybrid.Mixers;

namespace Hybrid.Tests.Configuration;

/// <summary>Every kind of property that TOML can state, and one that it cannot; registered as the mixer "test_kinds".</summary>
public sealed record TestMixerOptions
{
    public long Long { get; init; } = 1;

    public int Int { get; init; } = 2;

    public double Double { get; init; } = 0.5;

    public bool Bool { get; init; }

    public string Text { get; init; } = "";

    public DayOfWeek Day { get; init; } = DayOfWeek.Sunday;

    public long? MaybeLong { get; init; }

    public int? MaybeInt { get; init; }

    public double? MaybeDouble { get; init; }

    public bool? MaybeBool { get; init; }

    public string? MaybeText { get; init; }

    public DayOfWeek? MaybeDay { get; init; }

    public IReadOnlyList<int> Ints { get; init; } = [];

    public IReadOnlyList<string>? MaybeTexts { get; init; }

    public IReadOnlyList<double> Doubles { get; init; } = [];

    public TestInnerOptions Inner { get; init; } = new();

    public TestInnerOptions? MaybeInner { get; init; }

    /// <summary>Not for TOML.</summary>
    public Func<int>? Factory { get; init; }

    /// <summary>Not for TOML: it cannot be set.</summary>
    public long Twice => 2 * Long;
}

/// <summary>A record in the record. A is 0..10, and less than the width.</summary>
public sealed record TestInnerOptions
{
    public long A { get; init; }

    public long OldName2D { get; init; }

    public void Validate(long width)
    {
        if (A < 0 || A > 10)
        {
            throw new ArgumentOutOfRangeException(nameof(A), A, $"TestInnerOptions.A must be 0..10; got {A}.");
        }

        if (A >= width)
        {
            throw new ArgumentException($"TestInnerOptions: too wide: A, {A}, for {width}", nameof(A));
        }
    }
}

internal static class TestMixerRegistration
{
    public const string Name = "test_kinds";

    [ModuleInitializer]
    internal static void Register() => MixerRegistry.Register<TestMixerOptions>(Name, (width, _) => new MambaMixer(width));
}
