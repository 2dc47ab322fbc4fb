using System.CommandLine;
using Hybrid.Samples;
using static TorchSharp.torch;

var config = new Option<string>("--config") { Description = "Model and training, TOML.", DefaultValueFactory = _ => Defaults.Config };
var text = new Option<string?>("--text") { Description = "Text file to train on; default: the repository's own Markdown and C# files." };
var steps = new Option<int?>("--steps") { Description = "Optimizer steps; default: those of the configuration." };
var resume = new Option<string?>("--resume") { Description = "Checkpoint folder to continue from." };
var precision = new Option<ScalarType?>("--precision") { Description = "float32, or bfloat16 for mixed precision; default: that of the configuration." };
var seed = new Option<long?>("--seed") { Description = "Seed of weights, batches and the sample text." };
var output = new Option<string>("--output") { Description = "Checkpoint folder to write.", DefaultValueFactory = _ => Defaults.Checkpoint };
var prompt = new Option<string?>("--prompt") { Description = "Text to continue at the end; default: a line that fits the text." };
var command = new RootCommand("Trains a small hybrid language model on text, byte by byte, then writes text with it.")
{
    config, text, steps, resume, precision, seed, output, prompt,
};
command.SetAction(parsed => TrainAndGenerate.Run(new RunOptions(
    parsed.GetValue(config)!, parsed.GetValue(text), parsed.GetValue(steps), parsed.GetValue(resume), parsed.GetValue(precision),
    parsed.GetValue(seed), parsed.GetValue(output)!, parsed.GetValue(prompt))));
return command.Parse(args).Invoke();
