using System.Diagnostics;
using System.Globalization;
using Hybrid.Mixers;
using Hybrid.Modeling;

namespace Hybrid.Benchmarks;

/// <summary>
/// How long a checkpoint of half a gigabyte takes to load, and how much memory at the peak: two commands beside the benchmarks, since each load is to be the
/// first of its process.
/// </summary>
internal static class CheckpointLoading
{
    public const string MakeCommand = "make-checkpoint";
    public const string LoadCommand = "load-checkpoint";
    private const long Mebibyte = 1 << 20;

    /// <summary>Runs one of the two commands.</summary>
    public static void Run(string command, string folder)
    {
        if (command == MakeCommand)
        {
            Make(folder);
        }
        else
        {
            Load(folder);
        }
    }

    /// <summary>Writes a Mamba model of about 500 MB of float32 weights twice: in one file, and in five.</summary>
    private static void Make(string folder)
    {
        using var model = new CausalLanguageModel(new LanguageModelOptions
        {
            VocabSize = 50_280,
            HiddenSize = 768,
            NumLayers = 24,
            Layers = ["mamba"],
            Mixers = new Dictionary<string, object> { ["mamba"] = new MambaOptions() },
        });
        var size = model.CountParameters() * sizeof(float);
        model.SavePretrained(Path.Combine(folder, "single"));
        model.SavePretrained(Path.Combine(folder, "shards"), maxShardSize: size / 5);
        Console.WriteLine($"{size / Mebibyte} MiB of weights in {folder}");
    }

    private static void Load(string folder)
    {
        var files = Directory.GetFiles(folder, "*.safetensors");
        var reading = Stopwatch.StartNew();
        var size = files.Sum(ReadThrough);
        var baseline = reading.Elapsed.TotalSeconds;

        // The native library's own pages are no cost of the checkpoint.
        new CausalLanguageModel(new LanguageModelOptions { NumLayers = 1, Layers = ["mamba"] }).Dispose();
        var seconds = 0.0;
        CausalLanguageModel? loaded = null;
        var peak = PeakMemoryDiagnoser.PeakOf(() =>
        {
            var watch = Stopwatch.StartNew();
            loaded = CausalLanguageModel.FromPretrained(folder);
            seconds = watch.Elapsed.TotalSeconds;
        });
        using var model = loaded!;
        var largest = model.parameters().Max(parameter => parameter.numel() * parameter.element_size());
        Console.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"loaded in {seconds:f2} s, files read through in {baseline:f2} s; files {Mib(size)} MiB, largest tensor {Mib(largest)} MiB, peak memory {peak:f0} MiB"));
    }

    /// <summary>Reads a file to its end, through a buffer: what any loading takes at least, the memory of the model aside.</summary>
    private static long ReadThrough(string path)
    {
        using var file = File.OpenHandle(path);
        var (buffer, place) = (new byte[Mebibyte], 0L);
        for (var count = -1; count != 0; place += count)
        {
            count = RandomAccess.Read(file, buffer, place);
        }

        return place;
    }

    private static long Mib(long bytes) => bytes / Mebibyte;
}
