using System.CommandLine;
using Hybrid.Checkpoints;
using Hybrid.Modeling;

var checkpoint = new Option<string>("--checkpoint") { Description = "Folder that TrainAndGenerate wrote.", Required = true };
var prompt = new Option<string>("--prompt") { Description = "Text to continue.", Required = true };
var tokens = new Option<int>("--tokens") { Description = "Bytes to generate.", DefaultValueFactory = _ => 400 };
var temperature = new Option<double>("--temperature") { Description = "0 is greedy.", DefaultValueFactory = _ => 0.8 };
var topK = new Option<int>("--top-k") { Description = "Draw from the k most likely bytes; 0: all." };
var topP = new Option<double>("--top-p") { Description = "Draw from the smallest set with this mass.", DefaultValueFactory = _ => 0.95 };
var seed = new Option<int?>("--seed") { Description = "Seed of the draws." };
var command = new RootCommand("Continues a text with a trained checkpoint.") { checkpoint, prompt, tokens, temperature, topK, topP, seed };
command.SetAction(async (parsed, cancellation) =>
{
    try
    {
        var saved = TrainingCheckpoint.Open(parsed.GetValue(checkpoint)!);
        using var model = saved.LoadModel();
        var options = new GenerationOptions
        {
            MaxNewTokens = parsed.GetValue(tokens),
            Temperature = parsed.GetValue(temperature),
            TopK = parsed.GetValue(topK),
            TopP = parsed.GetValue(topP),
            Seed = parsed.GetValue(seed),
        };
        Console.Write(parsed.GetValue(prompt));
        await foreach (var piece in model.GenerateAsync(parsed.GetValue(prompt)!, options, cancellation))
        {
            Console.Write(piece);
        }

        Console.WriteLine();
        return 0;
    }
    catch (Exception error) when (error is ArgumentException or IOException or InvalidDataException)
    {
        Console.Error.WriteLine(error.Message);
        return 1;
    }
});
return await command.Parse(args).InvokeAsync();
