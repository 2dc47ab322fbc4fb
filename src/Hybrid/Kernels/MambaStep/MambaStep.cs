using Hybrid.Kernels.Cpu;
using Hybrid.Kernels.Cuda;
using Hybrid.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>The weights of a Mamba layer that a decoding step reads.</summary>
/// <param name="ConvolutionWeight">Taps [E, 1, W].</param>
/// <param name="ConvolutionBias">Bias [E], or null.</param>
/// <param name="PartsWeight">W_x [R + 2N, E].</param>
/// <param name="StepWeight">W_dt [E, R].</param>
/// <param name="StepBias">b_dt [E].</param>
/// <param name="DecayLog">A_log [E, N].</param>
/// <param name="Skip">D [E].</param>
/// <param name="StepNorm">Weight of the norm of dt [R]; null for ones, or no norm.</param>
/// <param name="InputNorm">Weight of the norm of B [N]; likewise.</param>
/// <param name="OutputNorm">Weight of the norm of C [N]; likewise.</param>
internal readonly record struct MambaStepWeights(
    Tensor ConvolutionWeight, Tensor? ConvolutionBias, Tensor PartsWeight, Tensor StepWeight, Tensor StepBias, Tensor DecayLog, Tensor Skip,
    Tensor? StepNorm = null, Tensor? InputNorm = null, Tensor? OutputNorm = null)
{
    /// <summary>Keeps the weights alive up to here, after the last use of their memory.</summary>
    public void KeepAlive()
    {
        GC.KeepAlive(ConvolutionWeight);
        GC.KeepAlive(ConvolutionBias);
        GC.KeepAlive(PartsWeight);
        GC.KeepAlive(StepWeight);
        GC.KeepAlive(StepBias);
        GC.KeepAlive(DecayLog);
        GC.KeepAlive(Skip);
        GC.KeepAlive(StepNorm);
        GC.KeepAlive(InputNorm);
        GC.KeepAlive(OutputNorm);
    }
}

/// <summary>What a decoding step of a Mamba layer does besides its weights.</summary>
/// <param name="Silu">True for SiLU after the convolution, false for nothing.</param>
/// <param name="StepMin">Smallest step size.</param>
/// <param name="StepMax">Largest step size.</param>
/// <param name="NormEpsilon">Epsilon of the RMS norms of dt, B and C; null without these norms.</param>
internal sealed record MambaStepForm(bool Silu, double StepMin, double StepMax, double? NormEpsilon);

/// <summary>Runs a step, see <see cref="MambaStep.Apply"/>.</summary>
internal delegate Tensor RunMambaStep(
    Tensor projected, MambaStepWeights weights, Tensor window, Tensor state, MambaStepForm form, StepBuffers buffers);

/// <summary>
/// One token of a Mamba layer between its two projections, in place on the state: convolution, SiLU, W_x, step sizes, recurrence, skip
/// and gate in three passes over the channels, where the composed form makes some forty tensors.
/// </summary>
internal static unsafe class MambaStep
{
    private static readonly CpuKernel Simd = new(nameof(MambaStep), () => Compare(CPU, Apply));

    /// <summary>
    /// True where the step can run: float32 on CPU, weights and states in one piece of memory each, or what <see cref="MambaStepOnCuda"/> takes.
    /// Otherwise the dispatcher logs why not.
    /// </summary>
    public static bool CanRun(Tensor x, MambaStepWeights weights, Tensor window, Tensor state)
    {
        if (CudaRuntime.Holds(x))
        {
            return MambaStepOnCuda.For(x, weights, window, state) is not null;
        }

        return Simd.CanRunInPlace(
            x,
            ("the window", window), ("the state", state), ("the convolution's weight", weights.ConvolutionWeight),
            ("the convolution's bias", weights.ConvolutionBias), ("W_x", weights.PartsWeight), ("W_dt", weights.StepWeight), ("b_dt", weights.StepBias),
            ("A_log", weights.DecayLog), ("D", weights.Skip), ("the norm of dt", weights.StepNorm), ("the norm of B", weights.InputNorm),
            ("the norm of C", weights.OutputNorm));
    }

    /// <summary>The self-test: output, window and state of one step against the convolution and the scan made of tensor operations.</summary>
    internal static string? Compare(Device device, RunMambaStep step)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var buffers = new StepBuffers();
        const long batch = 2, channels = 21, n = 19, rank = 5, taps = 4;
        const double epsilon = 0.1;
        var weights = new MambaStepWeights(
            Values(1, 1, channels, 1, taps), Values(2, 1, channels), Values(3, 1, rank + (2 * n), channels), Values(4, 1, channels, rank),
            Values(5, 1, channels), Values(6, 1, channels, n), Values(7, 1, channels), Values(8, 1, rank), Values(9, 1, n));
        var (projected, window, state) = (
            Values(10, 2, batch, 1, 2 * channels), Values(11, 1, batch, taps - 1, channels), Values(12, 1, batch, channels, n));

        var halves = Wide(projected).chunk(2, -1);
        var (x, expectedWindow) = CausalConv1d.Reference(
            halves[0], Wide(weights.ConvolutionWeight).squeeze(1), Wide(weights.ConvolutionBias!), Activation.Silu, Wide(window), null, null);
        var parts = nn.functional.linear(x, Wide(weights.PartsWeight)).split([rank, n, n], -1);
        var (dt, b, c) = (Norm(parts[0], weights.StepNorm), Norm(parts[1], weights.InputNorm), Norm(parts[2], weights.OutputNorm));
        var (expected, expectedState) = SelectiveScan.Reference(
            x, nn.functional.linear(dt, Wide(weights.StepWeight)), Wide(weights.DecayLog).exp().neg(), b, c, Wide(weights.Skip), halves[1],
            Wide(weights.StepBias), new ScanSteps(true, null, null), Wide(state), null, null);
        var y = step(projected, weights, window, state, new MambaStepForm(true, 0, double.PositiveInfinity, epsilon), buffers);
        return SelfTest.Compare([expected, expectedWindow, expectedState], [y, window, state], 1e-4);

        Tensor Norm(Tensor part, Tensor? weight) => RootMeanSquare.Reference(part, weight is null ? null : Wide(weight), null, new NormForm(epsilon));

        Tensor Values(int seed, double scale, params long[] shape) => SelfTest.Values(seed, scale, shape).to(device);

        static Tensor Wide(Tensor tensor) => tensor.to_type(ScalarType.Float64);
    }

    /// <summary>Runs the step.</summary>
    /// <param name="projected">[x; z] = W_in u, [B, 1, 2E].</param>
    /// <param name="weights">The layer.</param>
    /// <param name="window">The window of the convolution [B, W - 1, E]; moved up by one input.</param>
    /// <param name="state">The state h [B, E, N]; advanced.</param>
    /// <param name="form">Activation, limits, norms.</param>
    /// <param name="buffers">What the result is taken from.</param>
    /// <returns>y [B, 1, E].</returns>
    public static Tensor Apply(Tensor projected, MambaStepWeights weights, Tensor window, Tensor state, MambaStepForm form, StepBuffers buffers)
    {
        if (CudaRuntime.Of(projected) is { } runtime)
        {
            return new MambaStepOnCuda(runtime).Apply(projected, weights, window, state, form, buffers);
        }

        var (batch, channels, stateSize) = ((int)state.size(0), (int)state.size(1), (int)state.size(2));
        var rank = (int)weights.StepWeight.size(1);
        var y = buffers.Take(projected, batch, 1, channels);
        using var scratch = new Scratch(batch * (channels + rank + (2 * stateSize)));
        var convolved = scratch.Take(batch * channels);
        var sizes = new MambaStepSizes
        {
            Batch = batch,
            Channels = channels,
            StateSize = stateSize,
            Rank = rank,
            StepMin = (float)form.StepMin,
            StepMax = (float)form.StepMax,
            NormEpsilon = (float?)form.NormEpsilon,
            StepNorm = Address(weights.StepNorm),
            InputNorm = Address(weights.InputNorm),
            OutputNorm = Address(weights.OutputNorm),
            Projected = Address(projected),
            Convolved = convolved,
            Parts = scratch.Take(batch * (rank + (2 * stateSize))),
            StepWeight = Address(weights.StepWeight),
            StepBias = Address(weights.StepBias),
            DecayLog = Address(weights.DecayLog),
            Skip = Address(weights.Skip),
            State = Address(state),
            Output = Address(y),
        };
        var convolution = new ConvolutionStepSizes
        {
            Batch = batch,
            Channels = channels,
            Taps = (int)window.size(1) + 1,
            Silu = form.Silu,
            Input = sizes.Projected,
            InputStride = 2L * channels,
            Weight = Address(weights.ConvolutionWeight),
            Bias = Address(weights.ConvolutionBias),
            Window = Address(window),
            Output = convolved,
        };

        // Registers hold states of one channel: the widest that N fills, so that none are left over.
        LaneWidth.Run(new Passes(sizes, convolution, Address(weights.PartsWeight)), LaneWidth.Filled(sizes.StateSize));
        GC.KeepAlive(projected);
        weights.KeepAlive();
        GC.KeepAlive(window);
        GC.KeepAlive(state);
        return y;
    }

    private static float* Address(Tensor? tensor) => tensor is null ? null : (float*)TensorMemory.Address(tensor);

    private readonly struct Passes(MambaStepSizes sizes, ConvolutionStepSizes convolution, float* partsWeight) : ILaneCode
    {
        public void Run<TLane>()
            where TLane : struct, ILane<TLane>
        {
            WorkerTeam.Run(new ConvolutionStep<TLane>(convolution), convolution.Parts);
            LinearStep.Run<Float32Weights>(new LinearStepSizes
            {
                Input = sizes.Convolved,
                Weights = (byte*)partsWeight,
                Output = sizes.Parts,
                Rows = sizes.Batch,
                Width = sizes.Channels,
                Outputs = sizes.PartWidth,
            });
            sizes.NormaliseParts();
            WorkerTeam.Run(new MambaScanStep<TLane>(sizes), sizes.Batch * sizes.Groups);
        }
    }
}
