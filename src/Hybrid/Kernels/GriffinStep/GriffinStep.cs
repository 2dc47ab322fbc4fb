using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;
using Hybrid.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>The weights of a Griffin layer that a decoding step reads.</summary>
/// <param name="ConvolutionWeight">Taps [E, 1, W].</param>
/// <param name="ConvolutionBias">[E].</param>
/// <param name="InputGateWeight">W_i [H, w, w].</param>
/// <param name="InputGateBias">b_i [H, w].</param>
/// <param name="RecurrentGateWeight">W_r [H, w, w].</param>
/// <param name="RecurrentGateBias">b_r [H, w].</param>
/// <param name="RecurrentParam">p [E].</param>
internal readonly record struct GriffinStepWeights(
    Tensor ConvolutionWeight, Tensor ConvolutionBias, Tensor InputGateWeight, Tensor InputGateBias, Tensor RecurrentGateWeight, Tensor RecurrentGateBias,
    Tensor RecurrentParam);

/// <summary>
/// One token of a Griffin layer between its projections, in place on the state: convolution, both gates, recurrence and GELU gate in one
/// pass over the gate blocks.
/// </summary>
internal static unsafe class GriffinStep
{
    /// <summary>Widest gate block whose rows of memory are taken from the stack.</summary>
    private const long WidestBlock = 4096;

    private static readonly CpuKernel Simd = new("GriffinStep", Compare);

    /// <summary>Runs the step where it can: float32 on CPU, without autograd.</summary>
    /// <param name="input">What the convolution reads, linear_x u [B, 1, E].</param>
    /// <param name="gate">The gate before its GELU, linear_y u [B, 1, E].</param>
    /// <param name="weights">The layer.</param>
    /// <param name="window">The convolution's window [B, W - 1, E]; moved up by one input.</param>
    /// <param name="state">The state h [B, E]; advanced.</param>
    /// <param name="positions">Tokens before this one, a row; a row of none starts a sequence.</param>
    /// <returns>y [B, 1, E], in the current dispose scope; null where the step cannot run.</returns>
    public static Tensor? Apply(Tensor input, Tensor gate, GriffinStepWeights weights, Tensor window, Tensor state, IReadOnlyList<long> positions)
    {
        var canRun = !is_grad_enabled() && weights.InputGateWeight.size(1) <= WidestBlock && Simd.CanRunInPlace(
            ("input", input), ("gate", gate), ("window", window), ("state", state), ("convolutionWeight", weights.ConvolutionWeight),
            ("convolutionBias", weights.ConvolutionBias), ("inputGateWeight", weights.InputGateWeight), ("inputGateBias", weights.InputGateBias),
            ("recurrentGateWeight", weights.RecurrentGateWeight), ("recurrentGateBias", weights.RecurrentGateBias),
            ("recurrentParam", weights.RecurrentParam));
        return canRun ? Run(input, gate, weights, window, state, positions) : null;
    }

    private static Tensor Run(Tensor input, Tensor gate, GriffinStepWeights weights, Tensor window, Tensor state, IReadOnlyList<long> positions)
    {
        var shape = weights.InputGateWeight.shape;
        var y = empty_like(input);
        var fresh = stackalloc bool[positions.Count];
        for (var row = 0; row < positions.Count; row++)
        {
            fresh[row] = positions[row] == 0;
        }

        var work = new Work
        {
            Blocks = (int)shape[0],
            Width = (int)shape[1],
            Taps = (int)window.size(1) + 1,
            Input = ScanInputs.Floats(input),
            Gate = ScanInputs.Floats(gate),
            Window = ScanInputs.Floats(window),
            State = ScanInputs.Floats(state),
            Output = ScanInputs.Floats(y),
            Fresh = fresh,
            ConvolutionWeight = ScanInputs.Floats(weights.ConvolutionWeight),
            ConvolutionBias = ScanInputs.Floats(weights.ConvolutionBias),
            InputGateWeight = ScanInputs.Floats(weights.InputGateWeight),
            InputGateBias = ScanInputs.Floats(weights.InputGateBias),
            RecurrentGateWeight = ScanInputs.Floats(weights.RecurrentGateWeight),
            RecurrentGateBias = ScanInputs.Floats(weights.RecurrentGateBias),
            RecurrentParam = ScanInputs.Floats(weights.RecurrentParam),
        };
        LaneTasks.Run(work, positions.Count * work.Blocks, (long)positions.Count * work.Blocks * work.Width * work.Width);
        TensorMemory.KeepAlive(
        [
            input, gate, window, state, y, weights.ConvolutionWeight, weights.ConvolutionBias, weights.InputGateWeight, weights.InputGateBias,
            weights.RecurrentGateWeight, weights.RecurrentGateBias, weights.RecurrentParam,
        ]);
        return y;
    }

    /// <summary>The self-test: output, window and state of one step of two rows, one of them a first token, against tensor operations.</summary>
    private static string? Compare()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        const long batch = 2, heads = 3, width = 7, channels = heads * width, taps = 4;
        var weights = new GriffinStepWeights(
            SelfTest.Values(1, 1, channels, 1, taps), SelfTest.Values(2, 1, channels), SelfTest.Values(3, 1, heads, width, width),
            SelfTest.Values(4, 1, heads, width), SelfTest.Values(5, 1, heads, width, width), SelfTest.Values(6, 1, heads, width), SelfTest.Values(7, 2, channels));
        var (input, gate) = (SelfTest.Values(8, 2, batch, 1, channels), SelfTest.Values(9, 3, batch, 1, channels));
        var (window, state) = (SelfTest.Values(10, 1, batch, taps - 1, channels), SelfTest.Values(11, 1, batch, channels));

        var (x, expectedWindow) = CausalConv1d.Reference(
            Wide(input), Wide(weights.ConvolutionWeight).squeeze(1), Wide(weights.ConvolutionBias), Activation.Identity, Wide(window), null, null);
        var (h, expectedState) = RgLru.Reference(
            x, Wide(weights.InputGateWeight), Wide(weights.InputGateBias), Wide(weights.RecurrentGateWeight), Wide(weights.RecurrentGateBias),
            Wide(weights.RecurrentParam), Wide(state), arange(batch).eq(1).unsqueeze(1), null);
        var expected = h * Wide(gate).gelu(TorchSharp.Modules.GELU.Approximate.tanh);
        var y = Run(input, gate, weights, window, state, [5, 0]);
        return SelfTest.Compare([expected, expectedWindow, expectedState], [y, window, state], 1e-5);

        static Tensor Wide(Tensor tensor) => tensor.to_type(ScalarType.Float64);
    }

    /// <summary>A gate block of a row.</summary>
    private struct Work : ILaneWork
    {
        public int Blocks;
        public int Width;
        public int Taps;
        public float* Input;
        public float* Gate;
        public float* Window;
        public float* State;
        public float* Output;
        public bool* Fresh;
        public float* ConvolutionWeight;
        public float* ConvolutionBias;
        public float* InputGateWeight;
        public float* InputGateBias;
        public float* RecurrentGateWeight;
        public float* RecurrentGateBias;
        public float* RecurrentParam;

        public readonly void Run<TLane>(int task)
            where TLane : struct, ILane<TLane>
        {
            var (row, block) = (task / Blocks, task % Blocks);
            var (first, at) = (block * Width, ((long)row * Blocks * Width) + (block * Width));
            var stride = (Width + TLane.Count - 1) / TLane.Count * TLane.Count;
            var memory = stackalloc float[(7 + ChannelScanSizes.WorkRows) * stride];
            float* x = memory, state = memory + stride, constants = memory + (2 * stride), products = memory + (5 * stride);
            LaneMemory.Clear(memory, 7 * stride);

            Convolve(row, first, x);
            Multiply<TLane>(x, InputGateWeight + ((long)block * Width * Width), products);
            Multiply<TLane>(x, RecurrentGateWeight + ((long)block * Width * Width), products + stride);
            Rates<TLane>(RecurrentParam + first, constants);
            LaneMemory.Copy(InputGateBias + first, constants + stride, Width);
            LaneMemory.Copy(RecurrentGateBias + first, constants + (2 * stride), Width);
            if (!Fresh[row])
            {
                LaneMemory.Copy(State + at, state, Width);
            }

            var inputs = stackalloc float*[] { x, products, products + stride };
            default(RgLru.Cell).Forward(new ChannelStep<TLane>
            {
                Count = Width, Stride = stride, IsReal = true, Restarts = Fresh[row], Inputs = inputs, Constants = constants, Before = state, After = state,
                Work = memory + (7 * stride), Output = Output + at,
            });
            LaneMemory.Copy(state, State + at, Width);
            Open<TLane>(Gate + at, Output + at);
        }

        /// <summary>u = bias + sum_k taps_k x_(t-(W-1)+k); then the window moves up by one input.</summary>
        private readonly void Convolve(int row, int first, float* target)
        {
            var channels = Blocks * Width;
            var input = Input + ((long)row * channels) + first;
            var window = Window + ((long)row * (Taps - 1) * channels) + first;
            for (var c = 0; c < Width; c++)
            {
                var taps = ConvolutionWeight + ((long)(first + c) * Taps);
                var sum = ConvolutionBias[first + c] + (taps[Taps - 1] * input[c]);
                for (var k = 0; k < Taps - 1; k++)
                {
                    sum += taps[k] * window[((long)k * channels) + c];
                }

                target[c] = sum;
            }

            for (var k = 0; k < Taps - 1; k++)
            {
                LaneMemory.Copy(k == Taps - 2 ? input : window + ((k + 1L) * channels), window + ((long)k * channels), Width);
            }
        }

        /// <summary>y = x W of a block, with W row by row as it lies in memory.</summary>
        [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
        private readonly void Multiply<TLane>(float* x, float* weight, float* y)
            where TLane : struct, ILane<TLane>
        {
            for (var k = 0; k < Width; k++, weight += Width)
            {
                var value = TLane.Broadcast(x[k]);
                for (var c = 0; c < Width; c += TLane.Count)
                {
                    TLane.Store(TLane.MultiplyAdd(value, LaneMemory.Load<TLane>(weight + c, Width - c), TLane.Load(y + c)), y + c);
                }
            }
        }

        /// <summary>-8 softplus(p).</summary>
        [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
        private readonly void Rates<TLane>(float* parameters, float* rates)
            where TLane : struct, ILane<TLane>
        {
            for (var c = 0; c < Width; c += TLane.Count)
            {
                TLane.Store(LaneMath.Softplus(LaneMemory.Load<TLane>(parameters + c, Width - c)) * TLane.Broadcast((float)-RgLru.Exponent), rates + c);
            }
        }

        /// <summary>y GELU(g), in its form of tanh: g / 2 (1 + tanh(sqrt(2 / pi) (g + 0.044715 g^3))).</summary>
        [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
        private readonly void Open<TLane>(float* gates, float* y)
            where TLane : struct, ILane<TLane>
        {
            var (one, half) = (TLane.Broadcast(1), TLane.Broadcast(0.5f));
            for (var c = 0; c < Width; c += TLane.Count)
            {
                var gate = LaneMemory.Load<TLane>(gates + c, Width - c);
                var inner = TLane.MultiplyAdd(gate * gate * gate, TLane.Broadcast(0.044715f), gate) * TLane.Broadcast(0.797884561f);
                var gelu = half * gate * (one + LaneMath.Tanh(inner));
                LaneMemory.Store(LaneMemory.Load<TLane>(y + c, Width - c) * gelu, y + c, Width - c);
            }
        }
    }
}
