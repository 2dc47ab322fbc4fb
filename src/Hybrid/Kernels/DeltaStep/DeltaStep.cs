using Hybrid.Kernels.Cpu;
using Hybrid.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>The weights and sizes of a gated delta net layer that a decoding step reads.</summary>
/// <param name="ConvolutionWeight">Taps [2 K key heads + H V, 1, W].</param>
/// <param name="StepBias">dt_bias [H].</param>
/// <param name="DecayLog">A_log [H].</param>
/// <param name="Norm">The gated norm of a value head.</param>
/// <param name="KeyHeads">Heads of queries and keys.</param>
internal readonly record struct DeltaStepLayer(Tensor ConvolutionWeight, Tensor StepBias, Tensor DecayLog, GatedRmsNorm Norm, long KeyHeads);

/// <summary>
/// One token of a gated delta net layer between its projections, in place on the state: convolution, SiLU, gates, the rule, norm and gate of each
/// head, where the composed form makes some eighty tensors.
/// </summary>
internal static unsafe class DeltaStep
{
    private static readonly CpuKernel Simd = new(nameof(DeltaStep), Compare);

    /// <summary>True where the step can run: float32 on CPU, weights and states in one piece of memory each. Otherwise the dispatcher logs why not.</summary>
    public static bool CanRun(Tensor x, DeltaStepLayer layer, Tensor window, Tensor state)
    {
        return Simd.CanRunInPlace(
            x,
            ("the window", window), ("the state", state), ("the convolution's weight", layer.ConvolutionWeight), ("dt_bias", layer.StepBias),
            ("A_log", layer.DecayLog), ("the norm's weight", layer.Norm.Weight));
    }

    /// <summary>Runs the step.</summary>
    /// <param name="projected">q, k, v and z of each key head, contiguous [B, 1, key heads * (2 K + 2 shared V)].</param>
    /// <param name="gates">b and a of each key head, contiguous [B, 1, 2 H].</param>
    /// <param name="layer">The layer, contiguous float32.</param>
    /// <param name="window">The window of the convolution [B, W - 1, 2 K key heads + H V]; moved up by one input.</param>
    /// <param name="state">The state S [B, H, K, V]; advanced.</param>
    /// <returns>The gated output [B, 1, H V].</returns>
    public static Tensor Apply(Tensor projected, Tensor gates, DeltaStepLayer layer, Tensor window, Tensor state)
    {
        var (batch, keyHeads) = ((int)state.size(0), (int)layer.KeyHeads);
        var sizes = new DeltaStepSizes
        {
            Batch = batch,
            KeyHeads = keyHeads,
            Shared = (int)state.size(1) / keyHeads,
            KeyWidth = (int)state.size(2),
            ValueWidth = (int)state.size(3),
            Gates = Address(gates),
            StepBias = Address(layer.StepBias),
            DecayLog = Address(layer.DecayLog),
            State = Address(state),
        };
        var o = empty([batch, 1, sizes.ValueChannels], dtype: ScalarType.Float32);
        using var scratch = new Scratch((long)batch * ((2 * sizes.Convolutions) + sizes.ValueChannels));
        sizes.Convolved = scratch.Take((long)batch * sizes.Convolutions);
        sizes.Output = Address(o);
        var mixed = scratch.Take((long)batch * sizes.Convolutions);
        var gate = scratch.Take((long)batch * sizes.ValueChannels);
        Sort(Address(projected), mixed, gate, sizes);
        var convolution = new ConvolutionStepSizes
        {
            Batch = batch,
            Channels = sizes.Convolutions,
            Taps = (int)window.size(1) + 1,
            Silu = true,
            Input = mixed,
            InputStride = sizes.Convolutions,
            Weight = Address(layer.ConvolutionWeight),
            Window = Address(window),
            Output = sizes.Convolved,
        };
        var norm = new GatedNormStepSizes
        {
            Rows = batch,
            Groups = sizes.Heads,
            Width = sizes.ValueWidth,
            Input = sizes.Output,
            Output = sizes.Output,
            Gate = gate,
            GateStride = sizes.ValueChannels,
            Weight = Address(layer.Norm.Weight),
            Epsilon = (float)layer.Norm.Epsilon,
            NormBeforeGate = layer.Norm.NormBeforeGate,
        };
        LaneWidth.Run(new Passes(convolution, sizes, norm));
        GC.KeepAlive(projected);
        GC.KeepAlive(gates);
        KeepAlive(layer);
        GC.KeepAlive(window);
        GC.KeepAlive(state);
        return o;
    }

    /// <summary>From q, k, v and z of one key head after the other to all q, all k, all v, and all z.</summary>
    private static void Sort(float* source, float* mixed, float* gate, DeltaStepSizes sizes)
    {
        var (key, value) = (sizes.KeyWidth, sizes.Shared * sizes.ValueWidth);
        for (var row = 0; row < sizes.Batch; row++, mixed += sizes.Convolutions, gate += sizes.ValueChannels)
        {
            for (var head = 0; head < sizes.KeyHeads; head++, source += 2 * (key + value))
            {
                LaneMemory.Copy(source, mixed + (head * key), key);
                LaneMemory.Copy(source + key, mixed + sizes.KeyChannels + (head * key), key);
                LaneMemory.Copy(source + (2 * key), mixed + (2 * sizes.KeyChannels) + (head * value), value);
                LaneMemory.Copy(source + (2 * key) + value, gate + (head * value), value);
            }
        }
    }

    private static void KeepAlive(DeltaStepLayer layer)
    {
        GC.KeepAlive(layer.ConvolutionWeight);
        GC.KeepAlive(layer.StepBias);
        GC.KeepAlive(layer.DecayLog);
        GC.KeepAlive(layer.Norm);
    }

    private static float* Address(Tensor tensor) => (float*)TensorMemory.Address(tensor);

    /// <summary>The self-test: output, window and state of one step against the convolution, the rule and the norm made of tensor operations.</summary>
    private static string? Compare()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        const long batch = 2, heads = 3, key = 5, value = 19, taps = 4, channels = heads * ((2 * key) + value);
        using var norm = new GatedRmsNorm(value, epsilon: 0.1, normBeforeGate: true);
        var layer = new DeltaStepLayer(SelfTest.Values(1, 1, channels, 1, taps), SelfTest.Values(2, 1, heads), SelfTest.Values(3, 1, heads), norm, heads);
        var (projected, gates) = (SelfTest.Values(4, 2, batch, 1, heads * 2 * (key + value)), SelfTest.Values(5, 2, batch, 1, 2 * heads));
        var (window, state) = (SelfTest.Values(6, 1, batch, taps - 1, channels), SelfTest.Values(7, 1, batch, heads, key, value));

        var parts = Wide(projected).view(batch, 1, heads, -1).split([key, key, value, value], -1);
        var gateParts = Wide(gates).view(batch, 1, heads, 2);
        var (convolved, expectedWindow) = CausalConv1d.Reference(
            cat([parts[0].flatten(2), parts[1].flatten(2), parts[2].flatten(2)], -1), Wide(layer.ConvolutionWeight).squeeze(1), null, Activation.Silu,
            Wide(window), null, null);
        var mixed = convolved.split([heads * key, heads * key, heads * value], -1);
        var decay = (gateParts.select(-1, 1) + Wide(layer.StepBias)).softplus() * Wide(layer.DecayLog).exp().neg();
        var (o, expectedState) = GatedDelta.Reference(
            mixed[0].view(batch, 1, heads, key), mixed[1].view(batch, 1, heads, key), mixed[2].view(batch, 1, heads, value), gateParts.select(-1, 0).sigmoid(),
            decay, Math.Pow(key, -0.5), true, Wide(state), null, null);
        var expected = norm.call(o, parts[3]).flatten(2);
        return SelfTest.Compare([expected, expectedWindow, expectedState], [Apply(projected, gates, layer, window, state), window, state], 1e-4);

        static Tensor Wide(Tensor tensor) => tensor.to_type(ScalarType.Float64);
    }

    private readonly struct Passes(ConvolutionStepSizes convolution, DeltaStepSizes sizes, GatedNormStepSizes norm) : ILaneCode
    {
        public void Run<TLane>()
            where TLane : struct, ILane<TLane>
        {
            WorkerTeam.Run(new ConvolutionStep<TLane>(convolution), convolution.Parts);
            WorkerTeam.Run(new DeltaStepKernel<TLane>(sizes), sizes.Batch * sizes.Heads);
            WorkerTeam.Run(new GatedNormStep<TLane>(norm), norm.Rows);
        }
    }
}
