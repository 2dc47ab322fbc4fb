using System.CommandLine;
using Hybrid.Samples;

var checkpoint = new Option<string?>("--checkpoint") { Description = "Folder of a trained model with routers; default: a small model with fresh weights." };
var text = new Option<string?>("--text") { Description = "File whose bytes the documents are cut from; default: random bytes." };
var width = new Option<long>("--width") { Description = "Width D of the model with fresh weights, a multiple of 4.", DefaultValueFactory = _ => 128 };
var lengths = new Option<long[]>("--lengths")
{
    Description = "Lengths to measure both branches at, in tokens, ascending.",
    DefaultValueFactory = _ => [64, 128, 256, 512, 1024, 2048, 4096],
    AllowMultipleArgumentsPerToken = true,
};
var thresholds = new Option<long[]>("--thresholds")
{
    Description = "Thresholds to compare, in tokens.",
    DefaultValueFactory = _ => [256, 512, 1024, 2048],
    AllowMultipleArgumentsPerToken = true,
};
var documents = new Option<int>("--documents") { Description = "Documents that the thresholds are compared on.", DefaultValueFactory = _ => 24 };
var repeats = new Option<int>("--repeats") { Description = "Runs a length, of which the median counts.", DefaultValueFactory = _ => 5 };
var seed = new Option<int>("--seed") { Description = "Seed of weights and documents.", DefaultValueFactory = _ => 1337 };
var output = new Option<string>("--output") { Description = "Folder for the charts.", DefaultValueFactory = _ => Path.Combine("artifacts", "threshold-ab") };
var command = new RootCommand("Measures from which length on Mamba beats attention here, and what each threshold of the router costs.")
{
    checkpoint, text, width, lengths, thresholds, documents, repeats, seed, output,
};
command.SetAction(parsed =>
{
    try
    {
        using var comparison = new ThresholdComparison(new ComparisonOptions
        {
            Checkpoint = parsed.GetValue(checkpoint),
            TextFile = parsed.GetValue(text),
            Width = parsed.GetValue(width),
            Lengths = parsed.GetValue(lengths)!,
            Thresholds = parsed.GetValue(thresholds)!,
            Documents = parsed.GetValue(documents),
            Repeats = parsed.GetValue(repeats),
            Seed = parsed.GetValue(seed),
        });
        var findings = comparison.Run();
        Report.Print(findings);
        Report.Save(findings, parsed.GetValue(output)!);
        return 0;
    }
    catch (Exception error) when (error is ArgumentException or IOException or InvalidDataException)
    {
        Console.Error.WriteLine(error.Message);
        return 2;
    }
});
return command.Parse(args).Invoke();
