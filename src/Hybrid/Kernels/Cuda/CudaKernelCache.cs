using System.Security.Cryptography;
using System.Text;
using Hybrid.Checkpoints;

namespace Hybrid.Kernels.Cuda;

/// <summary>
/// Compiled kernels on disk, one file each, named by a hash of all that they depend on: source, options, architecture, version of NVRTC.
/// A file is written whole or not at all, so that processes may share a folder; one that does not match its checksum is compiled anew.
/// </summary>
/// <param name="folder">Where the files are; made when the first is written.</param>
internal sealed class CudaKernelCache(string folder)
{
    /// <summary>The environment variable that names the folder.</summary>
    public const string Variable = "HYBRID_KERNEL_CACHE";

    private static readonly byte[] Magic = "HybridK1"u8.ToArray();

    /// <summary>Where the files are.</summary>
    public string Folder => folder;

    /// <summary>The folder that <see cref="Variable"/> names, else one of the user's own data folder.</summary>
    public static CudaKernelCache Default()
    {
        if (Environment.GetEnvironmentVariable(Variable) is { Length: > 0 } chosen)
        {
            return new CudaKernelCache(chosen);
        }

        var data = Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData);
        return new CudaKernelCache(Path.Combine(data.Length > 0 ? data : Path.GetTempPath(), "Hybrid", "kernels"));
    }

    /// <summary>A compiled file of kernels: from disk, or compiled now and kept for the next process.</summary>
    /// <param name="name">What the file's name begins with.</param>
    /// <param name="dependencies">All that the result depends on.</param>
    /// <param name="compile">Makes it.</param>
    public byte[] Get(string name, IEnumerable<string> dependencies, Func<byte[]> compile)
    {
        var path = Path.Combine(folder, $"{name}-{Key(dependencies)}.bin");
        if (Read(path) is { } known)
        {
            return known;
        }

        var image = compile();
        try
        {
            Directory.CreateDirectory(folder);
            AtomicFile.Write(path, Magic.Length + SHA256.HashSizeInBytes + image.Length, file =>
            {
                file.Write(Magic);
                file.Write(SHA256.HashData(image));
                file.Write(image);
            });
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            KernelDispatcher.NotKept(folder, failure.Message);
        }

        return image;
    }

    /// <summary>What a file holds; null where there is none, or a damaged one.</summary>
    private static byte[]? Read(string path)
    {
        try
        {
            var content = File.ReadAllBytes(path).AsSpan();
            var start = Magic.Length + SHA256.HashSizeInBytes;
            return content.Length > start && content.StartsWith(Magic) && SHA256.HashData(content[start..]).AsSpan().SequenceEqual(content[Magic.Length..start])
                ? content[start..].ToArray()
                : null;
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    /// <summary>A hash of texts that tells where one ends and the next begins.</summary>
    private static string Key(IEnumerable<string> dependencies)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (var text in dependencies)
        {
            var bytes = Encoding.UTF8.GetBytes(text);
            hash.AppendData(BitConverter.GetBytes(bytes.Length));
            hash.AppendData(bytes);
        }

        return Convert.ToHexStringLower(hash.GetHashAndReset().AsSpan(0, 16));
    }
}
