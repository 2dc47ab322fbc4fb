using System.CommandLine;
using Hybrid.Modeling;

var folder = new Option<string>("--model") { Description = "Folder with config.json and model.safetensors, as model hubs have them.", Required = true };
var prompt = new Option<string>("--prompt") { Description = "Text to continue; token ids with commas between them where the folder has no tokenizer.", Required = true };
var tokens = new Option<int?>("--tokens") { Description = "Tokens to generate; else what generation_config.json says." };
var device = new Option<string>("--device") { Description = "cpu, cuda, cuda:1 ...", DefaultValueFactory = _ => "cpu" };
var dtype = new Option<string>("--dtype") { Description = "auto, float32 or bfloat16.", DefaultValueFactory = _ => "auto" };
var output = new Option<string?>("--output") { Description = "Folder to save the model to." };
var command = new RootCommand("Loads a model of a hub, says what it is made of and continues a prompt.") { folder, prompt, tokens, device, dtype, output };
command.SetAction(parsed =>
{
    try
    {
        using var model = CausalLanguageModel.FromPretrained(parsed.GetValue(folder)!, parsed.GetValue(device)!, parsed.GetValue(dtype)!);
        Console.WriteLine(model.Backbone.Describe());

        var defaults = model.GenerationDefaults;
        var options = defaults with { MaxNewTokens = parsed.GetValue(tokens) ?? defaults.MaxNewTokens };
        if (model.Tokenizer is null)
        {
            Console.WriteLine($"tokenizer     none: {model.TokenizerProblem}");
            using var generator = new TokenGenerator(model, options);
            Console.WriteLine($"continuation  {string.Join(' ', generator.Generate(Ids(parsed.GetValue(prompt)!)))}");
        }
        else
        {
            Console.WriteLine($"continuation  {string.Concat(model.Generate(parsed.GetValue(prompt)!, options))}");
        }

        if (parsed.GetValue(output) is { } target)
        {
            model.SavePretrained(target);
            Console.WriteLine($"saved         {target}");
        }

        return 0;
    }
    catch (Exception error) when (error is ArgumentException or IOException or InvalidDataException or NotSupportedException)
    {
        Console.Error.WriteLine(error.Message);
        return 1;
    }
});
return command.Parse(args).Invoke();

static int[] Ids(string prompt)
{
    try
    {
        return [.. prompt.Split(',').Select(int.Parse)];
    }
    catch (Exception error) when (error is FormatException or OverflowException)
    {
        throw new ArgumentException($"Without a tokenizer --prompt must be token ids, such as 17,42,8; got '{prompt}'.", error);
    }
}
