using System.Runtime.InteropServices;
using Hybrid.Kernels.Cpu;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>The struct WkvArguments of wkv.cu, which says what each field is.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct WkvArguments
{
    public CudaRows Key;
    public CudaRows Value;
    public CudaRows Receptance;
    public nint LogDecay;
    public nint Bonus;
    public nint Numerator;
    public nint Denominator;
    public nint Maximum;
    public nint Mask;
    public nint Restart;
    public nint Y;
    public nint LastNumerator;
    public nint LastDenominator;
    public nint LastMaximum;
    public nint Local;
    public nint Totals;
    public nint Kept;
    public long Batch;
    public long Time;
    public long Channels;
    public long ChunkSteps;
    public long Chunks;
    public int DataDependent;
    public int Unused;
}

/// <summary>The struct WkvGradientArguments of wkv.cu, which says what each field is.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct WkvGradientArguments
{
    public WkvArguments Wkv;
    public CudaRows Y;
    public nint Local;
    public nint Totals;
    public nint Key;
    public nint Value;
    public nint Receptance;
    public nint LogDecay;
    public nint Bonus;
    public nint Numerator;
    public nint Denominator;
}

/// <summary>What a weighted mean is made of, ready for kernels: keys, values and receptance of one dtype, the rest float32 and contiguous.</summary>
/// <param name="LogDecay">log d: [B, T, E], or [E] in the form of RWKV-4.</param>
/// <param name="Bonus">u [E].</param>
/// <param name="Key">k [B, T, E].</param>
/// <param name="Value">v [B, T, E].</param>
/// <param name="Receptance">r [B, T, E], or null.</param>
/// <param name="Numerator">[B, E], or null as the two that follow.</param>
/// <param name="Denominator">[B, E].</param>
/// <param name="Maximum">[B, E], a constant.</param>
/// <param name="Mask">Bool [B, T], or null.</param>
/// <param name="Restart">Bool [B, T], or null.</param>
internal sealed record WkvTensors(
    Tensor LogDecay, Tensor Bonus, Tensor Key, Tensor Value, Tensor? Receptance, Tensor? Numerator, Tensor? Denominator, Tensor? Maximum,
    Tensor? Mask, Tensor? Restart)
{
    /// <summary>All of them, in this order.</summary>
    public Tensor?[] All => [LogDecay, Bonus, Key, Value, Receptance, Numerator, Denominator, Maximum, Mask, Restart];

    /// <summary>From <see cref="All"/>.</summary>
    public static WkvTensors From(IReadOnlyList<Tensor?> all) =>
        new(all[0]!, all[1]!, all[2]!, all[3]!, all[4], all[5], all[6], all[7], all[8], all[9]);
}

/// <summary>
/// Runs the kernels of wkv.cu. Time is cut into as many chunks as fill the device together with rows and channels; a backward pass needs the
/// inputs and the states before every 16 steps.
/// </summary>
/// <param name="runtime">The device.</param>
internal sealed unsafe class WkvOnCuda(CudaRuntime runtime)
{
    /// <summary>Steps between kept states: STEPS in wkv.cu.</summary>
    private const int KeptSteps = 16;

    private const int ShortestChunk = 64;

    /// <summary>The output [B, T, E], the state after the last step, and the states that a backward pass starts from where asked for.</summary>
    public (Tensor Y, WkvState Final, Tensor? Kept) Forward(WkvTensors x, bool keep)
    {
        var p = Inputs(x);
        var y = Rows(x);
        var final = new WkvState(Floats(x, p.Batch, p.Channels), Floats(x, p.Batch, p.Channels), Floats(x, p.Batch, p.Channels));
        var local = Floats(x, p.Chunks - 1, 3, p.Batch, p.Channels);
        var totals = Floats(x, p.Chunks - 1, p.Batch, p.Channels);
        var kept = keep ? Floats(x, (p.Time + KeptSteps - 1) / KeptSteps, 3, p.Batch, p.Channels) : null;
        (p.Y, p.Local, p.Totals, p.Kept) = (Address(y), Address(local), Address(totals), Address(kept));
        (p.LastNumerator, p.LastDenominator, p.LastMaximum) = (Address(final.Numerator), Address(final.Denominator), Address(final.Maximum));
        var program = Program(x);
        if (p.Chunks > 1)
        {
            runtime.Launch(program, "wkv_local", (p.Chunks - 1) * p.Batch * p.Channels, p);
            runtime.Launch(program, "wkv_carry", p.Batch * p.Channels, p);
        }

        runtime.Launch(program, "wkv_output", p.Chunks * p.Batch * p.Channels, p);
        TensorMemory.KeepAlive([.. x.All, y, final.Numerator, final.Denominator, final.Maximum, local, totals, kept]);
        return (y, final, kept);
    }

    /// <summary>Gradients in the order of <see cref="WkvTensors"/>, null where there is no such input or it is a constant.</summary>
    /// <param name="x">The inputs.</param>
    /// <param name="kept">What the forward pass kept.</param>
    /// <param name="gradY">Gradient of the output, in the dtype of the keys, with channels next to each other.</param>
    /// <param name="gradNumerator">Gradient of the last numerator, contiguous float32; null as the next where neither has one.</param>
    /// <param name="gradDenominator">Gradient of the last denominator.</param>
    public Tensor?[] Backward(WkvTensors x, Tensor kept, Tensor gradY, Tensor? gradNumerator, Tensor? gradDenominator)
    {
        var inputs = Inputs(x);
        (inputs.Kept, inputs.LastNumerator, inputs.LastDenominator) = (Address(kept), Address(gradNumerator), Address(gradDenominator));
        var (chunks, batch, channels) = (inputs.Chunks, inputs.Batch, inputs.Channels);
        var (key, value, receptance) = (Rows(x), Rows(x), x.Receptance is null ? null : Rows(x));
        var logDecay = x.LogDecay.Dimensions == 1 ? Floats(x, chunks * batch, channels) : Floats(x, batch, inputs.Time, channels);
        var bonus = Floats(x, chunks * batch, channels);
        var numerator = x.Numerator is null ? null : Floats(x, batch, channels);
        var denominator = x.Numerator is null ? null : Floats(x, batch, channels);
        var local = Floats(x, chunks - 1, 2, batch, channels);
        var totals = Floats(x, chunks - 1, batch, channels);
        var p = new WkvGradientArguments
        {
            Wkv = inputs,
            Y = new CudaRows(gradY),
            Local = Address(local),
            Totals = Address(totals),
            Key = Address(key),
            Value = Address(value),
            Receptance = Address(receptance),
            LogDecay = Address(logDecay),
            Bonus = Address(bonus),
            Numerator = Address(numerator),
            Denominator = Address(denominator),
        };
        var program = Program(x);
        if (chunks > 1)
        {
            runtime.Launch(program, "wkv_local_gradient", (chunks - 1) * batch * channels, p);
            runtime.Launch(program, "wkv_carry_gradient", batch * channels, p);
        }

        runtime.Launch(program, "wkv_gradient", chunks * batch * channels, p);
        TensorMemory.KeepAlive(
            [.. x.All, kept, gradY, gradNumerator, gradDenominator, key, value, receptance, logDecay, bonus, numerator, denominator, local, totals]);

        // Parts are added up in a fixed order.
        return
        [
            x.LogDecay.Dimensions == 1 ? logDecay.sum(dim: 0) : logDecay, bonus.sum(dim: 0), key, value, receptance, numerator, denominator,
            null, null, null,
        ];
    }

    private WkvArguments Inputs(WkvTensors x)
    {
        var shape = x.Key.shape;
        var wanted = Math.Clamp(runtime.FullThreads / (shape[0] * shape[2]), 1, Math.Max(1, shape[1] / ShortestChunk));
        var steps = ((((shape[1] + wanted - 1) / wanted) + KeptSteps - 1) / KeptSteps) * KeptSteps;
        return new WkvArguments
        {
            Key = new CudaRows(x.Key),
            Value = new CudaRows(x.Value),
            Receptance = new CudaRows(x.Receptance),
            LogDecay = Address(x.LogDecay),
            Bonus = Address(x.Bonus),
            Numerator = Address(x.Numerator),
            Denominator = Address(x.Denominator),
            Maximum = Address(x.Maximum),
            Mask = Address(x.Mask),
            Restart = Address(x.Restart),
            Batch = shape[0],
            Time = shape[1],
            Channels = shape[2],
            ChunkSteps = steps,
            Chunks = (shape[1] + steps - 1) / steps,
            DataDependent = x.LogDecay.Dimensions == 3 ? 1 : 0,
        };
    }

    private static CudaProgram Program(WkvTensors x) => CudaProgram.Of(
        "wkv.cu", x.Key.dtype, ("WKV_BYTES", sizeof(WkvArguments)), ("WKV_GRADIENT_BYTES", sizeof(WkvGradientArguments)));

    private static nint Address(Tensor? tensor) => CudaRows.Address(tensor);

    private static Tensor Rows(WkvTensors x) => empty(x.Key.shape, dtype: x.Key.dtype, device: x.Key.device);

    private static Tensor Floats(WkvTensors x, params long[] shape) => empty(shape, dtype: ScalarType.Float32, device: x.Key.device);
}
