using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// The recurrence of Mamba-2 (state-space duality; Dao and Gu, arXiv 2405.21060, equation 6 and listing 1), one scalar decay a head:
/// <c>S_t = exp(dt_t A) S_(t-1) + dt_t x_t B_t^T</c>, <c>y_t = S_t C_t + D x_t</c>, then <c>y_t * SiLU(z_t)</c> where a gate is given,
/// with <c>dt_t = clamp(softplus(dt + bias), limits)</c>.
/// </summary>
public static partial class StateSpaceDuality
{
    /// <summary>The chunk length that <see cref="Apply"/> takes where none is given.</summary>
    public const long DefaultChunkSize = 64;

    /// <summary>Runs the recurrence over time. Arithmetic is float32 (float64 where <paramref name="x"/> is float64).</summary>
    /// <param name="x">Input [B, T, H, P]: H heads of width P.</param>
    /// <param name="dt">Step sizes [B, T, H], before bias, softplus and limits.</param>
    /// <param name="A">Continuous-time decay [H], negative.</param>
    /// <param name="B">Input matrix [B, T, G, N]; G divides H, and each group serves H / G neighbouring heads.</param>
    /// <param name="C">Output matrix [B, T, G, N].</param>
    /// <param name="D">Skip [H] or [H, P], or null.</param>
    /// <param name="z">Gate [B, T, H, P], or null.</param>
    /// <param name="dtBias">Added to <paramref name="dt"/> before the softplus: [H], or null.</param>
    /// <param name="dtSoftplus">True to apply softplus to the (biased) step sizes.</param>
    /// <param name="dtMin">Lower bound of the step sizes after the softplus, or null. Where it holds, dt has no gradient.</param>
    /// <param name="dtMax">Upper bound of the step sizes after the softplus, or null.</param>
    /// <param name="initialState">State before the first step [B, H, P, N], or null for zeros.</param>
    /// <param name="mask">Bool [B, T], false at padding, which leaves the state as it is; null means all true.</param>
    /// <param name="restart">Bool [B, T], true at the first token of a packed sequence, which starts from zero; null means none.</param>
    /// <param name="chunkSize">
    /// Longest chunk L of the form that is made of tensor operations, at least 1: memory grows with T L, the number of sequential steps with T / L. The
    /// results are the same up to rounding. The SIMD kernel on CPU has chunks of its own, which the cache sets, and the CUDA kernels have none.
    /// </param>
    /// <param name="stateGradient">
    /// False where no gradient goes through the final state, as in mixers, whose states are constants: the fast kernel then keeps it out of the graph.
    /// </param>
    /// <returns>Output [B, T, H, P] in the dtype of <paramref name="x"/>, and the state after the last step [B, H, P, N].</returns>
    /// <exception cref="ArgumentException">A shape does not fit.</exception>
    public static (Tensor Y, Tensor FinalState) Apply(
        Tensor x,
        Tensor dt,
        Tensor A,
        Tensor B,
        Tensor C,
        Tensor? D = null,
        Tensor? z = null,
        Tensor? dtBias = null,
        bool dtSoftplus = false,
        double? dtMin = null,
        double? dtMax = null,
        Tensor? initialState = null,
        Tensor? mask = null,
        Tensor? restart = null,
        long chunkSize = DefaultChunkSize,
        bool stateGradient = true)
    {
        Validate(x, dt, A, B, C, D, z, dtBias, initialState, mask, restart, chunkSize);
        using var scope = NewDisposeScope();
        var steps = new ScanSteps(dtSoftplus, dtMin, dtMax);
        ReadOnlySpan<(string Name, Tensor? Tensor)> tensors =
        [
            ("x", x), ("dt", dt), ("A", A), ("B", B), ("C", C), ("D", D), ("z", z), ("dtBias", dtBias), ("initialState", initialState), ("mask", mask),
            ("restart", restart),
        ];
        var (y, state) = OnCuda.For(DeltaOnCuda.TooWide("N", B.size(3)), tensors) is { } kernel
            ? Cuda(kernel, x, dt, A, B, C, D, z, dtBias, steps, initialState, mask, restart, stateGradient)
            : Simd.CanRun(tensors) ? Cpu(x, dt, A, B, C, D, z, dtBias, steps, initialState, mask, restart, stateGradient)
            : Reference(x, dt, A, B, C, D, z, dtBias, dtSoftplus, dtMin, dtMax, initialState, mask, restart, chunkSize);
        return (y.MoveToOuterDisposeScope(), state.MoveToOuterDisposeScope());
    }

    private static void Validate(
        Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? dtBias, Tensor? initialState, Tensor? mask,
        Tensor? restart, long chunkSize)
    {
        var shape = x.shape;
        if (shape.Length != 4 || shape.Any(size => size < 1))
        {
            throw Mismatch("x", "[B, T, H, P], all at least 1", shape);
        }

        var (batch, time, heads, headWidth) = (shape[0], shape[1], shape[2], shape[3]);
        var matrix = B.shape;
        if (matrix.Length != 4 || matrix[0] != batch || matrix[1] != time || matrix[2] < 1 || heads % matrix[2] != 0 || matrix[3] < 1)
        {
            throw Mismatch("B", $"[{batch}, {time}, G, N] with G dividing {heads}", matrix);
        }

        Require("dt", dt, batch, time, heads);
        Require("A", A, heads);
        Require("C", C, matrix);
        Require("z", z, shape);
        Require("dtBias", dtBias, heads);
        Require("initialState", initialState, batch, heads, headWidth, matrix[3]);
        Require("mask", mask, batch, time);
        Require("restart", restart, batch, time);
        if (D?.shape is { } skip && !skip.AsSpan().SequenceEqual([heads]) && !skip.AsSpan().SequenceEqual([heads, headWidth]))
        {
            throw Mismatch("D", $"[{heads}] or [{heads}, {headWidth}]", skip);
        }

        if (chunkSize < 1)
        {
            throw new ArgumentOutOfRangeException(
                nameof(chunkSize), chunkSize, $"StateSpaceDuality: chunkSize must be at least 1; got {chunkSize}.");
        }
    }

    private static void Require(string name, Tensor? tensor, params long[] expected)
    {
        if (tensor is not null && !tensor.shape.AsSpan().SequenceEqual(expected))
        {
            throw Mismatch(name, $"[{string.Join(", ", expected)}]", tensor.shape);
        }
    }

    private static ArgumentException Mismatch(string name, string expected, long[] got) =>
        new($"StateSpaceDuality: {name} must be {expected}; got [{string.Join(", ", got)}].", name);
}
