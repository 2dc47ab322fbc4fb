using System.Collections.Concurrent;
using System.Reflection;
using System.Runtime.CompilerServices;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels.Cuda;

/// <summary>A file of kernels and the options that it is compiled with.</summary>
/// <param name="File">Its name; it is a resource of this assembly.</param>
/// <param name="Options">Options of NVRTC, separated by spaces.</param>
internal sealed record CudaProgram(string File, string Options)
{
    private const string Prelude = "prelude.cuh";
    private const int MostDefinitions = 6;

    // A file's definitions have the same names each time, so that their values tell its programs apart. Decoding asks a hundred times a token.
    private static readonly ConcurrentDictionary<(string File, ScalarType Elements, Values Values), CudaProgram> Known = new();

    private readonly int hash = HashCode.Combine(File, Options);

    /// <summary>A program whose tensors have one dtype.</summary>
    /// <param name="file">The file.</param>
    /// <param name="elements">Float32, bfloat16 or float16.</param>
    /// <param name="definitions">Names and values that the file asks for.</param>
    public static CudaProgram Of(string file, ScalarType elements, params ReadOnlySpan<(string Name, long Value)> definitions)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(definitions.Length, MostDefinitions);
        var values = default(Values);
        for (var i = 0; i < definitions.Length; i++)
        {
            values[i] = definitions[i].Value;
        }

        return Known.TryGetValue((file, elements, values), out var known)
            ? known
            : Known.GetOrAdd((file, elements, values), new CudaProgram(file, OptionsOf(elements, definitions)));
    }

    /// <inheritdoc/>
    public override int GetHashCode() => hash;

    /// <summary>True where kernels have elements of a dtype.</summary>
    public static bool Holds(ScalarType dtype) => dtype is ScalarType.Float32 or ScalarType.BFloat16 or ScalarType.Float16;

    /// <summary>The prelude and the file, with lines numbered as in each.</summary>
    public string Source() => $"#line 1 \"{Prelude}\"\n{Text(Prelude)}\n#line 1 \"{File}\"\n{Text(File)}";

    private static string OptionsOf(ScalarType elements, ReadOnlySpan<(string Name, long Value)> definitions)
    {
        var options = $"-DELEMENT={ElementNumber(elements)}";
        foreach (var (name, value) in definitions)
        {
            options += $" -D{name}={value}";
        }

        return options;
    }

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

    [InlineArray(MostDefinitions)]
    private struct Values : IEquatable<Values>
    {
        private long first;

        public readonly bool Equals(Values other) => ((ReadOnlySpan<long>)this).SequenceEqual(other);

        public override readonly bool Equals(object? other) => other is Values values && Equals(values);

        public override readonly int GetHashCode()
        {
            var hash = default(HashCode);
            foreach (var value in this)
            {
                hash.Add(value);
            }

            return hash.ToHashCode();
        }
    }
}
