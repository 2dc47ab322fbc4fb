using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

/// <summary>Sizes and addresses of one step of a causal convolution of B sequences; all memory is float32.</summary>
internal unsafe struct ConvolutionStepSizes
{
    /// <summary>Channels that one part of the work takes; a multiple of every register's lanes.</summary>
    public const int GroupChannels = 128;

    public int Batch;
    public int Channels;
    public int Taps;

    /// <summary>True for SiLU after the convolution, false for nothing.</summary>
    public bool Silu;

    /// <summary>x [B, E], a row so many floats after the one before.</summary>
    public float* Input;
    public long InputStride;

    /// <summary>Taps [E, W], oldest first, and bias [E] or null.</summary>
    public float* Weight;
    public float* Bias;

    /// <summary>The window [B, W - 1, E], oldest first, which the step changes in place.</summary>
    public float* Window;

    /// <summary>[B, E].</summary>
    public float* Output;

    public readonly int Groups => (Channels + GroupChannels - 1) / GroupChannels;

    public readonly int Parts => Batch * Groups;
}

/// <summary>The convolution of a group of channels: <c>act(bias + sum_k w[:, k] x_(t-(W-1)+k))</c>; then its window moves up by one input.</summary>
internal readonly unsafe struct ConvolutionStep<TLane>(ConvolutionStepSizes sizes) : IPartedWork
    where TLane : struct, ILane<TLane>
{
    private readonly ConvolutionStepSizes sizes = sizes;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public void Run(int part)
    {
        var (row, first) = (part / sizes.Groups, part % sizes.Groups * ConvolutionStepSizes.GroupChannels);
        var count = Math.Min(ConvolutionStepSizes.GroupChannels, sizes.Channels - first);
        var x = sizes.Input + (row * sizes.InputStride) + first;
        var window = sizes.Window + ((long)row * (sizes.Taps - 1) * sizes.Channels) + first;
        var y = stackalloc float[ConvolutionStepSizes.GroupChannels];
        for (var channel = 0; channel < count; channel++)
        {
            var taps = sizes.Weight + ((long)(first + channel) * sizes.Taps);
            var sum = taps[sizes.Taps - 1] * x[channel];
            for (var k = 0; k < sizes.Taps - 1; k++)
            {
                sum += taps[k] * window[((long)k * sizes.Channels) + channel];
            }

            y[channel] = sizes.Bias == null ? sum : sum + sizes.Bias[first + channel];
        }

        for (var i = 0; sizes.Silu && i < count; i += TLane.Count)
        {
            var sum = TLane.Load(y + i);
            TLane.Store(sum * LaneMath.Sigmoid(sum), y + i);
        }

        LaneMemory.Copy(y, sizes.Output + ((long)row * sizes.Channels) + first, count);
        for (var k = 0; k < sizes.Taps - 1; k++)
        {
            var next = k == sizes.Taps - 2 ? x : window + ((k + 1L) * sizes.Channels);
            LaneMemory.Copy(next, window + ((long)k * sizes.Channels), count);
        }
    }
}
