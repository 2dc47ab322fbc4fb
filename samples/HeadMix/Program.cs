using System.CommandLine;
using Hybrid.Attention;
using Hybrid.Samples;

var width = new Option<long>("--width") { Description = "Model width D, a multiple of 8.", DefaultValueFactory = _ => 512 };
var batch = new Option<long>("--batch") { Description = "Sequences a call.", DefaultValueFactory = _ => 2 };
var lengths = new Option<long[]>("--lengths")
{
    Description = "Lengths to time, in tokens; statistics are of the first.",
    DefaultValueFactory = _ => [128, 256, 512, 1024],
    AllowMultipleArgumentsPerToken = true,
};
var repeats = new Option<int>("--repeats") { Description = "Timed calls of each; the median counts.", DefaultValueFactory = _ => 7 };
var holonomy = new Option<HolonomyKind>("--holonomy") { Description = "How holonomy heads turn." };
var compat = new Option<MixedHeadCompat>("--compat") { Description = "Whose numbers to reproduce." };
var seed = new Option<long>("--seed") { Description = "Seed of weights and inputs.", DefaultValueFactory = _ => 1337 };
var output = new Option<string>("--output") { Description = "Folder for the charts.", DefaultValueFactory = _ => Path.Combine("artifacts", "head-mix") };
var command = new RootCommand("Compares mixes of standard, spectral and holonomy heads: time, output statistics and gradients by type of head.")
{
    width, batch, lengths, repeats, holonomy, compat, seed, output,
};
command.SetAction(parsed => Comparison.Run(
    new ComparisonOptions(
        parsed.GetValue(width), parsed.GetValue(batch), parsed.GetValue(lengths)!, parsed.GetValue(repeats), parsed.GetValue(holonomy),
        parsed.GetValue(compat), parsed.GetValue(seed)),
    parsed.GetValue(output)!));
return command.Parse(args).Invoke();
