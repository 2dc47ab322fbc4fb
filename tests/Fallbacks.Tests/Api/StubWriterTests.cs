using System.Globalization;
using System.Text.RegularExpressions;

namespace Fallbacks.Tests.Api;

/// <summary>What compiles against a stub, and what does not, is what would against the package.</summary>
public sealed class StubWriterTests
{
    private static readonly string[] List =
    [
        "P.Maker :: <type> public static class",
        "P.Maker :: static string? Maybe(string sure)",
        "P.Maker :: static string Unmarked(string value = null)",
        "P.Maker :: static int? Number()",
        "P.Maker :: static void Gone() [Obsolete(\"gone\", error)]",
        "P.Maker :: static int Over(long a, double b)",
        "P.Maker :: static int Over(double a, long b)",
        "P.Maker :: static Elsewhere.Thing Foreign()",
        "P.Maker :: static int Mode(P.Mode mode = P.Mode.default)",
        "P.Mode :: <type> public enum : int",
        "P.Mode :: default = 2",
        "P.Shape :: <type> public abstract class : System.Collections.Generic.IReadOnlyList<long>",
        "P.Shape :: protected Shape(int rank)",
        "P.Shape :: protected internal virtual int Rank { get; }",
        "P.Shape :: abstract int this[int index, params int[] rest] { get; }",
        "P.Hidden :: <type> public class : P.Shape",
        "P.Hidden :: override int this[int index, params int[] rest] { get; }",
        "P.Settings :: <type> public sealed class : System.IEquatable<P.Settings>",
        "P.Settings :: Settings()",
        "P.Settings :: bool Equals(P.Settings? other)",
        "P.Settings :: override bool Equals(object? obj)",
        "P.Settings :: static bool operator !=(P.Settings? left, P.Settings? right)",
        "P.Settings :: static bool operator ==(P.Settings? left, P.Settings? right)",
        "P.Settings :: int in { get; init; }",
    ];

    private static readonly Lazy<(string Path, List<string> Dropped)> Stubs = new(() =>
    {
        var writer = new StubWriter(ApiList.Parse(List), "P", new Version(1, 0));
        var path = Path.Combine(ApiFiles.Temporary, "P.dll");
        Assert.Empty(StubCompiler.CompileSource(writer.Write(), path).Select(e => e.Text));
        return (path, writer.Dropped);
    });

    private const string Fine = "";

    public static TheoryData<string, string> Statements => new()
    {
        { "_ = P.Maker.Maybe(\"\")!.Length;", Fine },
        { "_ = P.Maker.Maybe(\"\").Length;", "CS8602" },
        { "P.Maker.Maybe(null);", "CS8625" },
        { "_ = P.Maker.Unmarked(null).Length;", Fine },
        { "int? n = P.Maker.Number(); _ = n.Length;", "CS1061" },
        { "P.Maker.Gone();", "CS0619" },
        { "P.Maker.Over(1, 1.5);", Fine },
        { "P.Maker.Over(1, 1);", "CS0121" },
        { "P.Maker.Foreign();", "CS0117" },
        { "P.Maker.Mode(mode: P.Mode.@default);", Fine },
        { "new P.Hidden();", "CS1729" },
        { "foreach (var size in (P.Hidden)null!) { long s = size; }", Fine },
        { "foreach (var size in (P.Hidden)null!) { int s = size; }", "CS0266" },
        { "int i = ((P.Shape)null!)[1, 2, 3];", Fine },
        { "_ = new P.Settings { @in = 1 } with { @in = 2 };", Fine },
        { "new P.Settings().@in = 2;", "CS8852" },
    };

    private static readonly Lazy<ILookup<string, string>> StatementErrors = new(() => Errors(Statements.Select(r => $"static void Run() {{ {r.Data.Item1} }}")));

    [Theory]
    [MemberData(nameof(Statements))]
    public void AStatementCompilesOrNot(string statement, string error)
    {
        StubCompiler.RequireCompiler();
        Assert.Equal(error == Fine ? [] : [error], StatementErrors.Value[$"static void Run() {{ {statement} }}"]);
    }

    // Compiled one by one: an error in one declaration keeps the compiler from looking into bodies elsewhere.
    [Theory]
    [InlineData("class Mine() : P.Shape(1) { public override int this[int index, params int[] rest] => Rank; }", Fine)]
    [InlineData("class Mine() : P.Shape(1);", "CS0534")]
    [InlineData("class Mine : P.Shape { public override int this[int index, params int[] rest] => Rank; }", "CS7036")]
    public void ADerivedTypeCompilesOrNot(string declaration, string error)
    {
        StubCompiler.RequireCompiler();
        Assert.Equal(error == Fine ? [] : [error], Errors([declaration])[declaration]);
    }

    [Fact]
    public void WhatNeedsAnotherPackageIsDroppedAndNamed()
    {
        StubCompiler.RequireCompiler();
        Assert.Equal(["P.Maker :: Foreign (needs Elsewhere.Thing)"], Stubs.Value.Dropped);
    }

    /// <summary>The error numbers of each member, which stands on a line of its own in a class of its own.</summary>
    private static ILookup<string, string> Errors(IEnumerable<string> members)
    {
        var lines = members.ToList();
        var source = string.Join('\n', lines.Select((line, i) => $"static class Use{i} {{ {line} }}"));
        var output = Path.Combine(ApiFiles.Temporary, $"use-{Guid.NewGuid():N}.dll");
        return StubCompiler.CompileSource(source, output, $"/reference:\"{Stubs.Value.Path}\"", "/nullable:enable", "/warn:4", "/warnaserror:nullable")
            .Select(e => Regex.Match(e.Text, @"\((\d+),\d+\): error (CS\d+)"))
            .ToLookup(m => lines[int.Parse(m.Groups[1].Value, CultureInfo.InvariantCulture) - 1], m => m.Groups[2].Value);
    }
}
