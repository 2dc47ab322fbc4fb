namespace Hybrid.Training;

/// <summary>Options of a training run; the [training] table of a TOML file binds to it.</summary>
public sealed record TrainingOptions
{
    /// <summary>Optimizer steps; at least 1. Default 2000.</summary>
    public int Steps { get; init; } = 2000;

    /// <summary>Sequences a step; at least 1. Default 12.</summary>
    public int BatchSize { get; init; } = 12;

    /// <summary>Tokens of a sequence that are predicted; at least 1. Default 64.</summary>
    public int SequenceLength { get; init; } = 64;

    /// <summary>Peak learning rate; positive. Default 1e-3.</summary>
    public double LearningRate { get; init; } = 1e-3;

    /// <summary>Learning rate at the end of the cosine; 0 or more, at most the peak. Default 1e-4.</summary>
    public double MinLearningRate { get; init; } = 1e-4;

    /// <summary>Steps of linear warm-up; 0 or more. Default 100.</summary>
    public int WarmupSteps { get; init; } = 100;

    /// <summary>Weight decay of matrices; 0 or more. Default 0.1.</summary>
    public double WeightDecay { get; init; } = 0.1;

    /// <summary>First moment decay of AdamW, 0 up to 1. Default 0.9.</summary>
    public double Beta1 { get; init; } = 0.9;

    /// <summary>Second moment decay of AdamW, 0 up to 1. Default 0.99.</summary>
    public double Beta2 { get; init; } = 0.99;

    /// <summary>Norm to which the gradient is cut; positive, or 0 for no cut. Default 1.</summary>
    public double GradientClip { get; init; } = 1;

    /// <summary>Share of the text that is held out, above 0 and below 1. Default 0.1.</summary>
    public double ValidationFraction { get; init; } = 0.1;

    /// <summary>Steps between two validations; at least 1. Default 250.</summary>
    public int EvalEvery { get; init; } = 250;

    /// <summary>Seed of weights and batches. Default 1337.</summary>
    public long Seed { get; init; } = 1337;

    /// <summary>
    /// Routers take the branch that their policy would not choose at one step in so many, so that both branches learn from sequences
    /// of one length; 0 never does. Default 4.
    /// </summary>
    public int ExploreEvery { get; init; } = 4;

    /// <summary>How the loss of a float16 model is scaled; null means the defaults. A trainer of another model refuses it.</summary>
    public LossScalerOptions? LossScaler { get; init; }

    /// <summary>The learning rate of a step: linear warm-up to the peak, then a half cosine down to the minimum.</summary>
    /// <param name="step">Step from 0.</param>
    /// <returns>The rate.</returns>
    public double LearningRateAt(int step)
    {
        if (step < WarmupSteps)
        {
            return LearningRate * (step + 1) / (WarmupSteps + 1);
        }

        var progress = Math.Min(1.0, (double)(step - WarmupSteps) / Math.Max(1, Steps - WarmupSteps));
        return MinLearningRate + (0.5 * (1 + Math.Cos(Math.PI * progress)) * (LearningRate - MinLearningRate));
    }

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.AtLeast(nameof(TrainingOptions), nameof(Steps), Steps, 1);
        OptionRange.AtLeast(nameof(TrainingOptions), nameof(BatchSize), BatchSize, 1);
        OptionRange.AtLeast(nameof(TrainingOptions), nameof(SequenceLength), SequenceLength, 1);
        OptionRange.Positive(nameof(TrainingOptions), nameof(LearningRate), LearningRate);
        OptionRange.Between(nameof(TrainingOptions), nameof(MinLearningRate), MinLearningRate, 0, LearningRate);
        OptionRange.AtLeast(nameof(TrainingOptions), nameof(WarmupSteps), WarmupSteps, 0);
        OptionRange.AtLeast(nameof(TrainingOptions), nameof(WeightDecay), WeightDecay, 0);
        OptionRange.DropRate(nameof(TrainingOptions), nameof(Beta1), Beta1);
        OptionRange.DropRate(nameof(TrainingOptions), nameof(Beta2), Beta2);
        OptionRange.AtLeast(nameof(TrainingOptions), nameof(GradientClip), GradientClip, 0);
        OptionRange.Positive(nameof(TrainingOptions), nameof(ValidationFraction), ValidationFraction);
        OptionRange.DropRate(nameof(TrainingOptions), nameof(ValidationFraction), ValidationFraction);
        OptionRange.AtLeast(nameof(TrainingOptions), nameof(EvalEvery), EvalEvery, 1);
        OptionRange.AtLeast(nameof(TrainingOptions), nameof(ExploreEvery), ExploreEvery, 0);
        LossScaler?.Validate();
    }
}
