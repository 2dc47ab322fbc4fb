using Hybrid.Attention;
using Hybrid.Mixers;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <summary>One number for each path of a <see cref="ParallelHybrid"/>.</summary>
/// <typeparam name="T">Type of the numbers.</typeparam>
/// <param name="Mamba">That of the state-space path.</param>
/// <param name="Attention">That of attention.</param>
/// <param name="Fusion">That of the cross attention.</param>
public readonly record struct PerPath<T>(T Mamba, T Attention, T Fusion);

/// <summary>What the real forward calls of a <see cref="ParallelHybrid"/> executed.</summary>
/// <param name="Tokens">Tokens that came in.</param>
/// <param name="ExecutedTokens">Tokens that each path ran on; without a state a chosen path runs on the first tokens of a sequence twice.</param>
/// <param name="Decisions">Sequences that were given to each path alone.</param>
/// <param name="GateWeights">Mean weight of each path over the tokens that ran all of them; zeros before the first.</param>
/// <param name="ExecutedFlops">
/// Forward FLOPs of what ran, a multiplication with an addition being 2: matrices, convolution, 9 E N a token of the selective scan and
/// 4 H K a visible key of attention. Norms, activations, gate and output projection are left out.
/// </param>
/// <param name="FullFlops">The same if all paths had run on every token.</param>
public sealed record PathUsage(
    long Tokens, PerPath<long> ExecutedTokens, PerPath<long> Decisions, PerPath<double> GateWeights, double ExecutedFlops, double FullFlops)
{
    /// <summary>FLOPs that were not spent, as a share of the full ones, 0..1; below 0 where repeated first tokens outweigh what was saved.</summary>
    public double SavedFlops => FullFlops == 0 ? 0 : 1 - (ExecutedFlops / FullFlops);
}

/// <summary>FLOPs of a path: a constant for each token, and one for each key that a token sees.</summary>
/// <param name="Token">FLOPs a token.</param>
/// <param name="Key">FLOPs a visible key.</param>
/// <param name="Window">Keys that a token sees at most, or null.</param>
internal sealed record PathCost(double Token, double Key, long? Window)
{
    private const double ScanFlops = 9;

    public static PathCost Of(MambaMixer mamba)
    {
        var weights = mamba.named_parameters().ToDictionary(entry => entry.name, entry => entry.parameter.numel());
        return new(LinearFlops(mamba) + (2 * weights["conv1d.weight"]) + (ScanFlops * weights["A_log"]), 0, null);
    }

    public static PathCost Of(MultiHeadAttention attention, AttentionOptions options, long width) =>
        new(LinearFlops(attention), 4.0 * options.NumHeads * (options.HeadDim ?? (width / options.NumHeads)), options.WindowSize);

    /// <summary>FLOPs of the tokens <paramref name="start"/> + 1 .. <paramref name="start"/> + <paramref name="count"/> of a sequence.</summary>
    public double Flops(long start, long count)
    {
        // Token t sees min(t, w) keys.
        var growing = Math.Clamp((Window ?? long.MaxValue) - start, 0, count);
        var keys = (growing * start) + (growing * (growing + 1) / 2.0) + ((count - growing) * (double)(Window ?? 0));
        return (count * Token) + (keys * Key);
    }

    private static double LinearFlops(nn.Module module) => module.modules().OfType<Linear>().Sum(linear => 2.0 * linear.weight.numel());
}

/// <summary>Counts what a <see cref="ParallelHybrid"/> executes; from any thread.</summary>
internal sealed class PathCounter(params PathCost[] costs)
{
    private readonly Lock guard = new();
    private readonly long[] executed = new long[costs.Length];
    private readonly long[] decisions = new long[costs.Length];
    private readonly double[] gates = new double[costs.Length];
    private long tokens;
    private long weighedTokens;
    private double executedFlops;
    private double fullFlops;

    /// <summary>All paths ran on tokens of sequences.</summary>
    public void CountAll(IReadOnlyList<long> starts, IReadOnlyList<long> counts)
    {
        var (flops, sum) = (starts.Zip(counts, FullFlops).Sum(), counts.Sum());
        lock (guard)
        {
            tokens += sum;
            executedFlops += flops;
            fullFlops += flops;
            for (var path = 0; path < costs.Length; path++)
            {
                executed[path] += sum;
            }
        }
    }

    /// <summary>One path ran alone; fusion runs the others too.</summary>
    /// <param name="path">The path.</param>
    /// <param name="starts">Tokens before, of each sequence.</param>
    /// <param name="counts">Tokens of each sequence.</param>
    /// <param name="skip">First tokens of each that were counted before, as those of all paths.</param>
    public void CountAlone(ParallelPath path, IReadOnlyList<long> starts, IReadOnlyList<long> counts, long skip)
    {
        int[] ran = path == ParallelPath.Fusion ? [.. Enumerable.Range(0, costs.Length)] : [(int)path];
        var flops = starts.Zip(counts, (start, count) => ran.Sum(index => costs[index].Flops(start, count))).Sum();
        var full = starts.Zip(counts, (start, count) => FullFlops(start + skip, count - skip)).Sum();
        lock (guard)
        {
            tokens += counts.Sum(count => count - skip);
            executedFlops += flops;
            fullFlops += full;
            Array.ForEach(ran, index => executed[index] += counts.Sum());
        }
    }

    /// <summary>Weights [B, T, 3] of tokens, zero at padding.</summary>
    public void CountGates(Tensor weights, MixerBatch batch)
    {
        using var scope = NewDisposeScope();
        var sums = weights.detach().sum([0L, 1L], type: ScalarType.Float64).to(CPU).data<double>().ToArray();
        lock (guard)
        {
            weighedTokens += batch.Lengths?.Sum() ?? (batch.Size * batch.Length);
            for (var path = 0; path < costs.Length; path++)
            {
                gates[path] += sums[path];
            }
        }
    }

    /// <summary>The paths that sequences were given to.</summary>
    public void CountDecisions(IEnumerable<long> paths)
    {
        lock (guard)
        {
            foreach (var path in paths)
            {
                decisions[path]++;
            }
        }
    }

    public PathUsage Snapshot()
    {
        lock (guard)
        {
            var weighed = Math.Max(1, weighedTokens);
            return new PathUsage(
                tokens, new(executed[0], executed[1], executed[2]), new(decisions[0], decisions[1], decisions[2]),
                new(gates[0] / weighed, gates[1] / weighed, gates[2] / weighed), executedFlops, fullFlops);
        }
    }

    public void Reset()
    {
        lock (guard)
        {
            (tokens, weighedTokens, executedFlops, fullFlops) = (0, 0, 0, 0);
            Array.Clear(executed);
            Array.Clear(decisions);
            Array.Clear(gates);
        }
    }

    private double FullFlops(long start, long count) => costs.Sum(cost => cost.Flops(start, count));
}
