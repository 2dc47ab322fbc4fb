using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;
using Hybrid.Benchmarks;

if (args is [CheckpointLoading.MakeCommand or CheckpointLoading.LoadCommand, var folder])
{
    CheckpointLoading.Run(args[0], folder);
    return;
}

// In this process: the benchmarks measure native code, and the libtorch that is loaded here is the one to measure.
var config = DefaultConfig.Instance
    .AddJob(Job.ShortRun.WithToolchain(InProcessEmitToolchain.Instance))
    .AddDiagnoser(new PeakMemoryDiagnoser());
BenchmarkSwitcher.FromAssembly(typeof(Program).Assembly).Run(args.Length == 0 ? ["--filter", "*"] : args, config);
