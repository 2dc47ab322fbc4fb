
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

    [Theory]
    [InlineData("_ = P.Maker.Maybe(\"\")!.Length;", null)]
    [InlineData("_ = P.Maker.Maybe(\"\").Length;", "CS8602")]
    [InlineData("P.Maker.Maybe(null);", "CS8625")]
    [InlineData("_ = P.Maker.Unmarked(null).Length;", null)]
    [InlineData("int? n = P.Maker.Number(); _ = n.Length;", "CS1061")]
    [InlineData("P.Maker.Gone();", "CS0619")]
    [InlineData("P.Maker.Over(1, 1.5);", null)]
    [InlineData("P.Maker.Over(1, 1);", "CS0121")]
    [InlineData("P.Maker.Foreign();", "CS0117")]
    [InlineData("P.Maker.Mode(mode: P.Mode.@default);", null)]
    [InlineData("new P.Hidden();", "CS1729")]
    [InlineData("foreach (var size in (P.Hidden)null!) { long s = size; }", null)]
    [InlineData("foreach (var size in (P.Hidden)null!) { int s = size; }", "CS0266")]
    [InlineData("int i = ((P.Shape)null!)[1, 2, 3];", null)]
    [InlineData("_ = new P.Settings { @in = 1 } with { @in = 2 };", null)]
    [InlineData("new P.Settings().@in = 2;", "CS8852")]
    public void AStatementCompilesOrNot(string statement, string? error) =>
        AssertError(error, $"static class Use {{ static void Run() {{ {statement} }} }}");

    [Theory]
    [InlineData("class Mine() : P.Shape(1) { public override int this[int index, params int[] rest] => Rank; }", null)]
    [InlineData("class Mine() : P.Shape(1);", "CS0534")]
    [InlineData("class Mine : P.Shape { public override int this[int index, params int[] rest] => Rank; }", "CS7036")]
    public void ADerivedTypeCompilesOrNot(string declaration, string? error) => AssertError(error, declaration);

    [Fact]
    public void WhatNeedsAnotherPackageIsDroppedAndNamed()
    {
        StubCompiler.RequireCompiler();
        Assert.Equal(["P.Maker :: Foreign (needs Elsewhere.Thing)"], Stubs.Value.Dropped);
    }

    private static void AssertError(string? code, string source)
    {
        StubCompiler.RequireCompiler();
        var output = Path.Combine(ApiFiles.Temporary, $"use-{Guid.NewGuid():N}.dll");
        var errors = StubCompiler.CompileSource(source, output, $"/reference:\"{Stubs.Value.Path}\"", "/nullable:enable", "/warn:4", "/warnaserror:nullable");

        Assert.Equal(code is null ? [] : [code], errors.Select(e => System.Text.RegularExpressions.Regex.Match(e.Text, @"CS\d+").Value).Distinct());
    }
}
