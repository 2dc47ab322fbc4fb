using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <summary>
/// What the hidden states of a prompt look like, each figure 0..1 in steps of 1/1024, so that the same prompt gives the same decision
/// and the figures serve as a cache key. The figure of a token looks only backwards; its mean over the prompt is a feature of the whole
/// prompt and is taken at prefill, where the prompt is known. With a content policy the route of a full forward pass therefore knows all
/// of its input, as it does with a length policy: one bit a sequence that a token could not have known.
/// </summary>
public readonly record struct ContentFeatures
{
    private const double Steps = 1024;
    private const double Epsilon = 1e-12;

    private readonly ushort repetition;
    private readonly ushort novelty;
    private readonly ushort variance;

    /// <param name="repetition">See <see cref="Repetition"/>.</param>
    /// <param name="novelty">See <see cref="Novelty"/>.</param>
    /// <param name="variance">See <see cref="Variance"/>.</param>
    /// <exception cref="ArgumentOutOfRangeException">A figure is not 0..1.</exception>
    public ContentFeatures(double repetition, double novelty, double variance)
    {
        this.repetition = Round(nameof(Repetition), repetition);
        this.novelty = Round(nameof(Novelty), novelty);
        this.variance = Round(nameof(Variance), variance);
    }

    /// <summary>
    /// Mean over t &gt; 1 of <c>max(0, cos(x_t, x_(t-1)))</c>: 1 where every token repeats the one before it. 0 for a single token.
    /// </summary>
    public double Repetition => repetition / Steps;

    /// <summary>
    /// Mean over t &gt; 1 of <c>|x_t - m| / (|x_t| + |m|)</c>, m the mean of <c>x_1 .. x_(t-1)</c>: 0 where nothing new comes. 1 for a
    /// single token.
    /// </summary>
    public double Novelty => novelty / Steps;

    /// <summary>Mean over t of <c>v / (1 + v)</c>, v the population variance of x_t over its features.</summary>
    public double Variance => variance / Steps;

    /// <summary>Measures every row of a batch: O(B T D) work, one transfer to the host. Records no gradient.</summary>
    /// <param name="x">Hidden states [B, T, D]; the real tokens of a row come first.</param>
    /// <param name="lengths">Real tokens of each row, or null where every row is full.</param>
    /// <returns>The features of each row.</returns>
    public static ContentFeatures[] Measure(Tensor x, IReadOnlyList<long>? lengths = null)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var shape = x.shape;
        var (batch, time) = (shape[0], shape[1]);
        var states = x.detach().to_type(ScalarType.Float32);
        var counts = lengths is null
            ? full([batch, 1], time, dtype: ScalarType.Int64)
            : tensor(lengths.ToArray(), dtype: ScalarType.Int64).unsqueeze(1);
        var real = arange(time, dtype: ScalarType.Int64).unsqueeze(0).lt(counts).to(x.device).to_type(ScalarType.Float32);   // [B, T]

        var spread = (states - states.mean([-1], keepdim: true)).square().mean([-1]);                                        // [B, T]
        var rows = MeanOver(spread / (spread + 1), real);
        var columns = new List<Tensor> { rows };
        if (time > 1)
        {
            var (now, before, later) = (states.narrow(1, 1, time - 1), states.narrow(1, 0, time - 1), real.narrow(1, 1, time - 1));
            var seen = arange(1, time, dtype: ScalarType.Float32, device: x.device).view(1, -1, 1);
            var mean = states.cumsum(1).narrow(1, 0, time - 1) / seen;                                                       // [B, T - 1, D]
            var cosine = (now * before).sum(dim: -1) / (Length(now) * Length(before) + Epsilon);
            columns.Add(MeanOver(cosine.clamp_min(0), later));
            columns.Add(MeanOver(Length(now - mean) / (Length(now) + Length(mean) + Epsilon), later));
        }

        var values = stack(columns, 1).cpu().contiguous().data<float>().ToArray();                                           // [B, 1 or 3]
        return [.. Enumerable.Range(0, (int)batch).Select(row =>
        {
            var own = values.AsSpan(row * columns.Count, columns.Count);
            return (lengths?[row] ?? time) == 1 ? new ContentFeatures(0, 1, Unit(own[0])) : new ContentFeatures(Unit(own[1]), Unit(own[2]), Unit(own[0]));
        })];
    }

    private static Tensor Length(Tensor x) => x.square().sum(dim: -1).sqrt();

    /// <summary>[B, T] to [B]: the mean over the real tokens.</summary>
    private static Tensor MeanOver(Tensor values, Tensor real) => (values * real).sum(dim: 1) / real.sum(dim: 1).clamp_min(1);

    /// <summary>What rounding put outside 0..1 comes back; what is no number counts as wholly new and varied.</summary>
    private static double Unit(float value) => float.IsNaN(value) ? 1 : Math.Clamp(value, 0, 1);

    private static ushort Round(string name, double value)
    {
        OptionRange.Between(nameof(ContentFeatures), name, value, 0, 1);
        return (ushort)Math.Round(value * Steps);
    }
}
