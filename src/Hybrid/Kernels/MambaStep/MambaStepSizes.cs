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

    /// <summary>Epsilon of the norms of dt, B and C, or null, and their weights [R], [N], [N], each null for ones.</summary>
    public float? NormEpsilon;
    public float* StepNorm;
    public float* InputNorm;
    public float* OutputNorm;

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

    /// <summary>Applies the norms of dt, B and C to each row, where there are any.</summary>
    public readonly void NormaliseParts()
    {
        if (NormEpsilon is not { } epsilon)
        {
            return;
        }

        for (var row = 0; row < Batch; row++)
        {
            var dt = Parts + ((long)row * PartWidth);
            Normalise(dt, Rank, StepNorm, epsilon);
            Normalise(dt + Rank, StateSize, InputNorm, epsilon);
            Normalise(dt + Rank + StateSize, StateSize, OutputNorm, epsilon);
        }
    }

    private static void Normalise(float* values, int count, float* weight, float epsilon)
    {
        var sum = 0.0;
        for (var i = 0; i < count; i++)
        {
            sum += values[i] * values[i];
        }

        var inverse = (float)(1 / Math.Sqrt((sum / count) + epsilon));
        for (var i = 0; i < count; i++)
        {
            values[i] *= weight == null ? inverse : inverse * weight[i];
        }
    }
}
