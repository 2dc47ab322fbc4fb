using Hybrid.Configuration;
using Hybrid.Modeling;
using Hybrid.Training;

var config = HybridConfig.Load("configs/tiny.toml");
using var model = new CausalLanguageModel(config.Model!);
var text = string.Concat(Enumerable.Repeat("the quick brown fox jumps over the lazy dog. ", 200));
var corpus = new TokenCorpus(model.Tokenizer!.Encode(text), validationFraction: 0.1);
using var trainer = new LanguageModelTrainer(model, corpus, config.Training! with { Steps = 60, WarmupSteps = 10 });
for (var step = 0; step < 60; step++)
    Console.WriteLine($"step {step}: {trainer.TrainStep(step):f3} nats a byte");

await foreach (var piece in model.GenerateAsync("the quick", new GenerationOptions { MaxNewTokens = 60, Temperature = 0 }))
    Console.Write(piece);
