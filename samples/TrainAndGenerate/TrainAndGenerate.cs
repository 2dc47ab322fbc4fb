using Hybrid.Checkpoints;
using Hybrid.Configuration;
using Hybrid.Modeling;
using Hybrid.Routing;
using Hybrid.Training;
using Spectre.Console;
using static TorchSharp.torch;

namespace Hybrid.Samples;

internal sealed record RunOptions(
    string Config, string? Text, int? Steps, string? Resume, ScalarType? Precision, long? Seed, string Output, string? Prompt);

internal static class Defaults
{
    public const string Config = "configs/tiny.toml";
    public const string Checkpoint = "checkpoints/tiny";
}

/// <summary>The whole path: configuration, text, training with checkpoints, generation.</summary>
internal static class TrainAndGenerate
{
    private const int GeneratedBytes = 400;
    private const int RedirectedWidth = 1000;

    public static int Run(RunOptions options)
    {
        if (Console.IsOutputRedirected)
        {
            AnsiConsole.Profile.Width = RedirectedWidth;
        }

        try
        {
            return TrainThenGenerate(options);
        }
        catch (Exception error) when (error is HybridConfigException or ArgumentException or IOException or InvalidDataException)
        {
            Console.Error.WriteLine(error.Message);
            return 1;
        }
    }

    private static int TrainThenGenerate(RunOptions options)
    {
        var checkpoint = options.Resume is null ? null : TrainingCheckpoint.Open(options.Resume);
        var config = checkpoint?.Config ?? HybridConfig.Load(RepositoryFiles.Find(options.Config));
        var training = config.Training ?? new TrainingOptions();
        training = training with { Steps = options.Steps ?? training.Steps, Seed = options.Seed ?? training.Seed };
        var architecture = config.Model ?? throw new ArgumentException($"{options.Config} has no [model] table.");
        config = config with { Training = training, Model = architecture with { Precision = options.Precision ?? architecture.Precision } };

        var corpusText = CorpusText.Read(options.Text);
        manual_seed(training.Seed);
        using var model = new CausalLanguageModel(config.Model);
        var tokens = new ByteTokenizer().Encode(corpusText.Text);
        var corpus = new TokenCorpus(tokens, training.ValidationFraction);
        using var trainer = new LanguageModelTrainer(model, corpus, training);
        checkpoint?.LoadInto(model);
        checkpoint?.LoadOptimizer(trainer.Optimizer, model, trainer.Masters, trainer.Scaler);
        var firstStep = (int)(checkpoint?.Step ?? 0);

        AnsiConsole.MarkupLineInterpolated($"text      {corpusText.Description}: {corpus.TrainingCount:N0} bytes to train on, {corpus.ValidationCount:N0} held out");
        AnsiConsole.MarkupLineInterpolated($"model     {model.CountParameters():N0} parameters in {config.Model.Precision}, layers {string.Join(", ", model.Backbone.Pattern.Mixers)} ({model.Backbone.Pattern})");
        AnsiConsole.MarkupLineInterpolated($"training  {training.Steps} steps of {training.BatchSize} x {training.SequenceLength} bytes, seed {training.Seed}");

        using var loop = new TrainingLoop(trainer, training);
        var reached = loop.Run(firstStep);
        TrainingCheckpoint.Save(options.Output, model, config, trainer.Optimizer, reached, masters: trainer.Masters, scaler: trainer.Scaler);
        var folder = Path.GetFullPath(options.Output);
        if (loop.Interrupted)
        {
            AnsiConsole.MarkupLineInterpolated($"stopped at step {reached}; continue with --resume {folder}");
            return 0;
        }

        PrintRouters(model);
        foreach (var router in model.Routers)
        {
            router.ResetMetrics();
        }

        var prompt = options.Prompt ?? corpusText.Prompt;
        AnsiConsole.WriteLine();
        Console.Write(prompt);
        foreach (var piece in model.Generate(prompt, new GenerationOptions { MaxNewTokens = GeneratedBytes, Temperature = 0.8, TopP = 0.95, Seed = (int)training.Seed }))
        {
            Console.Write(piece);
        }

        Console.WriteLine();
        AnsiConsole.WriteLine();
        PrintRouters(model);
        AnsiConsole.MarkupLineInterpolated($"checkpoint {folder}");
        AnsiConsole.MarkupLineInterpolated($"more text  ./build.sh sample Generate --checkpoint {folder} --prompt \"...\"");
        return 0;
    }

    private static void PrintRouters(CausalLanguageModel model)
    {
        foreach (var (router, i) in model.Routers.Select((router, i) => (router, i)))
        {
            var metrics = router.GetMetrics();
            AnsiConsole.MarkupLineInterpolated(
                $"router {i}   {metrics.AttentionCount:N0} sequences to attention, {metrics.MambaCount:N0} to Mamba{Last(metrics.Last)}");
        }
    }

    private static string Last(RoutingDecision? decision) => decision is not { } last
        ? ""
        : $"; last: length {last.Length} against {last.Threshold}, {last.Route}, {last.Detail}, confidence {last.Confidence:f2}";
}
