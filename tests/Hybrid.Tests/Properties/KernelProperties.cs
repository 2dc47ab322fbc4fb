using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Properties;

/// <summary>Runs a kernel over a stretch of time.</summary>
/// <param name="steps">Its inputs over time [B, T, ...].</param>
/// <param name="constants">Its inputs that are the same at every step.</param>
/// <param name="state">The state to continue; null at the start.</param>
/// <returns>The output [B, T, ...] and the state after the last step.</returns>
public delegate (Tensor Y, Tensor[] State) KernelRun(Tensor[] steps, Tensor[] constants, Tensor[]? state);

/// <summary>What every recurrent kernel owes its callers, whatever the sizes.</summary>
public static class KernelProperties
{
    // Two calls add up in another order than one: float32 roundings (6e-8) of sums over up to 150 steps, of exponents of a few hundred
    // where inputs are large, and of terms that mostly cancel in the gradients of a normalisation or of a mean. The error is relative
    // to the largest element, or to 1, the size of the smallest inputs and of the cotangents: below it, gradients have cancelled.
    private const double Tolerance = 1e-4;
    private const double Floor = 1;

    /// <summary>
    /// Outputs, final state and every gradient are finite, and the same in two calls, the second of which continues the state of the
    /// first, as in one. Gradients of the two calls go through the state between them.
    /// </summary>
    /// <param name="sizes">Sizes, and where the calls part.</param>
    /// <param name="steps">Inputs over time [B, T, ...].</param>
    /// <param name="constants">Other inputs.</param>
    /// <param name="run">The kernel.</param>
    /// <param name="compared">What of a final state is compared; null means all of it.</param>
    public static void HoldFor(
        KernelCase sizes, Tensor[] steps, Tensor[] constants, KernelRun run, Func<Tensor[], Tensor[]>? compared = null)
    {
        var upstream = new Dictionary<string, Tensor>();
        var whole = Results(sizes.Time);
        foreach (var (name, value) in whole)
        {
            Assert.True(value.isfinite().all().ToBoolean(), $"{name}: has values that are not finite");
        }

        if (sizes.Split > 0)
        {
            var parts = Results(sizes.Split, sizes.Time - sizes.Split);
            foreach (var (name, expected) in whole)
            {
                Close(expected, parts[name], $"{name}, split at {sizes.Split}");
            }
        }

        Dictionary<string, Tensor> Results(params long[] lengths)
        {
            var (x, c) = (Differentiation.Leaves(steps), Differentiation.Leaves(constants));
            var outputs = new List<Tensor>();
            Tensor[]? state = null;
            var start = 0L;
            foreach (var length in lengths)
            {
                (var y, state) = run([.. x.Select(input => input.narrow(1, start, length))], c, state);
                outputs.Add(y);
                start += length;
            }

            var final = compared is null ? state! : compared(state!);
            var results = new Dictionary<string, Tensor> { ["y"] = cat(outputs, 1) };
            Add("state", final);
            results.Select(entry => (entry.Value * Upstream(entry.Key, entry.Value)).sum()).Aggregate((a, b) => a + b).backward();
            Add("gradient of input", x.Select(leaf => leaf.grad!));
            Add("gradient of constant", c.Select(leaf => leaf.grad!));
            return results;

            void Add(string kind, IEnumerable<Tensor> tensors)
            {
                foreach (var (i, value) in tensors.Index())
                {
                    results.Add($"{kind} {i}", value);
                }
            }
        }

        Tensor Upstream(string name, Tensor like) =>
            upstream.TryGetValue(name, out var known) ? known : upstream[name] = randn(like.shape);
    }

    private static void Close(Tensor expected, Tensor actual, string what)
    {
        if (expected.numel() == 0)
        {
            return;
        }

        var scale = Math.Max(Floor, expected.abs().max().ToDouble());
        var error = (actual - expected).abs().max().ToDouble() / scale;
        Assert.True(error <= Tolerance, $"{what}: the largest error is {error:g3} of {scale:g3}, allowed is {Tolerance:g3}");
    }
}
