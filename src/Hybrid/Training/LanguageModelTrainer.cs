using Hybrid.Modeling;
using Hybrid.Routing;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Hybrid.Training;

/// <summary>
/// Trains a language model with AdamW: warm-up and cosine decay, gradient clipping, weight decay on matrices only. A step depends on
/// weights, optimizer state, seed and step number alone, so a run that is resumed from a checkpoint repeats the losses of one that was
/// not interrupted. A model in <see cref="MixedPrecision"/> trains through float32 <see cref="Masters"/>, in float16 with a
/// <see cref="Scaler"/> too.
/// </summary>
public sealed class LanguageModelTrainer : IDisposable
{
    private readonly CausalLanguageModel model;
    private readonly TokenCorpus corpus;
    private readonly TrainingOptions options;

    /// <param name="model">The model; the trainer does not take it over.</param>
    /// <param name="corpus">The text.</param>
    /// <param name="options">Batches, learning rate, decay.</param>
    /// <exception cref="ArgumentException">An option is out of its range, or of a loss scaler that the model has no use for.</exception>
    public LanguageModelTrainer(CausalLanguageModel model, TokenCorpus corpus, TrainingOptions options)
    {
        options.Validate();
        this.model = model;
        this.corpus = corpus;
        this.options = options;
        if (model.Type == ScalarType.Float16)
        {
            Scaler = new LossScaler(options.LossScaler);
        }
        else if (options.LossScaler is not null)
        {
            throw new ArgumentException(
                $"TrainingOptions.{nameof(options.LossScaler)} is for a model in Float16; leave it out for one in {model.Type}.", nameof(options));
        }

        Masters = MasterWeights.For(model);
        Optimizer = CreateOptimizer(model, options, Masters);
    }

    /// <summary>The optimizer, for checkpoints.</summary>
    public AdamW Optimizer { get; }

    /// <summary>What the optimizer updates in the place of half-precision parameters; null for a model without.</summary>
    public MasterWeights? Masters { get; }

    /// <summary>Scales the loss of a model with float16 parameters; null for others.</summary>
    public LossScaler? Scaler { get; }

    /// <summary>
    /// AdamW over two groups: matrices decay; vectors (biases, norms) and what a mixer excludes (A_log, D, step-size biases) do not.
    /// </summary>
    /// <param name="model">The model.</param>
    /// <param name="options">Learning rate, betas and decay.</param>
    /// <param name="masters">Takes the place of the model's half-precision parameters; null means none.</param>
    /// <returns>The optimizer; the caller disposes it.</returns>
    public static AdamW CreateOptimizer(nn.Module model, TrainingOptions options, MasterWeights? masters = null)
    {
        var excluded = model.modules().Append(model).OfType<SequenceMixer>().SelectMany(mixer => mixer.ParametersWithoutWeightDecay)
            .Select(parameter => parameter.Handle).ToHashSet();
        var groups = model.parameters().ToLookup(parameter => parameter.dim() >= 2 && !excluded.Contains(parameter.Handle));
        return optim.AdamW(
            [Group(groups[true], options.WeightDecay), Group(groups[false], 0)],
            lr: options.LearningRate, beta1: options.Beta1, beta2: options.Beta2, weight_decay: options.WeightDecay);

        AdamW.ParamGroup Group(IEnumerable<Parameter> parameters, double decay) =>
            new([.. parameters.Select(parameter => masters?.Of(parameter) ?? parameter)], lr: options.LearningRate, beta1: options.Beta1, beta2: options.Beta2, weight_decay: decay);
    }

    /// <summary>One optimizer step.</summary>
    /// <param name="step">Step number, from 0.</param>
    /// <returns>The training loss before the step, in nats a token; with the load-balance loss of experts, see <see cref="CausalLanguageModel.Loss"/>.</returns>
    public double TrainStep(int step)
    {
        using var scope = NewDisposeScope();
        model.train();
        manual_seed(unchecked((options.Seed * 1_000_003) + step));
        var rate = options.LearningRateAt(step);
        foreach (var group in Optimizer.ParamGroups)
        {
            group.LearningRate = rate;
        }

        var (ids, targets) = corpus.TrainingBatch(step, options.Seed, options.BatchSize, options.SequenceLength, model.Device);
        Optimizer.zero_grad();
        var loss = ExploredLoss(step, ids, targets);
        (Scaler?.Apply(loss) ?? loss).backward();
        Masters?.TakeGradients(Scaler?.Scale ?? 1);
        var finite = Scaler is null || LossScaler.AreFinite(Optimizer.parameters());
        if (finite)
        {
            Update();
        }

        Scaler?.Update(finite);
        return loss.ToDouble();
    }

    /// <summary>Mean loss over held-out windows, in evaluation mode.</summary>
    /// <param name="windows">Windows at most.</param>
    /// <returns>The loss, in nats a token.</returns>
    public double Evaluate(int windows = 512)
    {
        using var guard = no_grad();
        model.eval();
        var (sum, count) = (0.0, 0L);
        using var scope = NewDisposeScope();
        foreach (var (ids, targets) in corpus.ValidationBatches(windows, 32, options.SequenceLength, model.Device))
        {
            sum += model.Loss(ids, targets).ToDouble() * ids.size(0);
            count += ids.size(0);
            scope.DisposeEverything();
        }

        return sum / count;
    }

    /// <summary>Frees the optimizer and the master weights.</summary>
    public void Dispose()
    {
        Optimizer.Dispose();
        Masters?.Dispose();
    }

    private void Update()
    {
        if (options.GradientClip > 0)
        {
            nn.utils.clip_grad_norm_(Optimizer.parameters(), options.GradientClip);
        }

        Optimizer.step();
        Masters?.Publish();
    }

    private Tensor ExploredLoss(int step, Tensor ids, Tensor targets)
    {
        var explore = options.ExploreEvery > 0 && step % options.ExploreEvery == options.ExploreEvery - 1;
        var routers = explore ? model.Routers.Where(router => router.Override is null).ToArray() : [];
        foreach (var router in routers)
        {
            router.Override = router.Decide(options.SequenceLength).Route == Route.Mamba ? Route.Attention : Route.Mamba;
        }

        try
        {
            return model.Loss(ids, targets);
        }
        finally
        {
            foreach (var router in routers)
            {
                router.Override = null;
            }
        }
    }
}
