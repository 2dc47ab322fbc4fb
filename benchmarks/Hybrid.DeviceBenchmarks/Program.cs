using System.CommandLine;
using Hybrid.DeviceBenchmarks;
using Hybrid.Kernels;
using TorchSharp;
using static TorchSharp.torch;

// One process a case, so that the memory a case takes is its own: see benchmarks/cuda/run.sh.
var cases = new Dictionary<string, Func<Settings, IEnumerable<Row>>>
{
    ["scan"] = KernelCases.Scan,
    ["block"] = KernelCases.Block,
    ["train"] = ModelCases.Train,
    ["decode"] = ModelCases.Decode,
};
foreach (var (operation, make) in OperationCases.All)
{
    cases.Add(operation, settings => OperationCases.Measure(settings, make));
}

var name = new Argument<string>("case") { Description = "What to measure." };
name.AcceptOnlyFromAmong([.. cases.Keys]);
var device = new Option<string>("--device") { Description = "cuda, cuda:1, cpu.", DefaultValueFactory = _ => "cuda" };
var precision = new Option<ScalarType>("--precision")
{
    Description = "float32, bfloat16 or float16.", DefaultValueFactory = _ => ScalarType.Float32,
};
var quick = new Option<bool>("--quick") { Description = "Small sizes and few repeats, to see that everything runs." };
var command = new RootCommand("Measures one case and prints its rows of a Markdown table.") { name, device, precision, quick };
command.SetAction(parsed =>
{
    var settings = new Settings(new Device(parsed.GetValue(device)!), parsed.GetValue(precision), parsed.GetValue(quick));
    if (settings.Device.type == DeviceType.CUDA && !cuda.is_available())
    {
        Console.Error.WriteLine("There is no CUDA device here, or the libtorch is one for CPUs; measure with --device cpu.");
        return 1;
    }

    KernelDispatcher.Logger = new ErrorLogger();
    foreach (var row in cases[parsed.GetValue(name)!](settings))
    {
        Console.WriteLine(row);
    }

    return 0;
});
return command.Parse(args).Invoke();
