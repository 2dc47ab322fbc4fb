namespace Fallbacks.Tests.Api;

internal enum ApiMemberKind
{
    Constructor,
    Finalizer,
    Method,
    Operator,
    Conversion,
    Property,
    Indexer,
    Field,
    EnumValue,
}

/// <summary>One parameter: <c>params long[] shape</c>, <c>Tensor? out = null</c>.</summary>
internal sealed record ApiParameter(string Modifiers, string Type, string Name, string? Default);

/// <summary>One member line of an API list, taken apart.</summary>
internal sealed record ApiMember(ApiMemberKind Kind, string Name)
{
    private static readonly HashSet<string> KnownModifiers =
    [
        "static", "abstract", "virtual", "override", "sealed", "readonly", "const", "new", "protected", "internal",
        "implicit", "explicit",
    ];

    private static readonly HashSet<string> ParameterModifiers = ["this", "params", "ref", "out", "in", "scoped"];

    /// <summary>In the order of the list; "public" is never written there.</summary>
    public string[] Modifiers { get; init; } = [];

    /// <summary>Return, property or field type; the target of a conversion; empty for constructors.</summary>
    public string Type { get; init; } = "";

    /// <summary><c>&lt;T1, T2&gt;</c> or empty.</summary>
    public string TypeParameters { get; init; } = "";

    public IReadOnlyList<ApiParameter> Parameters { get; init; } = [];

    /// <summary><c>where T : struct</c> or empty.</summary>
    public string Constraints { get; init; } = "";

    /// <summary><c>{ get; set; }</c> of properties and indexers.</summary>
    public string Accessors { get; init; } = "";

    /// <summary>Value of a constant or an enum member.</summary>
    public string? Value { get; init; }

    /// <summary>What stands inside <c>Obsolete(...)</c>, or null.</summary>
    public string? Obsolete { get; init; }

    public bool Has(string modifier) => Modifiers.Contains(modifier);

    public static ApiMember Parse(string line, string typeName, bool isEnum)
    {
        var text = line;
        if (isEnum)
        {
            var parts = text.Split(" = ");
            return new ApiMember(ApiMemberKind.EnumValue, parts[0]) { Value = parts[1] };
        }

        if (text.StartsWith('~'))
        {
            return new ApiMember(ApiMemberKind.Finalizer, typeName);
        }

        string? obsolete = null;
        var attribute = text.LastIndexOf(" [Obsolete", StringComparison.Ordinal);
        if (attribute >= 0 && text.EndsWith(']'))
        {
            obsolete = text[(attribute + 2)..^1]["Obsolete".Length..].TrimStart('(').TrimEnd(')');
            text = text[..attribute];
        }

        var modifiers = new List<string>();
        for (var blank = text.IndexOf(' '); blank > 0 && KnownModifiers.Contains(text[..blank]); blank = text.IndexOf(' '))
        {
            modifiers.Add(text[..blank]);
            text = text[(blank + 1)..];
        }

        var member = text switch
        {
            _ when text.EndsWith(';') => Field(text[..^1]),
            _ when text.EndsWith('}') => Property(text),
            _ => Method(text, typeName, modifiers),
        };
        return member with { Modifiers = [.. modifiers], Obsolete = obsolete };
    }

    private static ApiMember Field(string text)
    {
        var equals = text.IndexOf(" = ", StringComparison.Ordinal);
        var (type, name) = TypeText.SplitName(equals < 0 ? text : text[..equals]);
        return new ApiMember(ApiMemberKind.Field, name) { Type = type, Value = equals < 0 ? null : text[(equals + 3)..] };
    }

    private static ApiMember Property(string text)
    {
        var brace = text.LastIndexOf('{');
        var head = text[..brace].Trim();
        var accessors = text[brace..];
        var index = head.IndexOf(" this[", StringComparison.Ordinal);
        if (index >= 0)
        {
            return new ApiMember(ApiMemberKind.Indexer, "this")
            {
                Type = head[..index],
                Parameters = ParseParameters(head[(index + " this[".Length)..^1]),
                Accessors = accessors,
            };
        }

        var (type, name) = TypeText.SplitName(head);
        return new ApiMember(ApiMemberKind.Property, name) { Type = type, Accessors = accessors };
    }

    private static ApiMember Method(string text, string typeName, List<string> modifiers)
    {
        var where = text.IndexOf(" where ", StringComparison.Ordinal);
        var constraints = where < 0 ? "" : text[(where + 1)..];
        text = where < 0 ? text : text[..where];

        var open = TypeText.Opening(text, text.Length - 1);
        var head = text[..open];
        var parameters = ParseParameters(text[(open + 1)..^1]);
        if (head == typeName)
        {
            return new ApiMember(ApiMemberKind.Constructor, typeName) { Parameters = parameters };
        }

        if (head.StartsWith("operator ", StringComparison.Ordinal))
        {
            var direction = modifiers.Single(m => m is "implicit" or "explicit");
            return new ApiMember(ApiMemberKind.Conversion, direction) { Type = head["operator ".Length..], Parameters = parameters };
        }

        var symbol = head.IndexOf(" operator ", StringComparison.Ordinal);
        if (symbol >= 0)
        {
            return new ApiMember(ApiMemberKind.Operator, head[(symbol + " operator ".Length)..]) { Type = head[..symbol], Parameters = parameters };
        }

        var generics = head.EndsWith('>') ? head[TypeText.Opening(head, head.Length - 1)..] : "";
        var (type, name) = TypeText.SplitName(head[..^generics.Length]);
        return new ApiMember(ApiMemberKind.Method, name)
        {
            Type = type,
            TypeParameters = generics,
            Parameters = parameters,
            Constraints = constraints,
        };
    }

    public static List<ApiParameter> ParseParameters(string text) =>
        TypeText.Split(text, ',').ConvertAll(part =>
        {
            var equals = part.IndexOf(" = ", StringComparison.Ordinal);
            var (type, name) = TypeText.SplitName(equals < 0 ? part : part[..equals]);
            var modifiers = new List<string>();
            for (var blank = type.IndexOf(' '); blank > 0 && ParameterModifiers.Contains(type[..blank]); blank = type.IndexOf(' '))
            {
                modifiers.Add(type[..blank]);
                type = type[(blank + 1)..];
            }

            return new ApiParameter(string.Join(' ', modifiers), type, name, equals < 0 ? null : part[(equals + 3)..]);
        });
}
