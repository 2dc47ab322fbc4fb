using System.Reflection;
using System.Runtime.CompilerServices;

namespace Fallbacks.Tests.Api;

/// <summary>Writes reflected types as the API lists do: keywords, <c>T?</c>, tuples with their element names.</summary>
internal sealed class ReflectedTypeName
{
    private static readonly Dictionary<Type, string> KeywordNames = new()
    {
        [typeof(void)] = "void", [typeof(object)] = "object", [typeof(string)] = "string", [typeof(bool)] = "bool",
        [typeof(byte)] = "byte", [typeof(sbyte)] = "sbyte", [typeof(short)] = "short", [typeof(ushort)] = "ushort",
        [typeof(int)] = "int", [typeof(uint)] = "uint", [typeof(long)] = "long", [typeof(ulong)] = "ulong",
        [typeof(float)] = "float", [typeof(double)] = "double", [typeof(decimal)] = "decimal", [typeof(char)] = "char",
    };

    private const int TupleRest = 7;

    private readonly IList<string?>? _tupleNames;
    private int _nextTupleName;

    private ReflectedTypeName(ICustomAttributeProvider? source) =>
        _tupleNames = source?.GetCustomAttributes(typeof(TupleElementNamesAttribute), inherit: false) is [TupleElementNamesAttribute names, ..]
            ? names.TransformNames
            : null;

    /// <summary>The type of a parameter, field or property; tuple names are taken from its attributes.</summary>
    public static string Of(Type type, ICustomAttributeProvider? source = null) => new ReflectedTypeName(source).Write(type);

    /// <summary>Name, type parameters included, without the enclosing type: <c>Module&lt;T, TResult&gt;</c>.</summary>
    public static string OfDefinition(Type type)
    {
        var own = OwnArguments(type, type.GetGenericArguments());
        return Path(type) + type.Name.Split('`')[0] + (own.Length == 0 ? "" : $"<{string.Join(", ", own.Select(a => a.Name))}>");
    }

    private static string Path(Type type) =>
        type.DeclaringType is { } outer ? OfDefinition(outer) + "." : type.Namespace is { } space ? space + "." : "";

    private string Write(Type type)
    {
        if (type.IsByRef)
        {
            return Write(type.GetElementType()!);
        }

        if (type.IsPointer)
        {
            return Write(type.GetElementType()!) + "*";
        }

        if (type.IsArray)
        {
            var ranks = "";
            while (type.IsArray)
            {
                ranks += "[" + new string(',', type.GetArrayRank() - 1) + "]";
                type = type.GetElementType()!;
            }

            return Write(type) + ranks;
        }

        if (type.IsGenericParameter)
        {
            return type.Name;
        }

        if (KeywordNames.TryGetValue(type, out var keyword))
        {
            return keyword;
        }

        if (Nullable.GetUnderlyingType(type) is { } underlying)
        {
            return Write(underlying) + "?";
        }

        return type.FullName?.StartsWith("System.ValueTuple`", StringComparison.Ordinal) == true || IsOpenTuple(type)
            ? WriteTuple(type)
            : WriteNamed(type, type.GetGenericArguments());
    }

    private static bool IsOpenTuple(Type type) =>
        type.IsGenericType && type.GetGenericTypeDefinition().FullName!.StartsWith("System.ValueTuple`", StringComparison.Ordinal);

    private string WriteTuple(Type type)
    {
        var elements = new List<Type>();
        for (var rest = type; ; rest = rest.GetGenericArguments()[TupleRest])
        {
            elements.AddRange(rest.GetGenericArguments().Take(TupleRest));
            if (rest.GetGenericArguments().Length <= TupleRest)
            {
                break;
            }
        }

        // The names of a tuple come before those of the tuples inside it.
        var names = elements.ConvertAll(_ => _tupleNames?[_nextTupleName++]);
        if (elements.Count > TupleRest)
        {
            _nextTupleName += elements.Count - TupleRest;
        }

        return $"({string.Join(", ", elements.Zip(names, (e, n) => n is null ? Write(e) : $"{Write(e)} {n}"))})";
    }

    private string WriteNamed(Type type, Type[] arguments)
    {
        var outer = type.DeclaringType is { } declaring ? WriteNamed(declaring, arguments) + "." : type.Namespace is { } space ? space + "." : "";
        var own = OwnArguments(type, arguments);
        return outer + type.Name.Split('`')[0] + (own.Length == 0 ? "" : $"<{string.Join(", ", own.Select(Write))}>");
    }

    /// <summary>A nested type repeats the type arguments of the enclosing one before its own.</summary>
    private static Type[] OwnArguments(Type type, Type[] arguments)
    {
        var inherited = type.DeclaringType?.GetGenericArguments().Length ?? 0;
        return arguments[inherited..type.GetGenericArguments().Length];
    }
}
