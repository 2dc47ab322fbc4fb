using System.Text;
using System.Text.RegularExpressions;

namespace Fallbacks.Tests.Api;

/// <summary>
/// Writes an API list as C# whose bodies all throw: enough to compile against, with every overload of the real package.
/// </summary>
/// <remarks>
/// What the list leaves out is made up so that it compiles and stays invisible: an internal constructor that derived
/// stubs chain to, and explicit implementations of the listed interfaces. Members that name a type of a package that
/// is neither listed nor part of the framework are dropped and reported in <see cref="Dropped"/>.
/// </remarks>
internal sealed partial class StubWriter(ApiList list, string assemblyName, Version version)
{
    public const string Throw = "throw null!";

    private readonly StringBuilder _out = new();

    public List<string> Dropped { get; } = [];

    public string Write()
    {
        _out.AppendLine("#nullable disable");
        _out.AppendLine($"[assembly: System.Reflection.AssemblyVersion(\"{version}\")]");
        _out.AppendLine($"namespace {assemblyName}.Stubs {{ internal sealed class Chain {{ }} }}");
        var children = list.Types.ToLookup(t => ApiType.Outer(t.FullName));
        foreach (var group in children.Where(g => list.Find(g.Key) is null))
        {
            _out.AppendLine($"namespace {group.Key}").AppendLine("{");
            foreach (var type in group)
            {
                WriteType(type, children);
            }

            _out.AppendLine("}");
        }

        return _out.ToString();
    }

    private void WriteType(ApiType type, ILookup<string, ApiType> children)
    {
        if (type.Keyword == "delegate")
        {
            _out.AppendLine($"{Escape(type.Declaration)};");
            return;
        }

        if (type.Keyword == "enum")
        {
            var values = type.Members.Select(m => $"@{m.Name} = {m.Value}");
            _out.AppendLine($"{type.Modifiers} enum {type.Name} : {type.Bases.Single()} {{ {string.Join(", ", values)} }}");
            return;
        }

        var keyword = IsRecord(type) ? "record" : type.Keyword;
        var bases = type.Bases.Count == 0 ? "" : " : " + Escape(string.Join(", ", type.Bases));
        _out.AppendLine($"{type.Modifiers} unsafe {keyword} {type.Name}{bases} {type.Constraints}").AppendLine("{");
        if (type.Keyword == "class" && !type.Modifiers.Contains("static"))
        {
            _out.AppendLine($"internal {type.SimpleName}({assemblyName}.Stubs.Chain _){ChainToBase(type)} => {Throw};");
        }

        foreach (var member in type.Members.Where(m => !IsMadeByRecord(type, m)))
        {
            if (Unresolved(member) is { } external)
            {
                Dropped.Add($"{type.FullName} :: {member.Name} (needs {external})");
                continue;
            }

            _out.AppendLine(HasAnnotations(member) ? "#nullable enable" : "#nullable disable");
            WriteMember(type, member);
        }

        _out.AppendLine("#nullable disable");
        if (type.Keyword != "interface")
        {
            foreach (var implementation in ExplicitImplementations.Of(type, list))
            {
                _out.AppendLine(Escape(implementation));
            }
        }

        foreach (var nested in children[type.FullName])
        {
            WriteType(nested, children);
        }

        _out.AppendLine("}");
    }

    private void WriteMember(ApiType type, ApiMember member)
    {
        if (member.Obsolete is { } obsolete)
        {
            _out.AppendLine(obsolete.Length == 0 ? "[System.Obsolete]" : $"[System.Obsolete({obsolete.Replace(", error", ", true")})]");
        }

        var isInterface = type.Keyword == "interface";
        var isPublic = !isInterface && !member.Has("protected") && member.Kind != ApiMemberKind.Finalizer;
        var modifiers = (isPublic ? "public " : "") + string.Join("", member.Modifiers.Where(m => m is not ("implicit" or "explicit")).Select(m => m + " "));
        var body = isInterface || member.Has("abstract") ? ";" : $" => {Throw};";
        var returns = Escape(member.Type);
        var parameters = string.Join(", ", member.Parameters.Select(Parameter));
        _out.AppendLine(member.Kind switch
        {
            ApiMemberKind.Constructor when type.Keyword == "struct" => $"{modifiers}{member.Name}({parameters}) => {Throw};",
            ApiMemberKind.Constructor => $"{modifiers}{member.Name}({parameters}){ChainToBase(type)} => {Throw};",
            ApiMemberKind.Finalizer => $"~{member.Name}() {{ }}",
            ApiMemberKind.Method => $"{modifiers}{returns} @{member.Name}{member.TypeParameters}({parameters}) {Escape(Constraints(member))}{body}",
            ApiMemberKind.Operator => $"{modifiers}{returns} operator {member.Name}({parameters}){body}",
            ApiMemberKind.Conversion => $"{modifiers}{member.Name} operator {returns}({parameters}){body}",
            ApiMemberKind.Indexer => $"{modifiers}{returns} this[{parameters}] {Accessors(type, member)}",
            ApiMemberKind.Property => $"{modifiers}{returns} @{member.Name} {Accessors(type, member)}",
            ApiMemberKind.Field => $"{modifiers}{returns} @{member.Name}{(member.Value is null ? "" : " = " + Escape(member.Value))};",
            _ => throw new NotSupportedException($"API list: {member.Kind} in {type.FullName}."),
        });
    }

    /// <summary>An override inherits its constraints and must not repeat them.</summary>
    private static string Constraints(ApiMember member) => member.Has("override") ? "" : member.Constraints;

    private static string Parameter(ApiParameter parameter)
    {
        var modifiers = parameter.Modifiers.Length == 0 ? "" : parameter.Modifiers + " ";
        var value = parameter.Default is null ? "" : " = " + Escape(parameter.Default);
        return $"{modifiers}{Escape(parameter.Type)} @{parameter.Name}{value}";
    }

    private static string Accessors(ApiType type, ApiMember member) =>
        type.Keyword == "interface" || member.Has("abstract")
            ? member.Accessors
            : WithBodies(member.Accessors);

    public static string WithBodies(string accessors) =>
        accessors.Replace("get;", $"get => {Throw};").Replace("set;", "set { }").Replace("init;", "init { }");

    private string ChainToBase(ApiType type)
    {
        if (type.Bases.Count == 0)
        {
            return "";
        }

        if (list.Find(type.Bases[0]) is { } parent)
        {
            return parent.Keyword == "class" ? $" : base(default({assemblyName}.Stubs.Chain))" : "";
        }

        return type.Bases[0] == "System.Runtime.InteropServices.SafeHandle" ? " : base(default, default)" : "";
    }

    /// <summary>A sealed record shows up as a class that is IEquatable of itself and has == written with annotations.</summary>
    private static bool IsRecord(ApiType type) =>
        type.Keyword == "class"
        && type.Bases.Contains($"System.IEquatable<{type.FullName}>")
        && type.Members.Any(m => m.Kind == ApiMemberKind.Operator && m.Name == "==");

    /// <summary>What the compiler adds to a record and does not allow to be written.</summary>
    private static bool IsMadeByRecord(ApiType type, ApiMember member) =>
        IsRecord(type)
        && (member.Kind == ApiMemberKind.Operator || (member.Name == "Equals" && member.Parameters is [{ Type: "object?" }]));

    /// <summary>
    /// True where the member was compiled with nullable annotations on, which shows only where one is written. There an
    /// unmarked reference is not null; elsewhere the list cannot tell, and the compiler is to stay silent about it.
    /// </summary>
    private bool HasAnnotations(ApiMember member)
    {
        bool IsValueType(string key) => list.IsValueType(key) || member.Constraints.Contains($"where {key} : struct");
        return Types(member).Any(t => TypeText.WithoutAnnotations(t, IsValueType) != t);
    }

    private static IEnumerable<string> Types(ApiMember member)
    {
        var own = member.Type.StartsWith("ref ", StringComparison.Ordinal) ? member.Type[4..] : member.Type;
        return member.Parameters.Select(p => p.Type).Prepend(own).Where(t => t.Length > 0);
    }

    /// <summary>The first qualified name in the member that neither the list nor the framework knows.</summary>
    private string? Unresolved(ApiMember member) =>
        Types(member).SelectMany(t => QualifiedName().Matches(t).Select(m => m.Value))
            .FirstOrDefault(name => !name.StartsWith("System.", StringComparison.Ordinal) && !name.StartsWith(assemblyName + ".", StringComparison.Ordinal));

    /// <summary>Segments of qualified names may be keywords: <c>PrintOptionsProfile.default</c>.</summary>
    private static string Escape(string text) => Segment().Replace(text, "@");

    [GeneratedRegex(@"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")]
    private static partial Regex QualifiedName();

    [GeneratedRegex(@"(?<=[A-Za-z_]\w*(<[^.]*>)?\.)(?!this\b)(?=[A-Za-z_])")]
    private static partial Regex Segment();
}
