using System.Reflection;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels.Cuda;

/// <summary>A file of kernels and the options that it is compiled with.</summary>
/// <param name="File">Its name; it is a resource of this assembly.</param>
/// <param name="Options">Options of NVRTC, separated by spaces.</param>
internal sealed record CudaProgram(string File, string Options)
{
    private const string Prelude = "prelude.cuh";

    /// <summary>A program whose tensors have one dtype.</summary>
    /// <param name="file">The file.</param>
    /// <param name="elements">Float32, bfloat16 or float16.</param>
    /// <param name="definitions">Names and values that the file asks for.</param>
    public static CudaProgram Of(string file, ScalarType elements, params ReadOnlySpan<(string Name, long Value)> definitions)
    {
        var options = $"-DELEMENT={ElementNumber(elements)}";
        foreach (var (name, value) in definitions)
        {
            options += $" -D{name}={value}";
        }

        return new CudaProgram(file, options);
    }

    /// <summary>True where kernels have elements of a dtype.</summary>
    public static bool Holds(ScalarType dtype) => dtype is ScalarType.Float32 or ScalarType.BFloat16 or ScalarType.Float16;

    /// <summary>The prelude and the file, with lines numbered as in each.</summary>
    public string Source() => $"#line 1 \"{Prelude}\"\n{Text(Prelude)}\n#line 1 \"{File}\"\n{Text(File)}";

    private static int ElementNumber(ScalarType dtype) => dtype switch
    {
        ScalarType.Float32 => 0,
        ScalarType.BFloat16 => 1,
        ScalarType.Float16 => 2,
        _ => throw new ArgumentOutOfRangeException(nameof(dtype), dtype, $"CUDA kernels have no elements of {dtype}."),
    };

    private static string Text(string file)
    {
        using var stream = Assembly.GetExecutingAssembly().GetManifestResourceStream(file)
            ?? throw new InvalidOperationException($"The assembly has no resource {file}.");
        using var reader = new StreamReader(stream);
        return reader.ReadToEnd();
    }
}
