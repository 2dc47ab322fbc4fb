using Hybrid.Kernels.Cpu;
using Hybrid.Kernels.Cuda;
using Hybrid.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>The weights and sizes of a Mamba-2 layer that a decoding step reads.</summary>
/// <param name="ConvolutionWeight">Taps [E + 2 G N, 1, W].</param>
/// <param name="ConvolutionBias">Bias [E + 2 G N], or null.</param>
/// <param name="StepBias">dt_bias [H].</param>
/// <param name="DecayLog">A_log [H].</param>
/// <param name="Skip">D [H].</param>
/// <param name="Norm">The gated norm, or null for the gate alone.</param>
/// <param name="Groups">Groups G of heads that share B and C.</param>
/// <param name="StepMin">Smallest step size.</param>
/// <param name="StepMax">Largest step size.</param>
internal readonly record struct DualityStepLayer(
    Tensor ConvolutionWeight, Tensor? ConvolutionBias, Tensor StepBias, Tensor DecayLog, Tensor Skip, GatedRmsNorm? Norm, long Groups,
    double StepMin = 0, double StepMax = double.PositiveInfinity)
{
    /// <summary>Keeps the weights alive up to here, after the last use of their memory.</summary>
    public void KeepAlive()
    {
        GC.KeepAlive(ConvolutionWeight);
        GC.KeepAlive(ConvolutionBias);
        GC.KeepAlive(StepBias);
        GC.KeepAlive(DecayLog);
        GC.KeepAlive(Skip);
        GC.KeepAlive(Norm);
    }
}

/// <summary>Runs a step, see <see cref="DualityStep.Apply"/>.</summary>
internal delegate Tensor RunDualityStep(Tensor projected, DualityStepLayer layer, Tensor window, Tensor state, StepBuffers buffers);

/// <summary>
/// One token of a Mamba-2 layer between its two projections, in place on the state: convolution, SiLU, step sizes, recurrence, skip, gate and
/// norm, where the composed form makes some sixty tensors.
/// </summary>
internal static unsafe class DualityStep
{
    private static readonly CpuKernel Simd = new(nameof(DualityStep), () => Compare(CPU, 5, Apply));

    /// <summary>
    /// True where the step can run: float32 on CPU, weights and states in one piece of memory each, or what <see cref="DualityStepOnCuda"/> takes.
    /// Otherwise the dispatcher logs why not.
    /// </summary>
    public static bool CanRun(Tensor x, DualityStepLayer layer, Tensor window, Tensor state)
    {
        if (CudaRuntime.Holds(x))
        {
            return DualityStepOnCuda.For(x, layer, window, state) is not null;
        }

        return Simd.CanRunInPlace(
            x,
            ("the window", window), ("the state", state), ("the convolution's weight", layer.ConvolutionWeight),
            ("the convolution's bias", layer.ConvolutionBias), ("dt_bias", layer.StepBias), ("A_log", layer.DecayLog), ("D", layer.Skip),
            ("the norm's weight", layer.Norm?.Weight));
    }

    /// <summary>Runs the step.</summary>
    /// <param name="projected">[z; x; B; C; dt] = W_in u, contiguous [B, 1, 2 E + 2 G N + H].</param>
    /// <param name="layer">The layer.</param>
    /// <param name="window">The window of the convolution [B, W - 1, E + 2 G N]; moved up by one input.</param>
    /// <param name="state">The state S [B, H, P, N]; advanced.</param>
    /// <param name="buffers">What the result is taken from.</param>
    /// <returns>The gated output [B, 1, E].</returns>
    public static Tensor Apply(Tensor projected, DualityStepLayer layer, Tensor window, Tensor state, StepBuffers buffers)
    {
        if (CudaRuntime.Of(projected) is { } runtime)
        {
            return new DualityStepOnCuda(runtime).Apply(projected, layer, window, state, buffers);
        }

        var (batch, heads, headWidth, stateSize) = ((int)state.size(0), (int)state.size(1), (int)state.size(2), (int)state.size(3));
        var inner = heads * headWidth;
        var y = buffers.Take(projected, batch, 1, inner);
        var sizes = new DualityStepSizes
        {
            Batch = batch,
            Heads = heads,
            HeadWidth = headWidth,
            Groups = (int)layer.Groups,
            StateSize = stateSize,
            StepMin = (float)layer.StepMin,
            StepMax = (float)layer.StepMax,
            StepBias = Address(layer.StepBias),
            DecayLog = Address(layer.DecayLog),
            Skip = Address(layer.Skip),
            State = Address(state),
            Output = Address(y),
        };
        using var scratch = new Scratch((long)batch * sizes.Convolutions);
        var input = Address(projected);
        var stride = inner + sizes.Convolutions + heads;
        sizes.Convolved = scratch.Take((long)batch * sizes.Convolutions);
        sizes.Step = input + inner + sizes.Convolutions;
        sizes.StepStride = stride;
        var convolution = new ConvolutionStepSizes
        {
            Batch = batch,
            Channels = sizes.Convolutions,
            Taps = (int)window.size(1) + 1,
            Silu = true,
            Input = input + inner,
            InputStride = stride,
            Weight = Address(layer.ConvolutionWeight),
            Bias = layer.ConvolutionBias is { } bias ? Address(bias) : null,
            Window = Address(window),
            Output = sizes.Convolved,
        };
        var groups = (int)(layer.Norm?.Groups ?? 1);
        var norm = new GatedNormStepSizes
        {
            Rows = batch,
            Groups = groups,
            Width = inner / groups,
            Input = sizes.Output,
            Output = sizes.Output,
            Gate = input,
            GateStride = stride,
            Weight = layer.Norm is { } gated ? Address(gated.Weight) : null,
            WeightStride = inner / groups,
            Epsilon = (float)(layer.Norm?.Epsilon ?? 0),
            NormBeforeGate = layer.Norm?.NormBeforeGate ?? false,
        };

        // Registers hold states of one channel: the widest that N fills, so that none are left over.
        LaneWidth.Run(new Passes(convolution, sizes, norm), LaneWidth.Filled(stateSize));
        GC.KeepAlive(projected);
        layer.KeepAlive();
        GC.KeepAlive(window);
        GC.KeepAlive(state);
        return y;
    }

    private static float* Address(Tensor tensor) => (float*)TensorMemory.Address(tensor);

    /// <summary>The self-test: output, window and state of one step against the convolution, the recurrence and the norm made of tensor operations.</summary>
    internal static string? Compare(Device device, long headWidth, RunDualityStep step)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var buffers = new StepBuffers();
        const long batch = 2, heads = 4, groups = 2, n = 19, taps = 4;
        var inner = heads * headWidth;
        var channels = inner + (2 * groups * n);
        using var norm = new GatedRmsNorm(inner, epsilon: 0.1) { UseFusedKernels = false };
        norm.to(device);
        var layer = new DualityStepLayer(
            Values(1, 1, channels, 1, taps), Values(2, 1, channels), Values(3, 1, heads), Values(4, 1, heads),
            Values(5, 1, heads), norm, groups);
        var projected = Values(6, 2, batch, 1, inner + channels + heads);
        var (window, state) = (Values(7, 1, batch, taps - 1, channels), Values(8, 1, batch, heads, headWidth, n));

        var parts = Wide(projected).split([inner, channels, heads], -1);
        var (convolved, expectedWindow) = CausalConv1d.Reference(
            parts[1], Wide(layer.ConvolutionWeight).squeeze(1), Wide(layer.ConvolutionBias!), Activation.Silu, Wide(window), null, null);
        var driven = convolved.split([inner, groups * n, groups * n], -1);
        var (y, expectedState) = StateSpaceDuality.Reference(
            driven[0].unflatten(2, heads, headWidth), parts[2], Wide(layer.DecayLog).exp().neg(), driven[1].unflatten(2, groups, n),
            driven[2].unflatten(2, groups, n), Wide(layer.Skip), null, Wide(layer.StepBias), true, null, null, Wide(state), null, null, 1);
        var expected = norm.call(y.flatten(2), parts[0]);
        return SelfTest.Compare([expected, expectedWindow, expectedState], [step(projected, layer, window, state, buffers), window, state], 1e-4);

        Tensor Values(int seed, double scale, params long[] shape) => SelfTest.Values(seed, scale, shape).to(device);

        static Tensor Wide(Tensor tensor) => tensor.to_type(ScalarType.Float64);
    }

    private readonly struct Passes(ConvolutionStepSizes convolution, DualityStepSizes sizes, GatedNormStepSizes norm) : ILaneCode
    {
        public void Run<TLane>()
            where TLane : struct, ILane<TLane>
        {
            WorkerTeam.Run(new ConvolutionStep<TLane>(convolution), convolution.Parts);
            WorkerTeam.Run(new DualityStepKernel<TLane>(sizes), sizes.Batch * sizes.Heads);
            WorkerTeam.Run(new GatedNormStep<TLane>(norm), norm.Rows);
        }
    }
}
