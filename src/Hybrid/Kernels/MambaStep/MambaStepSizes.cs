namespace Hybrid.Kernels;

/// <summary>Sizes and addresses of one decoding step of B sequences; all memory is contiguous float32.</summary>
internal unsafe struct MambaStepSizes
{
    /// <summary>Channels that one part of the work takes; a multiple of every register's lanes.</summary>
    public const int GroupChannels = ConvolutionStepSizes.GroupChannels;

    public int Batch;
    public int Channels;
    public int StateSize;
    public int Rank;

    /// <summary>Limits of the step size after the softplus.</summary>
    public float StepMin;
    public float StepMax;

    /// <summary>[x; z] before the convolution: [B, 2E].</summary>
    public float* Projected;

    /// <summary>x after the convolution: [B, E].</summary>
    public float* Convolved;

    /// <summary>[dt; B; C]: [B, R + 2N].</summary>
    public float* Parts;

    /// <summary>W_dt [E, R] and b_dt [E].</summary>
    public float* StepWeight;
    public float* StepBias;

    /// <summary>A_log [E, N] and D [E].</summary>
    public float* DecayLog;
    public float* Skip;

    /// <summary>The state h [B, E, N], which the step changes in place.</summary>
    public float* State;

    /// <summary>y [B, E].</summary>
    public float* Output;

    public readonly int Groups => (Channels + GroupChannels - 1) / GroupChannels;

    public readonly int PartWidth => Rank + (2 * StateSize);

    /// <summary>The row, the first channel and the number of channels of a part.</summary>
    public readonly (int Row, int First, int Count) Locate(int part)
    {
        var first = part % Groups * GroupChannels;
        return (part / Groups, first, Math.Min(GroupChannels, Channels - first));
    }
}
