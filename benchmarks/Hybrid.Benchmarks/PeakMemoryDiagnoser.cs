using System.Runtime.InteropServices;
using BenchmarkDotNet.Analysers;
using BenchmarkDotNet.Columns;
using BenchmarkDotNet.Diagnosers;
using BenchmarkDotNet.Engines;
using BenchmarkDotNet.Exporters;
using BenchmarkDotNet.Loggers;
using BenchmarkDotNet.Reports;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Validators;

namespace Hybrid.Benchmarks;

/// <summary>
/// Adds a column with the peak memory of one call: how far the resident memory of the process rises above what it held before the call,
/// after a first call has made what stays (gradients, buffers of the BLAS). Tensors are native memory, which the garbage collector's
/// counters do not see and which no version of libtorch reports for CPUs. Linux with glibc only.
/// </summary>
internal sealed class PeakMemoryDiagnoser : IDiagnoser
{
    public IEnumerable<string> Ids => [nameof(PeakMemoryDiagnoser)];

    public IEnumerable<IExporter> Exporters => [];

    public IEnumerable<IAnalyser> Analysers => [];

    public RunMode GetRunMode(BenchmarkCase benchmarkCase) => OperatingSystem.IsLinux() ? RunMode.NoOverhead : RunMode.None;

    public void Handle(HostSignal signal, DiagnoserActionParameters parameters)
    {
    }

    public IEnumerable<Metric> ProcessResults(DiagnoserResults results) => [new(PeakMemory.Instance, PeakOf(results.BenchmarkCase))];

    public void DisplayResults(ILogger logger)
    {
    }

    public IEnumerable<ValidationError> Validate(ValidationParameters validationParameters) => [];

    /// <summary>MiB that one call of a benchmark takes at its peak.</summary>
    private static double PeakOf(BenchmarkCase benchmark)
    {
        var instance = Activator.CreateInstance(benchmark.Descriptor.Type)!;
        foreach (var parameter in benchmark.Parameters.Items)
        {
            benchmark.Descriptor.Type.GetProperty(parameter.Name)!.SetValue(instance, parameter.Value);
        }

        benchmark.Descriptor.GlobalSetupMethod?.Invoke(instance, []);
        var call = benchmark.Descriptor.WorkloadMethod.CreateDelegate<Action>(instance);
        call();

        Forget();
        var before = Kilobytes("VmRSS");
        call();
        var peak = Kilobytes("VmHWM") - before;
        benchmark.Descriptor.GlobalCleanupMethod?.Invoke(instance, []);
        return peak / 1024.0;
    }

    /// <summary>Gives what earlier calls freed back to the system, and lets the kernel forget the peak so far.</summary>
    internal static void Forget()
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
        _ = malloc_trim(0);
        File.WriteAllText("/proc/self/clear_refs", "5");
    }

    /// <summary>A number of the kernel's account of this process, such as VmRSS or VmHWM.</summary>
    internal static long Kilobytes(string field)
    {
        var line = File.ReadLines("/proc/self/status").First(line => line.StartsWith(field + ":", StringComparison.Ordinal));
        return long.Parse(line.Split([' ', '\t'], StringSplitOptions.RemoveEmptyEntries)[1]);
    }

    [DllImport("libc")]
    private static extern int malloc_trim(nint pad);

    private sealed class PeakMemory : IMetricDescriptor
    {
        public static readonly PeakMemory Instance = new();

        public string Id => nameof(PeakMemory);

        public string DisplayName => "Peak MiB";

        public string Legend => "Resident memory at the peak of one call, above that before it (1 MiB = 1024 x 1024 bytes)";

        public string NumberFormat => "0.0";

        public UnitType UnitType => UnitType.Dimensionless;

        public string Unit => "";

        public bool TheGreaterTheBetter => false;

        public int PriorityInCategory => 0;

        public bool GetIsAvailable(Metric metric) => true;
    }
}
