using System.Globalization;
using Hybrid.Kernels.Cuda;
using Hybrid.Mixers;
using Hybrid.Modeling;
using Hybrid.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.DeviceBenchmarks;

/// <summary>Training and decoding of a model of the shape of mamba-130m, with fresh weights.</summary>
internal static class ModelCases
{
    private const int Seed = 1;
    private const int PromptLength = 128;

    /// <summary>More than a fast device decodes while the clock warms up; a Mamba model takes no memory for it.</summary>
    private const long LongestSequence = 1_000_000;

    /// <summary>Whole steps of the trainer: batch, loss, backward, clipping, AdamW.</summary>
    public static IEnumerable<Row> Train(Settings settings)
    {
        var memory = new DeviceMemory(settings.Device);
        using var model = Model(settings);
        var (batch, time) = ((int)settings.Size(2, 1), (int)settings.Size(1024, 32));
        var options = new TrainingOptions { BatchSize = batch, SequenceLength = time, Steps = 1000 };
        var random = new Random(Seed);
        var corpus = new TokenCorpus([.. Enumerable.Range(0, 20 * time).Select(_ => random.Next((int)model.Options.VocabSize))], 0.2);
        using var trainer = new LanguageModelTrainer(model, corpus, options);
        var step = 0;
        var milliseconds = Clock.Median(settings, () => trainer.TrainStep(step++));
        yield return new Row(
            $"training step, {Shape(model)}, B {batch}, T {time}", settings, milliseconds, TokensPerSecond(batch * time, milliseconds), memory.PeakMib);
    }

    /// <summary>One token after another, the likeliest each time, for one sequence and for many; and what a token launches and makes.</summary>
    public static IEnumerable<Row> Decode(Settings settings)
    {
        var memory = new DeviceMemory(settings.Device);
        using var model = Model(settings);
        model.eval();
        foreach (var batch in new[] { 1, settings.Size(32, 2) })
        {
            using var guard = no_grad();
            using var scope = NewDisposeScope();
            using var state = model.CreateState(batch);
            var prompt = randint(0, model.Options.VocabSize, [batch, PromptLength], dtype: ScalarType.Int64, device: settings.Device);
            var next = Next(model, prompt, state).DetachFromDisposeScope();
            var milliseconds = Clock.Median(settings, () =>
            {
                var token = Next(model, next, state).DetachFromDisposeScope();
                next.Dispose();
                next = token;
            });
            var (launches, tensors) = Count(() => model.NextTokenLogits(next, new MixerContext { State = state }).Dispose());
            next.Dispose();
            yield return new Row(
                $"a token of {batch} sequences, {Shape(model)}", settings, milliseconds,
                $"{TokensPerSecond(batch, milliseconds)}, {launches} launches of the library, {tensors} tensors", memory.PeakMib);
        }
    }

    /// <summary>Kernels of the library that a call launches, and tensors that it makes.</summary>
    private static (long Launches, long Tensors) Count(Action call)
    {
        var statistics = DisposeScopeManager.Statistics.TensorStatistics;
        var (launches, tensors) = (CudaRuntime.AllLaunches, statistics.CreatedInScopeCount + statistics.CreatedOutsideScopeCount);
        call();
        return (CudaRuntime.AllLaunches - launches, statistics.CreatedInScopeCount + statistics.CreatedOutsideScopeCount - tensors);
    }

    private static Tensor Next(CausalLanguageModel model, Tensor ids, MixerState state) =>
        model.NextTokenLogits(ids, new MixerContext { State = state }).argmax(-1).unsqueeze(1);

    private static CausalLanguageModel Model(Settings settings)
    {
        manual_seed(Seed);
        var model = new CausalLanguageModel(new LanguageModelOptions
        {
            VocabSize = settings.Size(50280, 512),
            HiddenSize = settings.Size(768, 64),
            NumLayers = (int)settings.Size(24, 2),
            MaxSeqLen = LongestSequence,
            Layers = ["mamba"],
            Precision = settings.Precision,
            Mixers = new Dictionary<string, object> { ["mamba"] = new MambaOptions() },
        });
        return model.to(settings.Device);
    }

    private static string Shape(CausalLanguageModel model) =>
        string.Create(CultureInfo.InvariantCulture, $"{model.CountParameters() / 1e6:0.0} M parameters");

    private static string TokensPerSecond(long tokens, double milliseconds) =>
        string.Create(CultureInfo.InvariantCulture, $"{tokens / milliseconds * 1000:#,0.0} tokens/s");
}
