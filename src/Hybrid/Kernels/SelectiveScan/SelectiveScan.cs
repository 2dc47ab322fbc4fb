using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// The selective scan of Mamba (S6; Gu and Dao, arXiv 2312.00752, equations 2a and 2b with the simplified discretisation of B):
/// <c>h_t = exp(delta_t A) h_(t-1) + delta_t u_t B_t</c>, <c>y_t = C_t h_t + D u_t</c>, then <c>y_t * SiLU(z_t)</c> where a gate is given.
/// </summary>
public static partial class SelectiveScan
{
    /// <summary>Runs the scan over time. Arithmetic is float32 (float64 where <paramref name="u"/> is float64).</summary>
    /// <param name="u">Input [B, T, E].</param>
    /// <param name="delta">Step sizes [B, T, E], before bias and softplus.</param>
    /// <param name="A">Continuous-time decay [E, N], negative.</param>
    /// <param name="B">Input matrix: [B, T, N] shared by all channels, [B, T, G, N] by groups of E/G channels, or [E, N] constant.</param>
    /// <param name="C">Output matrix, in one of the same three forms.</param>
    /// <param name="D">Skip [E], or null.</param>
    /// <param name="z">Gate [B, T, E], or null.</param>
    /// <param name="deltaBias">Added to <paramref name="delta"/> before the softplus: [E], or null.</param>
    /// <param name="deltaSoftplus">True to apply softplus to the (biased) step sizes.</param>
    /// <param name="initialState">State before the first step [B, E, N], or null for zeros.</param>
    /// <param name="mask">Bool [B, T], false at padding, which leaves the state as it is; null means all true.</param>
    /// <param name="restart">Bool [B, T], true at the first token of a packed sequence, which starts from zero; null means none.</param>
    /// <param name="stateGradient">
    /// False where no gradient goes through the final state, as in mixers, whose states are constants: the fast kernel then keeps it out of
    /// the graph.
    /// </param>
    /// <param name="scanType">How the recurrence runs; all give the same numbers. A fused kernel that cannot run says so in the log.</param>
    /// <param name="deltaMin">Lower bound of the step sizes, after bias and softplus; null means none.</param>
    /// <param name="deltaMax">Upper bound of the step sizes, not below the lower one; null means none.</param>
    /// <returns>Output [B, T, E] in the dtype of <paramref name="u"/>, and the state after the last step [B, E, N].</returns>
    /// <exception cref="ArgumentException">A shape does not fit, or the limits cross.</exception>
    public static (Tensor Y, Tensor FinalState) Apply(
        Tensor u,
        Tensor delta,
        Tensor A,
        Tensor B,
        Tensor C,
        Tensor? D = null,
        Tensor? z = null,
        Tensor? deltaBias = null,
        bool deltaSoftplus = false,
        Tensor? initialState = null,
        Tensor? mask = null,
        Tensor? restart = null,
        bool stateGradient = true,
        ScanType scanType = ScanType.Auto,
        double? deltaMin = null,
        double? deltaMax = null)
    {
        Validate(u, delta, A, B, C, D, z, deltaBias, initialState, mask, restart);
        if (deltaMin > deltaMax)
        {
            throw new ArgumentException($"SelectiveScan: deltaMax must be at least deltaMin, {deltaMin}; got {deltaMax}.", nameof(deltaMax));
        }

        using var scope = NewDisposeScope();
        var steps = new ScanSteps(deltaSoftplus, deltaMin, deltaMax);
        var form = Resolve(
            scanType, ("u", u), ("delta", delta), ("A", A), ("B", B), ("C", C), ("D", D), ("z", z), ("deltaBias", deltaBias),
            ("initialState", initialState), ("mask", mask), ("restart", restart));
        var (y, state) = form switch
        {
            ScanType.Fused => Fused(DeviceOf(u), u, delta, A, B, C, D, z, deltaBias, steps, initialState, mask, restart, stateGradient),
            var plain => Reference(u, delta, A, B, C, D, z, deltaBias, steps, initialState, mask, restart, linear: plain == ScanType.Linear),
        };
        return (y.MoveToOuterDisposeScope(), state.MoveToOuterDisposeScope());
    }

    /// <summary>The form that runs: linear, associative or fused.</summary>
    /// <param name="scanType">What was asked for.</param>
    /// <param name="tensors">The tensors of the call under their names, for their devices and dtypes, the input first.</param>
    internal static ScanType Resolve(ScanType scanType, params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors)
    {
        if (scanType is ScanType.Linear or ScanType.Associative)
        {
            return scanType;
        }

        if (CudaRuntime.Holds(tensors[0].Tensor!))
        {
            return OnCuda.For(tensors) is null ? ScanType.Associative : ScanType.Fused;
        }

        if (CanRunOnCpu(out var reason, tensors))
        {
            return ScanType.Fused;
        }

        KernelDispatcher.Refused(CpuKernel, reason);
        return ScanType.Associative;
    }

    /// <summary>The name of the fused kernel for a tensor's device, in logs and metrics.</summary>
    internal static string FusedKernel(Tensor u) => CudaRuntime.Holds(u) ? OnCuda.Name : CpuKernel;

    /// <summary>Where the fused scan runs; it can.</summary>
    private static IScanDevice DeviceOf(Tensor u) => CudaRuntime.Of(u) is { } runtime ? new ScanOnCuda(runtime) : ScanOnCpu.Instance;

    private static void Validate(
        Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? deltaBias, Tensor? initialState, Tensor? mask, Tensor? restart)
    {
        var shape = u.shape;
        var decay = A.shape;
        if (shape.Length != 3 || shape.Any(size => size < 1))
        {
            throw Mismatch("u", "[B, T, E], all at least 1", shape);
        }

        var (batch, time, channels) = (shape[0], shape[1], shape[2]);
        if (decay.Length != 2 || decay[0] != channels || decay[1] < 1)
        {
            throw Mismatch("A", $"[{channels}, N]", decay);
        }

        var stateSize = decay[1];
        Require("delta", delta, batch, time, channels);
        RequireMatrix("B", B);
        RequireMatrix("C", C);
        Require("D", D, channels);
        Require("z", z, batch, time, channels);
        Require("deltaBias", deltaBias, channels);
        Require("initialState", initialState, batch, channels, stateSize);
        Require("mask", mask, batch, time);
        Require("restart", restart, batch, time);

        void RequireMatrix(string name, Tensor matrix)
        {
            var got = matrix.shape;
            var fits = got.Length switch
            {
                2 => got[0] == channels && got[1] == stateSize,
                3 => got[0] == batch && got[1] == time && got[2] == stateSize,
                4 => got[0] == batch && got[1] == time && got[2] >= 1 && channels % got[2] == 0 && got[3] == stateSize,
                _ => false,
            };
            if (!fits)
            {
                throw Mismatch(
                    name, $"[{batch}, {time}, {stateSize}], [{batch}, {time}, G, {stateSize}] with G dividing {channels}, or [{channels}, {stateSize}]", got);
            }
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
        new($"SelectiveScan: {name} must be {expected}; got [{string.Join(", ", got)}].", name);
}
