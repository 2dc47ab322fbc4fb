using System.Globalization;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.Loader;

namespace Fallbacks.Tests.Api;

/// <summary>Reads the public and protected API of a built assembly into the same form as an API list.</summary>
internal static class ReflectedApi
{
    private const BindingFlags Declared =
        BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.Instance | BindingFlags.Static | BindingFlags.DeclaredOnly;

    private static readonly Dictionary<string, string> Operators = new()
    {
        ["op_Addition"] = "+", ["op_Subtraction"] = "-", ["op_Multiply"] = "*", ["op_Division"] = "/", ["op_Modulus"] = "%",
        ["op_UnaryNegation"] = "-", ["op_UnaryPlus"] = "+", ["op_LogicalNot"] = "!", ["op_OnesComplement"] = "~",
        ["op_BitwiseAnd"] = "&", ["op_BitwiseOr"] = "|", ["op_ExclusiveOr"] = "^", ["op_LeftShift"] = "<<", ["op_RightShift"] = ">>",
        ["op_Equality"] = "==", ["op_Inequality"] = "!=", ["op_LessThan"] = "<", ["op_GreaterThan"] = ">",
        ["op_LessThanOrEqual"] = "<=", ["op_GreaterThanOrEqual"] = ">=", ["op_Increment"] = "++", ["op_Decrement"] = "--",
        ["op_True"] = "true", ["op_False"] = "false",
    };

    public static IEnumerable<ApiType> Read(Assembly assembly) =>
        assembly.GetTypes().Where(IsVisible).Select(Read).OrderBy(t => t.FullName, StringComparer.Ordinal);

    /// <summary>Reads a file that is not to stay open or loaded.</summary>
    public static List<ApiType> Read(string path)
    {
        var context = new AssemblyLoadContext(path, isCollectible: true);
        try
        {
            using var image = new MemoryStream(File.ReadAllBytes(path));
            return [.. Read(context.LoadFromStream(image))];
        }
        finally
        {
            context.Unload();
        }
    }

    private static bool IsVisible(Type type) =>
        type.IsNested ? IsVisible(type.DeclaringType!) && (type.IsNestedPublic || type.IsNestedFamily || type.IsNestedFamORAssem) : type.IsPublic;

    private static ApiType Read(Type type)
    {
        var isDelegate = type.IsSubclassOf(typeof(MulticastDelegate));
        var api = new ApiType(ReflectedTypeName.OfDefinition(type), isDelegate ? Delegate(type) : Declaration(type));
        if (type.IsEnum)
        {
            api.Members.AddRange(type.GetFields(BindingFlags.Public | BindingFlags.Static)
                .Select(f => new ApiMember(ApiMemberKind.EnumValue, f.Name) { Value = Invariant(f.GetRawConstantValue()!) }));
        }
        else if (!isDelegate)
        {
            api.Members.AddRange(type.GetMembers(Declared).Where(m => !m.Name.Contains('<')).Select(m => Member(type, m)).OfType<ApiMember>());
        }

        return api;
    }

    private static string Declaration(Type type)
    {
        var access = type.IsNestedFamily ? "protected" : type.IsNestedFamORAssem ? "protected internal" : "public";
        if (type.IsEnum)
        {
            return $"{access} enum : {ReflectedTypeName.Of(type.GetEnumUnderlyingType())}";
        }

        var keyword = type switch
        {
            { IsInterface: true } => "interface",
            { IsValueType: true } => (HasAttribute(type, "IsReadOnlyAttribute") ? "readonly " : "") + (type.IsByRefLike ? "ref " : "") + "struct",
            { IsAbstract: true, IsSealed: true } => "static class",
            { IsAbstract: true } => "abstract class",
            { IsSealed: true } => "sealed class",
            _ => "class",
        };
        var inherited = type.BaseType?.GetInterfaces() ?? [];
        var bases = type.GetInterfaces().Where(i => i.IsVisible).Except(inherited).Select(i => ReflectedTypeName.Of(i)).Order(StringComparer.Ordinal).ToList();
        if (type.IsClass && type.BaseType != typeof(object))
        {
            bases.Insert(0, ReflectedTypeName.Of(type.BaseType!, type));
        }

        var own = type.GetGenericArguments()[(type.DeclaringType?.GetGenericArguments().Length ?? 0)..];
        return $"{access} {keyword}{(bases.Count == 0 ? "" : " : " + string.Join(", ", bases))} {Constraints(own)}".TrimEnd();
    }

    private static string Delegate(Type type)
    {
        var invoke = type.GetMethod("Invoke")!;
        var name = ReflectedTypeName.OfDefinition(type);
        var parameters = Parameters(invoke, invoke.GetParameters()).Select(ApiComparison.Text);
        return $"public delegate {ReflectedTypeName.Of(invoke.ReturnType, invoke.ReturnParameter)} {name[(ApiType.Outer(name).Length + 1)..]}({string.Join(", ", parameters)})";
    }

    private static ApiMember? Member(Type type, MemberInfo member) => member switch
    {
        ConstructorInfo { IsStatic: false } c when Access(c) is { } access =>
            new ApiMember(ApiMemberKind.Constructor, type.Name.Split('`')[0]) { Modifiers = access, Parameters = Parameters(c, c.GetParameters()) },
        FieldInfo f when Access(f) is { } access => Field(f, access),
        PropertyInfo p => Property(p),
        MethodInfo m when Access(m) is { } access && !IsAccessor(m) => Method(m, access),
        EventInfo e => throw new NotSupportedException($"{type}: event {e.Name}; the lists know no events."),
        _ => null,
    };

    private static bool IsAccessor(MethodInfo method) => method.IsSpecialName && !method.Name.StartsWith("op_", StringComparison.Ordinal);

    private static ApiMember Field(FieldInfo field, string[] access) =>
        new(ApiMemberKind.Field, field.Name)
        {
            Modifiers = [.. access, .. field.IsLiteral ? ["const"] : field.IsStatic ? ["static"] : Array.Empty<string>(), .. field.IsInitOnly ? ["readonly"] : Array.Empty<string>()],
            Type = ReflectedTypeName.Of(field.FieldType, field),
            Value = field.IsLiteral ? Literal(field.GetRawConstantValue(), field.FieldType) : null,
        };

    private static ApiMember? Property(PropertyInfo property)
    {
        var accessors = new[] { property.GetMethod, property.SetMethod }.OfType<MethodInfo>().Where(a => Access(a) is not null).ToList();
        if (accessors.Count == 0)
        {
            return null;
        }

        // The more accessible accessor gives the property's access, the other one carries its own.
        var widest = accessors.MinBy(a => Access(a)!.Length)!;
        var parts = accessors.Select(a =>
            (Access(a)!.Length > Access(widest)!.Length ? string.Join(' ', Access(a)!) + " " : "")
            + (a == property.GetMethod ? "get;" : a.ReturnParameter.GetRequiredCustomModifiers().Contains(typeof(IsExternalInit)) ? "init;" : "set;"));
        var index = Parameters(widest, property.GetIndexParameters());
        return new ApiMember(index.Count == 0 ? ApiMemberKind.Property : ApiMemberKind.Indexer, index.Count == 0 ? property.Name : "this")
        {
            Modifiers = [.. Access(widest)!, .. Modifiers(widest)],
            Type = (property.PropertyType.IsByRef ? "ref " : "") + ReflectedTypeName.Of(property.PropertyType, property),
            Parameters = index,
            Accessors = $"{{ {string.Join(' ', parts)} }}",
        };
    }

    private static ApiMember Method(MethodInfo method, string[] access)
    {
        var member = new ApiMember(ApiMemberKind.Method, method.Name)
        {
            Modifiers = [.. access, .. Modifiers(method)],
            Type = (method.ReturnType.IsByRef ? "ref " : "") + ReflectedTypeName.Of(method.ReturnType, method.ReturnParameter),
            Parameters = Parameters(method, method.GetParameters()),
        };
        return method switch
        {
            { Name: "Finalize", IsVirtual: true } => new ApiMember(ApiMemberKind.Finalizer, method.DeclaringType!.Name.Split('`')[0]),
            { Name: "op_Implicit" } => member with { Kind = ApiMemberKind.Conversion, Name = "implicit", Modifiers = [.. member.Modifiers, "implicit"] },
            { Name: "op_Explicit" } => member with { Kind = ApiMemberKind.Conversion, Name = "explicit", Modifiers = [.. member.Modifiers, "explicit"] },
            { IsSpecialName: true } => member with { Kind = ApiMemberKind.Operator, Name = Operators[method.Name] },
            _ => member with
            {
                TypeParameters = method.IsGenericMethod ? $"<{string.Join(", ", method.GetGenericArguments().Select(a => a.Name))}>" : "",
                Constraints = Constraints(method.GetGenericArguments()),
            },
        };
    }

    /// <summary>Null where the member is not visible outside its assembly.</summary>
    private static string[]? Access(MemberInfo member) => member switch
    {
        MethodBase { IsPublic: true } or FieldInfo { IsPublic: true } => [],
        MethodBase { IsFamily: true } or FieldInfo { IsFamily: true } => ["protected"],
        MethodBase { IsFamilyOrAssembly: true } or FieldInfo { IsFamilyOrAssembly: true } => ["protected", "internal"],
        _ => null,
    };

    private static string[] Modifiers(MethodInfo method)
    {
        if (method.DeclaringType!.IsInterface)
        {
            return [];
        }

        var isOverride = method.IsVirtual && ((method.Attributes & MethodAttributes.NewSlot) == 0 || HasAttribute(method, "PreserveBaseOverridesAttribute"));
        return method switch
        {
            { IsStatic: true } => ["static"],
            { IsAbstract: true } => isOverride ? ["abstract", "override"] : ["abstract"],
            { IsFinal: true } => isOverride ? ["sealed", "override"] : [],
            { IsVirtual: true } => isOverride ? ["override"] : ["virtual"],
            _ => [],
        };
    }

    private static List<ApiParameter> Parameters(MethodBase method, ParameterInfo[] parameters) =>
        [.. parameters.Select(p => new ApiParameter(ParameterModifier(method, p), ReflectedTypeName.Of(p.ParameterType, p), p.Name!,
            p.HasDefaultValue ? Literal(p.RawDefaultValue, p.ParameterType) : null))];

    private static string ParameterModifier(MethodBase method, ParameterInfo parameter) => parameter switch
    {
        { ParameterType.IsByRef: true, IsOut: true } => "out",
        { ParameterType.IsByRef: true, IsIn: true } => "in",
        { ParameterType.IsByRef: true } => "ref",
        { Position: 0 } when HasAttribute(method, "ExtensionAttribute") => "this",
        _ when HasAttribute(parameter, "ParamArrayAttribute") || HasAttribute(parameter, "ParamCollectionAttribute") => "params",
        _ => "",
    };

    private static string Constraints(Type[] parameters) =>
        string.Join(' ', parameters.Select(p =>
        {
            var attributes = p.GenericParameterAttributes;
            var isStruct = attributes.HasFlag(GenericParameterAttributes.NotNullableValueTypeConstraint);
            var isUnmanaged = HasAttribute(p, "IsUnmanagedAttribute");
            var parts = new List<string>();
            parts.AddRange(isUnmanaged ? ["unmanaged"] : isStruct ? ["struct"] : []);
            parts.AddRange(attributes.HasFlag(GenericParameterAttributes.ReferenceTypeConstraint) ? ["class"] : []);
            parts.AddRange(p.GetGenericParameterConstraints().Where(c => c != typeof(ValueType)).Select(c => ReflectedTypeName.Of(c)));
            parts.AddRange(attributes.HasFlag(GenericParameterAttributes.DefaultConstructorConstraint) && !isStruct ? ["new()"] : []);
            return parts.Count == 0 ? "" : $"where {p.Name} : {string.Join(", ", parts)}";
        }).Where(c => c.Length > 0));

    private static string Literal(object? value, Type type)
    {
        var plain = Nullable.GetUnderlyingType(type) ?? type;
        if (value is not null && plain.IsEnum)
        {
            var name = Enum.GetName(plain, value);
            return name is null ? $"({ReflectedTypeName.Of(plain)}){Invariant(value)}" : $"{ReflectedTypeName.Of(plain)}.{name}";
        }

        return value switch
        {
            null => type.IsValueType && plain == type ? "default" : "null",
            bool b => b ? "true" : "false",
            string s => $"\"{s}\"",
            char c => $"'{c}'",
            float f => Invariant(f) + "f",
            double d => Invariant(d) is var text && text.AsSpan().ContainsAny('.', 'E', 'N') ? text : text + ".0",
            _ => Invariant(value),
        };
    }

    private static string Invariant(object value) => Convert.ToString(value, CultureInfo.InvariantCulture)!;

    private static bool HasAttribute(ICustomAttributeProvider source, string name) =>
        source.GetCustomAttributes(inherit: false).Any(a => a.GetType().Name == name);
}
