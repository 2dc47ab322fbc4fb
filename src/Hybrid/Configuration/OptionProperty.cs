using System.Collections;
using System.Reflection;
using System.Text.Json;
using static TorchSharp.torch;

namespace Hybrid.Configuration;

/// <summary>
/// A property of an option record and its key in TOML, the name in snake_case. Values are integers, numbers, booleans, strings, enums
/// and lists of them; a property whose type is another record is a sub-table. Properties of other types are for code only.
/// </summary>
internal sealed class OptionProperty
{
    private readonly PropertyInfo property;

    private OptionProperty(PropertyInfo property) => this.property = property;

    /// <summary>Key in TOML.</summary>
    public string Key => SnakeCase(property.Name);

    /// <summary>Name in C#.</summary>
    public string Name => property.Name;

    /// <summary>Type in C#.</summary>
    public Type Type => property.PropertyType;

    /// <summary>True for a sub-table, false for a value.</summary>
    public bool IsRecord => !IsValue(Type);

    /// <summary>The properties of a record that TOML can state, in the order of their declaration.</summary>
    public static IReadOnlyList<OptionProperty> Of(Type record) =>
        [.. record.GetProperties(BindingFlags.Public | BindingFlags.Instance)
            .Where(property => property.SetMethod is { IsPublic: true })
            .Where(property => IsValue(property.PropertyType) || IsOptionRecord(property.PropertyType))
            .Select(property => new OptionProperty(property))];

    /// <summary>True for a type that a TOML value, not a table, can state.</summary>
    public static bool IsValue(Type type)
    {
        var scalar = ElementOf(type) ?? Nullable.GetUnderlyingType(type) ?? type;
        return scalar.IsEnum || scalar == typeof(long) || scalar == typeof(int) || scalar == typeof(double) || scalar == typeof(bool)
            || scalar == typeof(string);
    }

    /// <summary>The type of a list's elements; null where the type is no list.</summary>
    public static Type? ElementOf(Type type) =>
        type.IsGenericType && type.GetGenericTypeDefinition() == typeof(IReadOnlyList<>) ? type.GetGenericArguments()[0] : null;

    /// <summary>A C# name in TOML: DState is d_state.</summary>
    public static string SnakeCase(string name) => JsonNamingPolicy.SnakeCaseLower.ConvertName(name);

    /// <summary>An enum's member in TOML: its name in snake_case, save that dtypes are spelled as in PyTorch, bfloat16 and not b_float16.</summary>
    public static string MemberName(Type type, string member) => type == typeof(ScalarType) ? member.ToLowerInvariant() : SnakeCase(member);

    /// <summary>The value in a record.</summary>
    public object? Get(object record) => property.GetValue(record);

    /// <summary>Sets the value of a record that is being made.</summary>
    public void Set(object record, object? value) => property.SetValue(record, value);

    private static bool IsOptionRecord(Type type) =>
        type is { IsClass: true, IsAbstract: false } && !type.IsAssignableTo(typeof(IEnumerable)) && type.GetConstructor([]) is not null;
}
