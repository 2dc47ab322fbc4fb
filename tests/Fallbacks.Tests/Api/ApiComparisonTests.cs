using System.Text.RegularExpressions;

namespace Fallbacks.Tests.Api;

/// <summary>The comparison finds each kind of difference, and none where there is none.</summary>
public sealed class ApiComparisonTests
{
    private static readonly string[] List =
    [
        "P.Kind :: <type> public enum : int",
        "P.Kind :: First = 0",
        "P.Kind :: default = 1",
        "P.IBox<T> :: <type> public interface",
        "P.IBox<T> :: T Take(int at)",
        "P.Base :: <type> public abstract class : System.IDisposable",
        "P.Base :: protected Base(string? name)",
        "P.Base :: abstract (P.Base left, long? right) Split(params long[] sizes)",
        "P.Base :: virtual void Move(P.Kind kind = P.Kind.First, double eps = 1E-08, string? name = null)",
        "P.Base :: void Dispose()",
        "P.Outer :: <type> public static class",
        "P.Outer :: const int Limit = 3;",
        "P.Outer :: static T As<T>(this P.Base source, System.ReadOnlySpan<T> data) where T : unmanaged",
        "P.Outer :: static bool Try(P.Base source, out P.Base? result) [Obsolete(\"use As (it throws)\", error)]",
        "P.Outer.Leaf<T> :: <type> public sealed class : P.Base, P.IBox<T[]>, System.Collections.Generic.IList<(T, int)> where T : class, new()",
        "P.Outer.Leaf<T> :: Leaf(T? value, float scale = 1f)",
        "P.Outer.Leaf<T> :: override (P.Base left, long? right) Split(params long[] sizes)",
        "P.Outer.Leaf<T> :: T this[(int? start, int? end) range] { get; }",
        "P.Outer.Leaf<T> :: long out { get; set; }",
        "P.Outer.Leaf<T> :: static implicit operator P.Outer.Leaf<T>(int value)",
        "P.Outer.Leaf<T> :: static bool operator <(P.Outer.Leaf<T> a, P.Outer.Leaf<T> b)",
        "P.Outer.Leaf<T> :: static bool operator >(P.Outer.Leaf<T> a, P.Outer.Leaf<T> b)",
        "P.Outer.Leaf<T> :: readonly T? Value;",
    ];

    /// <summary>A hand-written part of the list above, with an implementation's private and internal members.</summary>
    private const string Source = """
        public enum Kind { First, @default }
        internal interface IMark { }
        public abstract class Base : System.IDisposable, IMark
        {
            private protected int hidden;
            protected Base(string? name) => Name = name;
            internal string? Name { get; }
            public abstract (Base left, long? right) Split(params long[] sizes);
            public virtual void Move(Kind kind = Kind.First, double eps = 1e-8, string? name = null) { }
            public void Dispose() { }
        }
        public interface IBox<T> { T Take(int at); }
        public static class Outer
        {
            public const int Limit = 3;
            public static T As<T>(this Base source, System.ReadOnlySpan<T> data) where T : unmanaged => default;
            public sealed class Leaf<T> : Base, IBox<T[]> where T : class, new() {
                public readonly T? Value;
                public Leaf(T? value, float scale = 1) : base(null) => Value = value;
                public override (Base left, long? right) Split(params long[] sizes) => throw null!;
                public T this[(int? start, int? end) range] => Value!;
                public long @out { get; set; }
                public static implicit operator Leaf<T>(int value) => null!;
                T[] IBox<T[]>.Take(int at) => [];
            }
        }
        """;

    private static readonly (string Original, string Changed, string Difference)[] Changes =
    [
        ("@default }", "@default, Third }", "P.Kind :: Third = 2"),
        ("Kind { First, @default }", "Kind { @default, First }", "P.Kind :: default = 0"),
        ("enum Kind", "enum Kind : long", "P.Kind :: <type> P.Kind: public enum : long"),
        ("protected Base(string? name)", "public Base(string? name)", "P.Base :: Base(string name)"),
        ("protected Base(string? name) => Name = name;", "protected Base(string? nom) => Name = nom;", "P.Base :: protected Base(string nom)"),
        ("eps = 1e-8", "eps = 1e-7", "P.Base :: virtual void Move(P.Kind kind = P.Kind.First, double eps = 1E-07"),
        ("virtual void Move", "void Move", "P.Base :: void Move("),
        ("void Dispose()", "virtual void Dispose()", "P.Base :: virtual void Dispose()"),
        ("Kind kind = Kind.First", "Kind kind = Kind.@default", "P.Base :: virtual void Move(P.Kind kind = P.Kind.default"),
        ("string? name = null) { }", "string? name = \"\") { }", "P.Base :: virtual void Move(P.Kind kind = P.Kind.First, double eps = 1E-08, string name = \"\")"),
        ("(Base left, long? right) Split", "(Base left, long? rest) Split", "P.Base :: abstract (P.Base left, long? rest) Split"),
        ("long? right) Split", "long right) Split", "P.Base :: abstract (P.Base left, long right) Split"),
        ("params long[] sizes", "long[] sizes", "P.Base :: abstract (P.Base left, long? right) Split(long[] sizes)"),
        ("Limit = 3", "Limit = 4", "P.Outer :: const int Limit = 4;"),
        ("const int Limit", "static readonly int Limit", "P.Outer :: readonly static int Limit;"),
        ("this Base source", "Base source", "P.Outer :: static T As<T>(P.Base source"),
        ("where T : unmanaged", "where T : struct", "P.Outer :: static T As<T>(this P.Base source, System.ReadOnlySpan<T> data) where T : struct"),
        ("System.ReadOnlySpan<T> data", "in T data", "P.Outer :: static T As<T>(this P.Base source, in T data)"),
        ("sealed class Leaf", "class Leaf", "P.Outer.Leaf<T> :: <type> P.Outer.Leaf<T>: public class : P.Base where T : class, new()"),
        ("where T : class, new()", "where T : class", "P.Outer.Leaf<T> :: <type> P.Outer.Leaf<T>: public sealed class : P.Base where T : class"),
        ("IBox<T[]> where T : class, new() {", "IBox<T[]>, System.ICloneable where T : class, new() { object System.ICloneable.Clone() => this;", "P.Outer.Leaf<T> :: <type> implements System.ICloneable"),
        ("public readonly T? Value", "public T? Value", "P.Outer.Leaf<T> :: T Value;"),
        ("float scale = 1", "double scale = 1", "P.Outer.Leaf<T> :: Leaf(T value, double scale = 1.0)"),
        ("@out { get; set; }", "@out { get; init; }", "P.Outer.Leaf<T> :: long out { get; init; }"),
        ("(int? start, int? end) range", "(int start, int end) range", "P.Outer.Leaf<T> :: T this[(int start, int end) range] { get; }"),
        ("implicit operator", "explicit operator", "P.Outer.Leaf<T> :: explicit static operator P.Outer.Leaf<T>(int value)"),
        ("T[] IBox<T[]>.Take(int at) => [];", "T[] IBox<T[]>.Take(int at) => []; public struct New { }", "P.Outer.Leaf<T>.New :: no such type"),
    ];

    /// <summary>Every variant in a namespace of its own (V0 is unchanged), so that one compilation does for all.</summary>
    private static readonly Lazy<List<ApiType>> Variants = new(() =>
    {
        var variants = Changes.Select(c => Source.Replace(c.Original, c.Changed)).Prepend(Source);
        return Compile("#nullable enable\n" + string.Concat(variants.Select((source, v) => $"namespace V{v}.P\n{{\n{source}\n}}\n")));
    });

    public static TheoryData<int, string> Rows
    {
        get
        {
            var rows = new TheoryData<int, string>();
            foreach (var (row, change) in Changes.Index())
            {
                rows.Add(row, change.Changed);
            }

            return rows;
        }
    }

    [Fact]
    public void FindsNothingInAPartOfTheList() => Assert.Empty(Differences(0));

    [Theory]
    [MemberData(nameof(Rows))]
    public void FindsEachChange(int row, string changed)
    {
        Assert.Contains(Changes[row].Original, Source);
        Assert.Equal(Changes[row].Changed, changed);

        // An override changes with what it overrides, so one change may show up twice.
        Assert.Contains(Differences(row + 1), d => d.StartsWith(Changes[row].Difference, StringComparison.Ordinal));
    }

    [Fact]
    public void FindsNothingInTheStubs()
    {
        StubCompiler.RequireCompiler();
        var list = ApiList.Parse(List);
        var stubs = new StubWriter(list, "P", new Version(1, 2, 3, 4)).Write();

        Assert.Empty(ApiComparison.Differences(Compile(stubs), list));
    }

    private static List<string> Differences(int variant)
    {
        StubCompiler.RequireCompiler();
        var list = ApiList.Parse(List.Select(line => Regex.Replace(line, @"\bP\.", $"V{variant}.P.")));
        var types = Variants.Value.Where(t => t.FullName.StartsWith($"V{variant}.", StringComparison.Ordinal));
        return ApiComparison.Differences(types, list).ConvertAll(d => d.Replace($"V{variant}.", ""));
    }

    private static List<ApiType> Compile(string source)
    {
        var output = Path.Combine(ApiFiles.Temporary, $"comparison-{Guid.NewGuid():N}.dll");
        Assert.Empty(StubCompiler.CompileSource(source, output).Select(m => m.Text));
        return ReflectedApi.Read(output);
    }
}
