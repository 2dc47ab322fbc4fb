using System.Diagnostics;
using Hybrid.Modeling;
using Hybrid.Training;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Hybrid.Samples;

/// <summary>What a run came to.</summary>
internal sealed record RecallResult(Contender Contender, long Parameters, int Steps, TimeSpan Time, IReadOnlyList<double> Accuracies);

/// <summary>Trains one model on one task until it answers nearly everything twice in a row, or its steps or its time are used up.</summary>
internal sealed class RecallRun(RecallTask task, Contender contender, LanguageModelOptions options, double learningRate, int seed)
{
    private const int BatchSize = 32;
    private const int EvaluateEvery = 100;
    private const int EvaluatedRows = 256;
    private const int WarmupSteps = 50;
    private const double Solved = 0.998;

    // Gradients of rare events make the second moment jump; a shorter memory follows them, and little decay leaves the embeddings alone.
    private readonly TrainingOptions training = new()
    {
        LearningRate = learningRate, MinLearningRate = learningRate / 10, WarmupSteps = WarmupSteps, Beta2 = 0.95, WeightDecay = 0.01,
    };

    // Of their own, so that what is tested was not trained on.
    private readonly Random trainingRandom = new(seed);

    public RecallResult Train(int steps, TimeSpan budget, Action<string> report)
    {
        manual_seed(seed);
        using var model = new CausalLanguageModel(options);
        using var optimizer = LanguageModelTrainer.CreateOptimizer(model, training);
        var clock = Stopwatch.StartNew();
        var (step, solved) = (0, 0);
        while (solved < 2 && step < steps && clock.Elapsed < budget)
        {
            var loss = Step(model, optimizer, step, Math.Max((double)step / steps, clock.Elapsed / budget));
            step++;
            if (step % EvaluateEvery == 0)
            {
                var accuracy = Accuracy(model, task.TrainingLength);
                report($"{contender.Name,-20} step {step,5}  {clock.Elapsed.TotalSeconds,4:f0} s  loss {loss:f3}  accuracy {accuracy:p1}");
                solved = accuracy >= Solved ? solved + 1 : 0;
            }
        }

        var time = clock.Elapsed;
        return new RecallResult(contender, model.CountParameters(), step, time, [.. task.TestLengths.Select(length => Accuracy(model, length))]);
    }

    /// <summary>One optimizer step; the rate falls along a cosine over the run.</summary>
    private double Step(CausalLanguageModel model, AdamW optimizer, int step, double progress)
    {
        using var scope = NewDisposeScope();
        model.train();
        var warmup = Math.Min(1, (step + 1.0) / WarmupSteps);
        var decayed = training.MinLearningRate + (0.5 * (1 + Math.Cos(Math.PI * progress)) * (learningRate - training.MinLearningRate));
        foreach (var group in optimizer.ParamGroups)
        {
            group.LearningRate = decayed * warmup;
        }

        var (ids, targets) = task.Draw(trainingRandom, BatchSize, task.TrainingLength);
        optimizer.zero_grad();
        var loss = model.Loss(ids, targets);
        loss.backward();
        nn.utils.clip_grad_norm_(model.parameters(), training.GradientClip);
        optimizer.step();
        return loss.ToDouble();
    }

    /// <summary>Share of the questions that the model answers, on the same sequences at every call.</summary>
    private double Accuracy(CausalLanguageModel model, int length)
    {
        using var guard = no_grad();
        model.eval();
        var random = new Random(unchecked(seed + (7919 * length)));
        var (right, asked) = (0L, 0L);
        for (var row = 0; row < EvaluatedRows; row += BatchSize)
        {
            using var scope = NewDisposeScope();
            var (ids, targets) = task.Draw(random, BatchSize, length);
            var answers = model.forward(ids).argmax(-1);
            right += answers.eq(targets).sum().ToInt64();
            asked += targets.ne(RecallTask.Ignored).sum().ToInt64();
        }

        return (double)right / asked;
    }
}
