using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Routing;

/// <summary>
/// Judges the output of a router's call. Nothing about an output alone tells its quality, so the library has no score of its own: the
/// caller, who knows what should come out, gives one.
/// </summary>
public interface IQualityProbe
{
    /// <summary>Scores an output.</summary>
    /// <param name="output">Output [B, T, D]; it stays the caller's.</param>
    /// <param name="context">The context of the call.</param>
    /// <returns>The score, on the probe's own scale.</returns>
    double Score(Tensor output, MixerContext context);
}

/// <summary>Negative log-likelihood of held-out targets, in nats a token, through a head. Lower is better.</summary>
/// <param name="head">Maps [B, T, D] to logits [B, T, V]; it stays the caller's.</param>
/// <param name="targets">Int64 [B, T]; -100 is left out.</param>
public sealed class NegativeLogLikelihoodProbe(Module<Tensor, Tensor> head, Tensor targets) : IQualityProbe
{
    /// <inheritdoc/>
    public double Score(Tensor output, MixerContext context)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var logits = ProbeTargets.Logits(nameof(NegativeLogLikelihoodProbe), head, output, targets);
        return functional.cross_entropy(logits, targets.reshape(-1)).ToDouble();
    }
}

/// <summary>Share of the targets that the head ranks first, 0..1, as in associative recall. Higher is better.</summary>
/// <param name="head">Maps [B, T, D] to logits [B, T, V]; it stays the caller's.</param>
/// <param name="targets">Int64 [B, T]; -100 marks positions that are not asked.</param>
public sealed class RecallAccuracyProbe(Module<Tensor, Tensor> head, Tensor targets) : IQualityProbe
{
    /// <inheritdoc/>
    public double Score(Tensor output, MixerContext context)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var wanted = targets.reshape(-1);
        var asked = wanted.ne(ProbeTargets.LeftOut);
        var right = ProbeTargets.Logits(nameof(RecallAccuracyProbe), head, output, targets).argmax(-1).eq(wanted).logical_and(asked);
        return right.sum().ToDouble() / Math.Max(1, asked.sum().ToDouble());
    }
}

/// <summary>What both probes check and compute.</summary>
internal static class ProbeTargets
{
    /// <summary>The target that cross-entropy leaves out.</summary>
    public const long LeftOut = -100;

    /// <summary>Logits [B * T, V].</summary>
    public static Tensor Logits(string probe, Module<Tensor, Tensor> head, Tensor output, Tensor targets)
    {
        var (shape, wanted) = (output.shape, targets.shape);
        if (!wanted.AsSpan().SequenceEqual(shape.AsSpan(0, 2)))
        {
            throw new ArgumentException(
                $"{probe}: the targets must be [{shape[0]}, {shape[1]}], one an output; got [{string.Join(", ", wanted)}].", nameof(targets));
        }

        return head.call(output).flatten(0, 1);
    }
}
