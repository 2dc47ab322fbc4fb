using Hybrid.Kernels;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Samples;

/// <summary>Options of <see cref="EmaMixer"/>; a TOML table [model.ema] binds to them as min_decay and max_decay.</summary>
public sealed record EmaOptions
{
    /// <summary>Smallest initial decay; above 0, up to the largest.</summary>
    public double MinDecay { get; init; } = 0.3;

    /// <summary>Largest initial decay; below 1.</summary>
    public double MaxDecay { get; init; } = 0.98;

    /// <summary>Throws where a value is out of its range. A TOML reader calls it and adds file, line and key.</summary>
    public void Validate()
    {
        if (!(MinDecay > 0 && MinDecay <= MaxDecay))
        {
            throw new ArgumentOutOfRangeException(
                nameof(MinDecay), MinDecay, $"EmaOptions.MinDecay must be above 0, up to MaxDecay; got {MinDecay}.");
        }

        if (!(MaxDecay < 1))
        {
            throw new ArgumentOutOfRangeException(nameof(MaxDecay), MaxDecay, $"EmaOptions.MaxDecay must be below 1; got {MaxDecay}.");
        }
    }
}

/// <summary>
/// State of an <see cref="EmaMixer"/>: the averages so far. Copies, selection of rows, files and disposal come from the base class.
/// </summary>
public sealed class EmaState(Tensor average) : MixerState(average.size(0), ("average", average))
{
    /// <summary>[B, D], float32 (float64 with float64 weights).</summary>
    public Tensor Average => this[0];

    internal void Update(Tensor average, MixerBatch batch)
    {
        Set(0, average);
        Advance(batch.Length, batch.Lengths);
    }
}

/// <summary>
/// Exponential moving averages with a learned decay a in each channel, behind a gate:
/// <c>h_t = a h_(t-1) + (1 - a) x_t</c>, <c>y_t = W_out (h_t * SiLU(W_gate x_t))</c>.
/// </summary>
public sealed class EmaMixer : SequenceMixer
{
    private readonly Linear gate;
    private readonly Linear output;

    [ComponentName(Name = "decay_logit")]
    private readonly Parameter decayLogit;

    public EmaMixer(long width, EmaOptions options)
        : base(nameof(EmaMixer), width)
    {
        options.Validate();
        gate = Linear(width, width, hasBias: false);
        output = Linear(width, width, hasBias: false);

        // A parameter made inside a dispose scope would end with it.
        using var scope = NewDisposeScope();
        var decays = linspace(options.MinDecay, options.MaxDecay, width);
        decayLogit = new Parameter((decays / (1 - decays)).log());
        decayLogit.DetachFromDisposeScope();
        RegisterComponents();
    }

    public override IEnumerable<Parameter> ParametersWithoutWeightDecay => [decayLogit];

    public override IEnumerable<Parameter> ResidualOutputWeights => [output.weight];

    public override MixerState CreateState(long batchSize)
    {
        ValidateBatchSize(batchSize);
        var type = gate.weight.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
        return new EmaState(zeros([batchSize, Width], dtype: type, device: gate.weight.device));
    }

    public override Tensor forward(Tensor x, MixerContext context)
    {
        using var scope = NewDisposeScope();
        var batch = MixerBatch.Begin(this, x, context, gate.weight.dtype);
        var state = RequireState<EmaState>(context.State, batch.Size);

        // log a = -softplus(-logit); the library's kernel runs h_t = exp(log a) h_(t-1) + input over time.
        var logDecay = decayLogit.neg().softplus().neg().expand_as(batch.Input);         // [B, T, D]
        var input = batch.Input * decayLogit.neg().sigmoid();
        var (averages, last) = LinearRecurrence.Apply(
            input, logDecay, state?.Average, batch.Mask, PackedRows.Restarts(context.SequenceIds));
        var y = output.call(averages * gate.call(batch.Input).silu());

        state?.Update(last, batch);
        return batch.End(y).MoveToOuterDisposeScope();
    }
}
