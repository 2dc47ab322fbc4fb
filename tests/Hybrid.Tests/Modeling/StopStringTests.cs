using FsCheck;
using FsCheck.Fluent;
using Hybrid.Modeling;
using Xunit;

namespace Hybrid.Tests.Modeling;

public class StopStringTests
{
    private static readonly GenerationOptions Options = new() { MaxNewTokens = 120, Seed = 3 };

    [Fact]
    public void AnyCutOfTheTextGivesTheTextBeforeTheFirstStop()
    {
        // Two letters, so that beginnings of stop strings overlap all the time.
        var text = Gen.ListOf(Gen.Elements('a', 'b')).Select(letters => string.Concat(letters));
        var stop = Gen.NonEmptyListOf(Gen.Elements('a', 'b')).Select(letters => string.Concat(letters.Take(5)));
        var cases = text.SelectMany(_ => Gen.ListOf(stop, 3), (text, stops) => (text, stops)).SelectMany(_ => Gen.ListOf(Gen.Choose(0, 4), 60), (test, cuts) => (test.text, test.stops, cuts));
        Check.One(Config.QuickThrowOnFailure.WithMaxTest(500), Prop.ForAll(cases.ToArbitrary(), test =>
        {
            var filter = new StopStringFilter([.. test.stops]);
            var (rest, passed) = (test.text, "");
            foreach (var cut in test.cuts)
            {
                if (filter.Stopped)
                {
                    break;
                }

                var length = Math.Min(cut, rest.Length);
                passed += filter.Append(rest[..length]);
                rest = rest[length..];
            }

            passed += filter.Stopped ? "" : filter.Append(rest);
            passed += filter.Stopped ? "" : filter.Finish();
            Assert.Equal(Expected(test.text, test.stops), passed);
        }));

        // Letter by letter: the text ends with the first letter that completes a stop string, less the longest one it completes.
        static string Expected(string text, IEnumerable<string> stops)
        {
            for (var end = 1; end <= text.Length; end++)
            {
                if (stops.Where(stop => text[..end].EndsWith(stop, StringComparison.Ordinal)).MaxBy(stop => stop.Length) is { } stop)
                {
                    return text[..(end - stop.Length)];
                }
            }

            return text;
        }
    }

    [Fact]
    public void WhatCannotBeAStopStringIsNotHeldBack()
    {
        var filter = new StopStringFilter(["###", "\nEnd"]);
        Assert.Equal(["one", "two", "", "#x", "", ""], new[] { "one", "two", "#", "x", "\n", "E" }.Select(filter.Append));
        Assert.Equal("\nE", filter.Finish());
        Assert.Equal(["a", ""], new[] { "a#", "##b" }.Select(filter.Append));
        Assert.True(filter.Stopped);
    }

    [Fact]
    public void AStopStringEndsTheTextAndIsNotReturned()
    {
        using var model = TextModel.Create();
        var all = string.Concat(model.Generate("abc", Options));
        var stop = all.Substring(40, 4);
        using var generator = new TextGenerator(model, Options with { StopStrings = ["never this", stop] });
        var text = string.Concat(generator.Generate("abc"));
        Assert.Equal(all[..all.IndexOf(stop, StringComparison.Ordinal)], text);
        Assert.Equal(FinishReason.StopString, generator.FinishReason);
        Assert.Equal(3, generator.PromptTokens);
        Assert.InRange(generator.GeneratedTokens, text.Length, 119);
    }

    [Fact]
    public void StopStringsWithoutTextAreRefused()
    {
        using var model = TextModel.Create();
        Assert.Throws<ArgumentException>(() => new TokenGenerator(model, new() { StopStrings = ["x"] }));
        Assert.Throws<ArgumentException>(() => new BatchGenerator(model, [[1]], new() { StopStrings = ["x"] }));
        Assert.Throws<ArgumentException>(() => new TextGenerator(model, new() { StopStrings = ["x", ""] }));
    }
}
