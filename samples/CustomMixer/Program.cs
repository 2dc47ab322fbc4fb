using Hybrid;
using Hybrid.Configuration;
using Hybrid.Modeling;
using Hybrid.Samples;
using Hybrid.Training;

// The one line: from here on "ema" is a mixer like the library's own, in TOML and in builders.
MixerRegistry.Register<EmaOptions>("ema", (width, options) => new EmaMixer(width, options));

var config = HybridConfig.Parse("""
    [model]
    hidden_size = 64
    num_layers = 2
    layers = ["ema", "attention"]
    max_seq_len = 256

    [model.feed_forward]
    kind = "swiglu"

    [model.ema]
    max_decay = 0.95

    [model.attention]
    num_heads = 4

    [training]
    steps = 80
    batch_size = 8
    sequence_length = 48
    learning_rate = 1e-2
    min_learning_rate = 1e-3
    warmup_steps = 5
    """);

TorchSharp.torch.manual_seed(config.Training!.Seed);
using var model = new CausalLanguageModel(config.Model!);
var text = string.Concat(Enumerable.Repeat("peter piper picked a peck of pickled peppers. ", 100));
var corpus = new TokenCorpus(model.Tokenizer!.Encode(text), config.Training.ValidationFraction);
using var trainer = new LanguageModelTrainer(model, corpus, config.Training);

Console.WriteLine($"layers: {string.Join(", ", model.Backbone.Blocks.Select(block => block.Mixer?.GetType().Name))}");
for (var step = 0; step < config.Training.Steps; step++)
{
    var loss = trainer.TrainStep(step);
    if (step % 10 == 0 || step == config.Training.Steps - 1)
    {
        Console.WriteLine($"step {step}: {loss:f3} nats a byte");
    }
}

Console.Write("peter");
await foreach (var piece in model.GenerateAsync("peter", new GenerationOptions { MaxNewTokens = 60, Temperature = 0 }))
{
    Console.Write(piece);
}

Console.WriteLine();
