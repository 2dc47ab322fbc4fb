namespace Fallbacks.Tests.Api;

/// <summary>One type of an API list with its members.</summary>
/// <param name="FullName">As the list writes it: <c>TorchSharp.torch.nn.Module&lt;T, TResult&gt;</c>.</param>
/// <param name="Declaration">What follows <c>&lt;type&gt;</c>: <c>public abstract class : Base, IFace where T : new()</c>.</param>
internal sealed record ApiType(string FullName, string Declaration)
{
    private static readonly string[] Keywords = ["class", "struct", "interface", "enum", "delegate"];

    public string Key { get; } = TypeText.Key(FullName);

    /// <summary>Name with type parameters: <c>Module&lt;T, TResult&gt;</c>.</summary>
    public string Name { get; } = FullName[(Outer(FullName).Length + 1)..];

    public string SimpleName => Name.Split('<')[0];

    /// <summary>class, struct, interface, enum or delegate.</summary>
    public string Keyword { get; } = Keywords.Single(k => Declaration.Split(" :")[0].Split(" where ")[0].Split(' ').Contains(k));

    /// <summary>What stands before the keyword: <c>public sealed</c>.</summary>
    public string Modifiers => Declaration[..Declaration.IndexOf(Keyword, StringComparison.Ordinal)].Trim();

    /// <summary>Base class and interfaces, or the underlying type of an enum.</summary>
    public IReadOnlyList<string> Bases
    {
        get
        {
            var head = Declaration[..^Constraints.Length].Trim();
            var colon = head.IndexOf(" : ", StringComparison.Ordinal);
            return colon < 0 || Keyword == "delegate" ? [] : TypeText.Split(head[(colon + 3)..], ',');
        }
    }

    public string Constraints
    {
        get
        {
            var where = Declaration.IndexOf("where ", StringComparison.Ordinal);
            return where < 0 ? "" : Declaration[where..];
        }
    }

    public List<ApiMember> Members { get; } = [];

    /// <summary>The namespace or type a full name stands in.</summary>
    public static string Outer(string fullName)
    {
        var parts = TypeText.Split(fullName, '.');
        return string.Join('.', parts[..^1]);
    }
}

/// <summary>The public API of one package, read from a list with one member a line.</summary>
internal sealed class ApiList
{
    private const string TypeMark = "<type> ";

    private static readonly HashSet<string> ValueTypeKeywords =
    [
        "bool", "byte", "sbyte", "char", "decimal", "double", "float", "int", "uint", "long", "ulong", "short", "ushort",
        "nint", "nuint",
    ];

    private static readonly string[] FrameworkAssemblies =
        ["System.Private.CoreLib", "netstandard", "System.Collections.Immutable", "System.Text.Json"];

    private readonly Dictionary<string, ApiType> _types = [];

    private ApiList()
    {
    }

    public IReadOnlyCollection<ApiType> Types => _types.Values;

    public static ApiList Read(string path) => Parse(File.ReadLines(path));

    public static ApiList Parse(IEnumerable<string> lines)
    {
        var list = new ApiList();
        var members = new List<(string Owner, string Text)>();
        foreach (var line in lines.Where(l => l.Length > 0))
        {
            var (owner, text) = line.Split(" :: ", 2) is [var left, var right]
                ? (left, right)
                : throw new FormatException($"API list: expected 'Type :: member'; got '{line}'.");
            if (text.StartsWith(TypeMark, StringComparison.Ordinal))
            {
                var type = new ApiType(owner, text[TypeMark.Length..]);
                list._types.Add(type.Key, type);
            }
            else
            {
                members.Add((owner, text));
            }
        }

        foreach (var (owner, text) in members)
        {
            var type = list._types[TypeText.Key(owner)];
            type.Members.Add(ApiMember.Parse(text, type.SimpleName, type.Keyword == "enum"));
        }

        return list;
    }

    /// <summary>The listed type of this name (type arguments may be anything), or null.</summary>
    public ApiType? Find(string typeText) => _types.GetValueOrDefault(TypeText.Key(typeText));

    /// <summary>True where <c>T?</c> means Nullable&lt;T&gt;. Type parameters count as reference types.</summary>
    public bool IsValueType(string key) =>
        ValueTypeKeywords.Contains(key)
        || (_types.TryGetValue(key, out var type) ? type.Keyword is "struct" or "enum" : FrameworkType(key)?.IsValueType == true);

    /// <summary>The framework's type of this name, open where generic, or null.</summary>
    public static Type? FrameworkType(string key) =>
        key.StartsWith("System.", StringComparison.Ordinal)
            ? FrameworkAssemblies.Select(a => Type.GetType($"{key}, {a}")).FirstOrDefault(t => t is not null)
            : null;
}
