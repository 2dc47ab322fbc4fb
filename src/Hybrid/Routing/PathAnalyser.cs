using Hybrid.Kernels;
using Hybrid.Layers;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Routing;

/// <summary>State of a <see cref="PathAnalyser"/>.</summary>
internal sealed class PathAnalyserState : MixerState
{
    internal PathAnalyserState(Tensor previous, Tensor totals, Tensor gates)
        : base(previous.size(0), ("previous", previous), ("totals", totals), ("gates", gates))
    {
    }

    /// <summary>The last token [B, D], float32 (float64 with float64 weights), like all here.</summary>
    public Tensor Previous => this[0];

    /// <summary>Sum of all tokens, and in the last channel their number: [B, D + 1].</summary>
    public Tensor Totals => this[1];

    /// <summary>Sum of the gate weights of all tokens [B, 3].</summary>
    public Tensor Gates => this[2];

    internal void Update(Tensor previous, Tensor totals, Tensor gates, MixerBatch batch)
    {
        Set(0, previous);
        Set(1, totals);
        Set(2, gates);
        Advance(batch.Length, batch.Lengths);
    }
}

/// <summary>
/// The gate of a <see cref="ParallelHybrid"/>. Of each token it sees three numbers that depend on this token and those before it: the
/// change <c>mean |x_t - x_(t-1)|</c> (0 at the first token), the variance of x_t over its D channels, and the distance
/// <c>mean |x_t - (x_1 + ... + x_t) / t|</c> from the running mean. An MLP 3 -> D/4 -> D/8 -> 3 with GELU makes them the weights of
/// the paths: <c>softmax(W_3 gelu(W_2 gelu(W_1 f)))</c>.
/// </summary>
internal sealed class PathAnalyser : Module
{
    private const long Features = 3;
    private static readonly long Paths = Enum.GetValues<ParallelPath>().Length;
    private readonly long width;

    [ComponentName(Name = "fc1")]
    private readonly Linear first;

    [ComponentName(Name = "fc2")]
    private readonly Linear second;

    [ComponentName(Name = "fc3")]
    private readonly Linear third;

    public PathAnalyser(long width)
        : base(nameof(PathAnalyser))
    {
        this.width = width;
        var (wide, narrow) = (Math.Max(1, width / 4), Math.Max(1, width / 8));
        first = Linear(Features, wide);
        second = Linear(wide, narrow);
        third = Linear(narrow, Paths);
        RegisterComponents();
    }

    public PathAnalyserState CreateState(long batchSize)
    {
        using var scope = NewDisposeScope();
        var (type, device) = (StatePrecision.Of(first.weight.dtype), first.weight.device);
        return new PathAnalyserState(
            zeros([batchSize, width], dtype: type, device: device),
            zeros([batchSize, width + 1], dtype: type, device: device),
            zeros([batchSize, Paths], dtype: type, device: device));
    }

    /// <summary>Weighs the paths.</summary>
    /// <param name="batch">The input.</param>
    /// <param name="sequenceIds">Ids of packed rows, or null.</param>
    /// <param name="state">State that is advanced, or null.</param>
    /// <returns>
    /// Weights [B, T, 3] in the order of <see cref="ParallelPath"/>, and their sum [B, 3] over the real tokens so far, both float32 (float64
    /// with float64 weights).
    /// </returns>
    public (Tensor Gates, Tensor Sum) Weigh(MixerBatch batch, Tensor? sequenceIds, PathAnalyserState? state)
    {
        using var scope = NewDisposeScope();
        var x = batch.Input.to_type(StatePrecision.Of(first.weight.dtype));
        var restarts = PackedRows.Restarts(sequenceIds);
        var counted = cat([x, ones_like(x.narrow(-1, 0, 1))], -1);
        var (totals, last) = LinearRecurrence.Apply(counted, zeros_like(counted), state?.Totals, batch.Mask, restarts, stateGradient: false);
        var shift = new TokenShift(x, state?.Previous, restarts);
        var gates = Gate(x, shift.Previous, totals.narrow(-1, 0, width), totals.narrow(-1, width, 1));

        var real = batch.Mask is null ? gates : gates.masked_fill(batch.Mask.logical_not().unsqueeze(-1), 0);
        var sum = real.sum(dim: 1);
        sum = state is null ? sum : state.Gates + sum;
        state?.Update(shift.Last(batch.Lengths), last, sum, batch);
        return (gates.MoveToOuterDisposeScope(), sum.MoveToOuterDisposeScope());
    }

    private Tensor Gate(Tensor x, Tensor previous, Tensor totals, Tensor counts)
    {
        var change = (x - previous).abs().masked_fill(counts.le(1), 0).mean([-1]);
        var variance = (x - x.mean([-1], keepdim: true)).square().mean([-1]);
        var distance = (x - (totals / counts)).abs().mean([-1]);
        var features = stack([change, variance, distance], -1).to_type(first.weight.dtype);
        return third.call(second.call(first.call(features).gelu()).gelu()).to_type(x.dtype).softmax(-1);
    }
}
