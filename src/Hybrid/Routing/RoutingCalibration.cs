using System.Diagnostics;
using System.Runtime;
using System.Text;
using Hybrid.Checkpoints;
using Hybrid.Configuration;
using TorchSharp;
using static TorchSharp.torch;
using DeviceType = TorchSharp.DeviceType;

namespace Hybrid.Routing;

/// <summary>
/// Time of both branches over lengths, on one kind of device, with one dtype and batch size, and where they cross. In TOML it is the
/// table <c>[...hybrid_attention.adaptive]</c>, or a file of its own.
/// </summary>
public sealed record RoutingCalibration
{
    private const string Section = "adaptive";

    // The runtime compiles a method anew, optimised, once it was called 30 times and nothing new was compiled for 100 ms.
    private const int WarmupRuns = 30;
    private const long WarmupLength = 64;
    private static readonly TimeSpan WarmupQuiet = TimeSpan.FromMilliseconds(200);
    private static readonly TimeSpan LongestWarmup = TimeSpan.FromSeconds(5);

    /// <summary>Kind of device. Default CPU.</summary>
    public DeviceType Device { get; init; } = DeviceType.CPU;

    /// <summary>Dtype of the hidden states. Default float32.</summary>
    public ScalarType Dtype { get; init; } = ScalarType.Float32;

    /// <summary>Sequences of a call; at least 1. Default 1.</summary>
    public long BatchSize { get; init; } = 1;

    /// <summary>The lengths, in tokens, ascending; at least one.</summary>
    public IReadOnlyList<long> Lengths { get; init; } = [];

    /// <summary>Time of the attention branch at each length, in milliseconds; positive.</summary>
    public IReadOnlyList<double> AttentionMs { get; init; } = [];

    /// <summary>Time of the state-space branch at each length, in milliseconds; positive.</summary>
    public IReadOnlyList<double> MambaMs { get; init; } = [];

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        const string owner = nameof(RoutingCalibration);
        OptionRange.AtLeast(owner, nameof(BatchSize), BatchSize, 1);
        if (Lengths.Count == 0 || Lengths[0] < 1 || Lengths.Zip(Lengths.Skip(1)).Any(pair => pair.First >= pair.Second))
        {
            throw new ArgumentException(
                $"{owner}.{nameof(Lengths)} must be one length or more, ascending from at least 1; got [{string.Join(", ", Lengths)}].",
                nameof(Lengths));
        }

        RequireTimes(nameof(AttentionMs), AttentionMs);
        RequireTimes(nameof(MambaMs), MambaMs);

        void RequireTimes(string name, IReadOnlyList<double> times)
        {
            if (times.Count != Lengths.Count || times.Any(time => !(time > 0) || double.IsInfinity(time)))
            {
                throw new ArgumentException(
                    $"{owner}.{name} must be {Lengths.Count} positive times, one a length; got [{string.Join(", ", times)}].", name);
            }
        }
    }

    /// <summary>Measures both branches of a router without gradients: after a warm-up of at least 0.2 s, the median of several runs a length.</summary>
    /// <param name="router">The router; device and dtype are those of its weights.</param>
    /// <param name="lengths">Lengths, ascending.</param>
    /// <param name="batchSize">Sequences of a call.</param>
    /// <param name="repeats">Runs a length; at least 1.</param>
    /// <returns>The measurement.</returns>
    internal static RoutingCalibration Measure(HybridAttention router, IReadOnlyList<long> lengths, long batchSize, int repeats)
    {
        OptionRange.AtLeast(nameof(HybridAttention.Calibrate), nameof(repeats), repeats, 1);
        var weight = router.Matrix;
        var calibration = new RoutingCalibration
        {
            Device = weight.device_type,
            Dtype = weight.dtype,
            BatchSize = batchSize,
            Lengths = lengths,
            AttentionMs = [.. lengths.Select(_ => 1.0)],
            MambaMs = [.. lengths.Select(_ => 1.0)],
        };
        calibration.Validate();
        using var guard = no_grad();
        using (var scope = NewDisposeScope())
        {
            WarmUp(router, Input(Math.Min(lengths[0], WarmupLength)));
        }

        var times = lengths.Select(length =>
        {
            using var scope = NewDisposeScope();
            var x = Input(length);
            return (Attention: Time(Route.Attention, x), Mamba: Time(Route.Mamba, x));
        }).ToArray();
        return calibration with
        {
            AttentionMs = [.. times.Select(time => time.Attention)],
            MambaMs = [.. times.Select(time => time.Mamba)],
        };

        Tensor Input(long length) => randn([batchSize, length, router.Width], device: weight.device).to_type(weight.dtype);

        double Time(Route route, Tensor x)
        {
            var branch = router.Select(route);
            var runs = new double[repeats + 1];
            for (var run = 0; run < runs.Length; run++)
            {
                using var scope = NewDisposeScope();
                var start = Stopwatch.GetTimestamp();
                branch.call(x);
                DeviceClock.WaitFor(x);
                runs[run] = Stopwatch.GetElapsedTime(start).TotalMilliseconds;
            }

            // The first run meets a length for the first time.
            var measured = runs[1..];
            Array.Sort(measured);
            return Math.Max(measured[repeats / 2], 1e-6);
        }
    }

    /// <summary>
    /// Runs both branches until the runtime has compiled nothing for a while: what it starts with can be a hundred times slower than what
    /// it ends with.
    /// </summary>
    private static void WarmUp(HybridAttention router, Tensor x)
    {
        var start = Stopwatch.GetTimestamp();
        var (compiled, quietSince) = (JitInfo.GetCompiledMethodCount(), start);
        for (var run = 0; (run < WarmupRuns || IsWithin(quietSince, WarmupQuiet)) && IsWithin(start, LongestWarmup); run++)
        {
            using var scope = NewDisposeScope();
            router.Select(Route.Attention).call(x);
            router.Select(Route.Mamba).call(x);
            DeviceClock.WaitFor(x);
            var now = JitInfo.GetCompiledMethodCount();
            (compiled, quietSince) = now == compiled ? (compiled, quietSince) : (now, Stopwatch.GetTimestamp());
        }

        static bool IsWithin(long since, TimeSpan limit) => Stopwatch.GetElapsedTime(since) < limit;
    }

    /// <summary>The measurement as a TOML file with the table [adaptive].</summary>
    /// <returns>The text.</returns>
    public string ToToml() => HybridConfigWriter.WriteTable(Section, this);

    /// <summary>Writes <see cref="ToToml"/> to a file, by way of a temporary file.</summary>
    /// <param name="path">The file.</param>
    public void Save(string path) => WriteText(path, Encoding.UTF8.GetBytes(ToToml()));

    /// <summary>Reads a text that <see cref="ToToml"/> wrote.</summary>
    /// <param name="toml">The text.</param>
    /// <param name="sourceName">What error texts call it.</param>
    /// <returns>The measurement, validated.</returns>
    /// <exception cref="HybridConfigException">The text is not TOML, or a key or a value in it is wrong.</exception>
    public static RoutingCalibration Parse(string toml, string sourceName = "calibration") =>
        (RoutingCalibration)HybridConfigReader.ReadTable(toml, sourceName, Section, typeof(RoutingCalibration));

    /// <summary>Reads a file that <see cref="Save"/> wrote.</summary>
    /// <param name="path">The file.</param>
    /// <returns>The measurement, validated.</returns>
    /// <exception cref="HybridConfigException">The file is not TOML, or a key or a value in it is wrong.</exception>
    public static RoutingCalibration Load(string path) => Parse(File.ReadAllText(path), path);

    private static void WriteText(string path, byte[] text) => AtomicFile.Write(path, text.Length, file => file.Write(text));

    /// <summary>True where the other was measured on the same device, with the same dtype and batch size.</summary>
    internal bool MeasuresTheSameAs(RoutingCalibration other) => (Device, Dtype, BatchSize) == (other.Device, other.Dtype, other.BatchSize);

    /// <summary>
    /// The length from which the state-space branch is the faster one: where the logarithm of the ratio of the times, linear between the
    /// measured lengths on a logarithmic scale, crosses zero for the last time. The shortest measured length where it is always faster
    /// (below it nothing is known); <see cref="long.MaxValue"/> where it is not the faster one at the longest.
    /// </summary>
    /// <returns>The length, in tokens.</returns>
    public long Crossover()
    {
        // Positive where Mamba is faster.
        var gains = AttentionMs.Zip(MambaMs, (attention, mamba) => Math.Log(attention / mamba)).ToArray();
        var i = Array.FindLastIndex(gains, gain => gain <= 0);
        if (i == gains.Length - 1)
        {
            return long.MaxValue;
        }

        if (i < 0)
        {
            return Lengths[0];
        }

        var (low, high) = (Math.Log(Lengths[i]), Math.Log(Lengths[i + 1]));
        var share = -gains[i] / (gains[i + 1] - gains[i]);
        return Math.Clamp((long)Math.Ceiling(Math.Exp(low + (share * (high - low)))), Lengths[i] + 1, Lengths[i + 1]);
    }
}
