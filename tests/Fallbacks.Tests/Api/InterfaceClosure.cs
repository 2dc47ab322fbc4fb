namespace Fallbacks.Tests.Api;

/// <summary>An interface a listed type has, with its type arguments filled in.</summary>
/// <param name="Text">As C# writes it.</param>
/// <param name="Listed">Its entry in the list, or null for one of the framework.</param>
/// <param name="Framework">The framework's interface in terms of <paramref name="Names"/>, or null for a listed one.</param>
/// <param name="Names">What stands for each type parameter of a framework interface.</param>
internal sealed record ClosedInterface(string Text, ApiType? Listed, Type? Framework, IReadOnlyDictionary<Type, string> Names);

/// <summary>The lists name only the outermost interfaces of a type; this finds the ones these stand for.</summary>
internal static class InterfaceClosure
{
    public static IEnumerable<ClosedInterface> Of(ApiType type, ApiList list) =>
        type.Bases.SelectMany(b => OfName(b, list)).DistinctBy(i => i.Text);

    public static IEnumerable<string> OfTypeAndBases(ApiType type, ApiList list)
    {
        var own = type.Keyword is "enum" or "delegate" ? [] : Of(type, list).Select(i => i.Text);
        return type.Bases.Count > 0 && list.Find(type.Bases[0]) is { Keyword: "class" } parent
            ? own.Concat(OfTypeAndBases(parent, list).Select(i => Substitute(i, parent, type.Bases[0])))
            : own;
    }

    /// <summary>Replaces the type parameters of <paramref name="definition"/> by the arguments it is named with.</summary>
    public static string Substitute(string text, ApiType definition, string named)
    {
        var arguments = TypeText.Arguments(definition.Name).Zip(TypeText.Arguments(named)).ToDictionary(p => p.First, p => p.Second);
        return System.Text.RegularExpressions.Regex.Replace(text, @"(?<!\.)\b\w+\b(?!\.)", m => arguments.GetValueOrDefault(m.Value, m.Value));
    }

    /// <summary>A framework type in terms of the names given to its type parameters.</summary>
    public static string Name(Type type, IReadOnlyDictionary<Type, string> names)
    {
        if (names.TryGetValue(type, out var given))
        {
            return given;
        }

        if (type.HasElementType)
        {
            return Name(type.GetElementType()!, names) + (type.IsArray ? "[]" : "");
        }

        return type.IsGenericType
            ? $"{type.Namespace}.{type.Name.Split('`')[0]}<{string.Join(", ", type.GetGenericArguments().Select(a => Name(a, names)))}>"
            : ReflectedTypeName.Of(type);
    }

    private static IEnumerable<ClosedInterface> OfName(string text, ApiList list)
    {
        if (list.Find(text) is { } listed)
        {
            return listed.Keyword != "interface"
                ? []
                : listed.Bases.SelectMany(b => OfName(Substitute(b, listed, text), list)).Prepend(new ClosedInterface(text, listed, null, new Dictionary<Type, string>()));
        }

        if (ApiList.FrameworkType(TypeText.Key(text)) is not { IsInterface: true } framework)
        {
            return [];
        }

        var names = framework.GetGenericArguments().Zip(TypeText.Arguments(text)).ToDictionary(p => p.First, p => p.Second);
        return framework.GetInterfaces().Prepend(framework).Select(i => new ClosedInterface(Name(i, names), null, i, names));
    }
}
