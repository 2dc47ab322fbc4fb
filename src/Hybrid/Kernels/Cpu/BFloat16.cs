namespace Hybrid.Kernels.Cpu;

/// <summary>bfloat16: the upper half of a float32.</summary>
internal static class BFloat16
{
    /// <summary>Bits that it leaves out.</summary>
    public const int Shift = 16;
}
