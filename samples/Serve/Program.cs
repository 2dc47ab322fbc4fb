using System.CommandLine;
using Hybrid.Configuration;
using Hybrid.Modeling;
using Hybrid.Samples;
using Microsoft.AspNetCore.Builder;
using Microsoft.Extensions.Hosting;

const string DefaultCheckpoint = "checkpoints/tiny";
var limits = new ServerOptions();
var checkpoint = new Option<string?>("--checkpoint") { Description = $"Folder that TrainAndGenerate wrote, or one of a model hub; default: {DefaultCheckpoint} if it is there, else an untrained model." };
var tokenizer = new Option<string?>("--tokenizer") { Description = "A tokenizer.json; default: that of the folder, else bytes." };
var urls = new Option<string>("--urls") { Description = "Addresses to listen on.", DefaultValueFactory = _ => "http://127.0.0.1:8080" };
var workers = new Option<int>("--workers") { Description = "Texts generated at the same time.", DefaultValueFactory = _ => limits.Workers };
var queue = new Option<int>("--queue") { Description = "Requests that may wait.", DefaultValueFactory = _ => limits.QueueLength };
var maxTokens = new Option<int>("--max-tokens") { Description = "Most tokens of an answer.", DefaultValueFactory = _ => limits.MaxTokens };
var maxPrompt = new Option<int>("--max-prompt-tokens") { Description = "Most tokens of a prompt.", DefaultValueFactory = _ => limits.MaxPromptTokens };
var maxBody = new Option<long>("--max-body-bytes") { Description = "Most bytes of a request.", DefaultValueFactory = _ => limits.MaxBodyBytes };
var command = new RootCommand("Serves a model over HTTP, with a page to try it.") { checkpoint, tokenizer, urls, workers, queue, maxTokens, maxPrompt, maxBody };
command.SetAction(async (parsed, cancellation) =>
{
    try
    {
        using var model = LoadModel(parsed.GetValue(checkpoint), parsed.GetValue(tokenizer));
        var options = limits with
        {
            Workers = parsed.GetValue(workers),
            QueueLength = parsed.GetValue(queue),
            MaxTokens = parsed.GetValue(maxTokens),
            MaxPromptTokens = parsed.GetValue(maxPrompt),
            MaxBodyBytes = parsed.GetValue(maxBody),
        };
        await using var app = CompletionServer.Build(model, options, parsed.GetValue(urls)!);
        await app.StartAsync(cancellation);
        Console.WriteLine($"listening on {string.Join(", ", app.Urls)}; Ctrl-C ends it");
        await app.WaitForShutdownAsync(cancellation);
        return 0;
    }
    catch (Exception error) when (error is ArgumentException or IOException or InvalidDataException or NotSupportedException or HybridConfigException)
    {
        Console.Error.WriteLine(error.Message);
        return 1;
    }
});
return await command.Parse(args).InvokeAsync();

static CausalLanguageModel LoadModel(string? folder, string? tokenizer)
{
    if (folder is not null || Directory.Exists(DefaultCheckpoint))
    {
        return SavedModel.Load(folder ?? DefaultCheckpoint, tokenizer);
    }

    Console.Error.WriteLine($"warning: there is no {DefaultCheckpoint}; serving an untrained model, whose texts are noise. Train one: ./build.sh sample TrainAndGenerate");
    return new CausalLanguageModel(new LanguageModelOptions { HiddenSize = 64, NumLayers = 3, MaxSeqLen = 1024 });
}
