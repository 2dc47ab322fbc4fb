namespace Fallbacks.Tests.Api;

/// <summary>Finds what an assembly shows and the list does not have, member by member.</summary>
/// <remarks>
/// Compared: types with base class and constraints, members with modifiers, types, tuple element names, parameter names,
/// defaults, constraints and accessors. Not compared, since metadata does not hold it or callers cannot tell: nullable
/// annotations of reference types, <c>new</c>, Obsolete, constraints repeated on overrides. Interfaces of a type must be
/// among those the listed type has, but need not be all of them.
/// </remarks>
internal static class ApiComparison
{
    private static readonly HashSet<string> NotCompared = ["new"];

    public static List<string> Differences(IEnumerable<ApiType> actual, ApiList expected)
    {
        var differences = new List<string>();
        foreach (var type in actual)
        {
            if (expected.Find(type.FullName) is { } listed)
            {
                differences.AddRange(OfType(type, listed, expected).Select(d => $"{type.FullName} :: {d}"));
            }
            else
            {
                differences.Add($"{type.FullName} :: no such type in the list");
            }
        }

        return differences;
    }

    private static IEnumerable<string> OfType(ApiType type, ApiType listed, ApiList list)
    {
        if (type.FullName != listed.FullName || Head(type) != Head(listed, list))
        {
            yield return $"<type> {type.FullName}: {Head(type)}\n      list: {listed.FullName}: {Head(listed, list)}";
        }

        var allowed = InterfaceClosure.OfTypeAndBases(listed, list).Select(i => Normal(i, list)).ToHashSet();
        foreach (var face in Interfaces(type).Where(i => !allowed.Contains(i)))
        {
            yield return $"<type> implements {face}, which the list's does not";
        }

        var members = listed.Members.Select(m => Text(m, list)).ToHashSet();
        foreach (var member in type.Members.Where(m => !members.Contains(Text(m))))
        {
            var same = listed.Members.Where(m => m.Kind == member.Kind && m.Name == member.Name).Select(m => "\n      list: " + Text(m, list)).ToList();
            yield return Text(member) + (same.Count == 0 ? "\n      list: nothing of this kind and name" : string.Concat(same));
        }
    }

    /// <summary>Modifiers, keyword, base class (or underlying type) and constraints, without the interfaces.</summary>
    private static string Head(ApiType type, ApiList? list = null)
    {
        if (type.Keyword == "delegate")
        {
            return type.Declaration;
        }

        var parent = type.Bases.Count > 0 && (type.Keyword == "enum" || (type.Keyword == "class" && !IsInterface(type.Bases[0], list)))
            ? " : " + Normal(type.Bases[0], list)
            : "";
        return $"{type.Modifiers} {type.Keyword}{parent} {type.Constraints}".TrimEnd();
    }

    private static IEnumerable<string> Interfaces(ApiType type) =>
        type.Keyword == "delegate" ? [] : type.Bases.Where(b => IsInterface(b, null));

    /// <summary>Both packages name every interface, and nothing else, with an I and a capital.</summary>
    private static bool IsInterface(string name, ApiList? list) =>
        list?.Find(name) is { } listed
            ? listed.Keyword == "interface"
            : TypeText.Split(name.Split('<')[0], '.')[^1] is ['I', >= 'A' and <= 'Z', ..];

    /// <summary>The member in one line. With a list, nullable annotations that metadata does not tell are taken off.</summary>
    public static string Text(ApiMember member, ApiList? list = null)
    {
        string Type(string text) => text.StartsWith("ref ", StringComparison.Ordinal)
            ? "ref " + Normal(text[4..], list, member)
            : Normal(text, list, member);

        var modifiers = string.Concat(member.Modifiers.Where(m => !NotCompared.Contains(m)).Order(StringComparer.Ordinal).Select(m => m + " "));
        var parameters = string.Join(", ", member.Parameters.Select(p => Text(p with { Type = Type(p.Type) })));
        var constraints = member.Constraints.Length == 0 || member.Has("override") ? "" : " " + member.Constraints;
        return member.Kind switch
        {
            ApiMemberKind.EnumValue => $"{member.Name} = {member.Value}",
            ApiMemberKind.Finalizer => $"~{member.Name}()",
            ApiMemberKind.Constructor => $"{modifiers}{member.Name}({parameters})",
            ApiMemberKind.Conversion => $"{modifiers}operator {Type(member.Type)}({parameters})",
            ApiMemberKind.Operator => $"{modifiers}{Type(member.Type)} operator {member.Name}({parameters})",
            ApiMemberKind.Field => $"{modifiers}{Type(member.Type)} {member.Name}{(member.Value is null ? "" : " = " + member.Value)};",
            ApiMemberKind.Property => $"{modifiers}{Type(member.Type)} {member.Name} {member.Accessors}",
            ApiMemberKind.Indexer => $"{modifiers}{Type(member.Type)} this[{parameters}] {member.Accessors}",
            _ => $"{modifiers}{Type(member.Type)} {member.Name}{member.TypeParameters}({parameters}){constraints}",
        };
    }

    public static string Text(ApiParameter parameter) =>
        (parameter.Modifiers.Length == 0 ? "" : parameter.Modifiers + " ")
        + $"{parameter.Type} {parameter.Name}"
        + (parameter.Default is null ? "" : $" = {parameter.Default}");

    private static string Normal(string type, ApiList? list, ApiMember? member = null) =>
        list is null || type.Length == 0
            ? type
            : TypeText.WithoutAnnotations(type, key => list.IsValueType(key) || member?.Constraints.Contains($"where {key} : struct") == true);
}
