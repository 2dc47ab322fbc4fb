using BenchmarkDotNet.Analysers;
using BenchmarkDotNet.Columns;
using BenchmarkDotNet.Diagnosers;
using BenchmarkDotNet.Engines;
using BenchmarkDotNet.Exporters;
using BenchmarkDotNet.Loggers;
using BenchmarkDotNet.Reports;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Validators;
using Hybrid.Routing;

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

    public IEnumerable<Metric> ProcessResults(DiagnoserResults results) => [new(PeakColumn.Instance, PeakOf(results.BenchmarkCase))];

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
        var peak = PeakOf(call);
        benchmark.Descriptor.GlobalCleanupMethod?.Invoke(instance, []);
        return peak;
    }

    /// <summary>MiB that some work takes at its peak; not a number where the system does not forget earlier peaks.</summary>
    internal static double PeakOf(Action work)
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
        var forgotten = PeakMemory.Forget();
        var before = LinuxMemory.OfProcess(LinuxMemory.ResidentKey) / 1024.0;
        work();
        return forgotten && PeakMemory.Mib() - before is { } peak ? peak : double.NaN;
    }

    private sealed class PeakColumn : IMetricDescriptor
    {
        public static readonly PeakColumn Instance = new();

        public string Id => nameof(PeakColumn);

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
