using static TorchSharp.torch;

namespace Hybrid.Checkpoints;

/// <summary>The element types that both the safetensors format and TorchSharp have.</summary>
internal static class SafeTensorsType
{
    // By increasing alignment: files are written in the opposite order, so that every tensor begins at a multiple of its element size.
    private static readonly (string Name, ScalarType Type, int Size)[] Known =
    [
        ("BOOL", ScalarType.Bool, 1),
        ("U8", ScalarType.Byte, 1),
        ("I8", ScalarType.Int8, 1),
        ("I16", ScalarType.Int16, 2),
        ("F16", ScalarType.Float16, 2),
        ("BF16", ScalarType.BFloat16, 2),
        ("I32", ScalarType.Int32, 4),
        ("F32", ScalarType.Float32, 4),
        ("F64", ScalarType.Float64, 8),
        ("I64", ScalarType.Int64, 8),
    ];

    /// <summary>The names, for messages.</summary>
    public static string Names => string.Join(", ", Known.Select(entry => entry.Name));

    /// <summary>The type of a name in a file; null where TorchSharp has none.</summary>
    public static ScalarType? Parse(string name)
    {
        var place = Array.FindIndex(Known, entry => entry.Name == name);
        return place < 0 ? null : Known[place].Type;
    }

    /// <summary>True where the format can hold the type.</summary>
    public static bool Has(ScalarType type) => Rank(type) >= 0;

    /// <summary>Place in the order of increasing alignment; -1 where the format lacks the type.</summary>
    public static int Rank(ScalarType type) => Array.FindIndex(Known, entry => entry.Type == type);

    /// <summary>The name in a file, or TorchSharp's own where the format lacks the type.</summary>
    public static string Name(ScalarType type) => Has(type) ? Known[Rank(type)].Name : type.ToString();

    /// <summary>Bytes of an element of a type that the format has.</summary>
    public static int Size(ScalarType type) => Known[Rank(type)].Size;
}
