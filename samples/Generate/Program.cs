using System.CommandLine;
using Hybrid.Modeling;
using Hybrid.Samples;

var checkpoint = new Option<string>("--checkpoint") { Description = "Folder that TrainAndGenerate wrote, or one of a model hub.", Required = true };
var prompt = new Option<string>("--prompt") { Description = "Text to continue.", Required = true };
var tokens = new Option<int>("--tokens") { Description = "Tokens to generate; bytes unless there is a tokenizer.", DefaultValueFactory = _ => 400 };
var temperature = new Option<double>("--temperature") { Description = "0 is greedy.", DefaultValueFactory = _ => 0.8 };
var topK = new Option<int>("--top-k") { Description = "Draw from the k most likely tokens; 0: all." };
var topP = new Option<double>("--top-p") { Description = "Draw from the smallest set with this mass.", DefaultValueFactory = _ => 0.95 };
var minP = new Option<double>("--min-p") { Description = "Draw from those at least this times as likely as the likeliest." };
var penalty = new Option<double>("--repetition-penalty") { Description = "Above 1: tokens that came already become less likely.", DefaultValueFactory = _ => 1 };
var stop = new Option<string[]>("--stop") { Description = "Texts to end at.", DefaultValueFactory = _ => [] };
var tokenizer = new Option<string?>("--tokenizer") { Description = "A tokenizer.json; default: that of the folder, else bytes." };
var seed = new Option<int?>("--seed") { Description = "Seed of the draws." };
var command = new RootCommand("Continues a text with a saved model.")
{
    checkpoint, prompt, tokens, temperature, topK, topP, minP, penalty, stop, tokenizer, seed,
};
command.SetAction(async (parsed, cancellation) =>
{
    try
    {
        using var model = SavedModel.Load(parsed.GetValue(checkpoint)!, parsed.GetValue(tokenizer));
        var options = model.GenerationDefaults with
        {
            MaxNewTokens = parsed.GetValue(tokens),
            Temperature = parsed.GetValue(temperature),
            TopK = parsed.GetValue(topK),
            TopP = parsed.GetValue(topP),
            MinP = parsed.GetValue(minP),
            RepetitionPenalty = parsed.GetValue(penalty),
            StopStrings = parsed.GetValue(stop)!,
            Seed = parsed.GetValue(seed),
        };
        using var generator = new TextGenerator(model, options);
        Console.Write(parsed.GetValue(prompt));
        await foreach (var piece in generator.GenerateAsync(model.Tokenizer!.Encode(parsed.GetValue(prompt)!), cancellation))
        {
            Console.Write(piece);
        }

        Console.WriteLine();
        return 0;
    }
    catch (Exception error) when (error is ArgumentException or InvalidOperationException or IOException or InvalidDataException or NotSupportedException)
    {
        Console.Error.WriteLine(error.Message);
        return 1;
    }
});
return await command.Parse(args).InvokeAsync();
