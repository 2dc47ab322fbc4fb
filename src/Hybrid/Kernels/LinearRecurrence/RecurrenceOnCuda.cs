using System.Runtime.InteropServices;
using Hybrid.Kernels.Cpu;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>The struct RecurrenceArguments of linear_recurrence.cu, which says what each field is.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct RecurrenceArguments
{
    public CudaRows X;
    public CudaRows LogDecay;
    public nint Initial;
    public nint Mask;
    public nint Restart;
    public nint Y;
    public nint Last;
    public nint Local;
    public nint Totals;
    public nint YGradient;
    public nint XGradient;
    public nint DecayGradient;
    public nint InitialGradient;
    public long Batch;
    public long Time;
    public long Channels;
    public long ChunkSteps;
    public long Chunks;
}

/// <summary>What a recurrence is made of, ready for kernels: rows of one dtype, the rest contiguous, the state in float32.</summary>
/// <param name="X">Input [B, T, E].</param>
/// <param name="LogDecay">Logarithm of the decay [B, T, E].</param>
/// <param name="Initial">State before the first step [B, E], or null.</param>
/// <param name="Mask">Bool [B, T], or null.</param>
/// <param name="Restart">Bool [B, T], or null.</param>
internal sealed record RecurrenceTensors(Tensor X, Tensor LogDecay, Tensor? Initial, Tensor? Mask, Tensor? Restart)
{
    /// <summary>All of them, in this order.</summary>
    public Tensor?[] All => [X, LogDecay, Initial, Mask, Restart];

    /// <summary>From <see cref="All"/>.</summary>
    public static RecurrenceTensors From(IReadOnlyList<Tensor?> all) => new(all[0]!, all[1]!, all[2], all[3], all[4]);
}

/// <summary>Runs the kernels of linear_recurrence.cu. Time is cut into as many chunks as fill the device together with rows and channels.</summary>
/// <param name="runtime">The device.</param>
internal sealed unsafe class RecurrenceOnCuda(CudaRuntime runtime)
{
    private const int ShortestChunk = 64;

    /// <summary>All states [B, T, E] and the last one [B, E], float32.</summary>
    public (Tensor Y, Tensor Final) Forward(RecurrenceTensors x)
    {
        var p = Inputs(x);
        var y = Floats(x, p.Batch, p.Time, p.Channels);
        var final = Floats(x, p.Batch, p.Channels);
        var local = Floats(x, p.Chunks - 1, p.Batch, p.Channels);
        var totals = Floats(x, p.Chunks - 1, p.Batch, p.Channels);
        (p.Y, p.Last, p.Local, p.Totals) = (CudaRows.Address(y), CudaRows.Address(final), CudaRows.Address(local), CudaRows.Address(totals));
        Launch(x, p, "recurrence_local", "recurrence_carry", "recurrence_output");
        TensorMemory.KeepAlive([.. x.All, y, final, local, totals]);
        return (y, final);
    }

    /// <summary>Gradients in the order of <see cref="RecurrenceTensors"/>, null where there is no such input.</summary>
    /// <param name="x">The inputs.</param>
    /// <param name="y">All states.</param>
    /// <param name="gradY">Gradient of the states, contiguous float32.</param>
    /// <param name="gradFinal">Gradient of the last state, contiguous float32, or null.</param>
    public Tensor?[] Backward(RecurrenceTensors x, Tensor y, Tensor gradY, Tensor? gradFinal)
    {
        var p = Inputs(x);
        var (gradX, gradDecay) = (Rows(x), Rows(x));
        var gradInitial = x.Initial is null ? null : Floats(x, p.Batch, p.Channels);
        var local = Floats(x, p.Chunks - 1, p.Batch, p.Channels);
        var totals = Floats(x, p.Chunks - 1, p.Batch, p.Channels);
        (p.Y, p.YGradient, p.Last) = (CudaRows.Address(y), CudaRows.Address(gradY), CudaRows.Address(gradFinal));
        (p.Local, p.Totals) = (CudaRows.Address(local), CudaRows.Address(totals));
        (p.XGradient, p.DecayGradient, p.InitialGradient) = (CudaRows.Address(gradX), CudaRows.Address(gradDecay), CudaRows.Address(gradInitial));
        Launch(x, p, "recurrence_local_gradient", "recurrence_carry_gradient", "recurrence_gradient");
        TensorMemory.KeepAlive([.. x.All, y, gradY, gradFinal, gradX, gradDecay, gradInitial, local, totals]);
        return [gradX, gradDecay, gradInitial, null, null];

        static Tensor Rows(RecurrenceTensors x) => empty(x.X.shape, dtype: x.X.dtype, device: x.X.device);
    }

    private void Launch(RecurrenceTensors x, in RecurrenceArguments p, string local, string carry, string output)
    {
        var program = CudaProgram.Of("linear_recurrence.cu", x.X.dtype, ("RECURRENCE_BYTES", sizeof(RecurrenceArguments)));
        if (p.Chunks > 1)
        {
            runtime.Launch(program, local, (p.Chunks - 1) * p.Batch * p.Channels, p);
            runtime.Launch(program, carry, p.Batch * p.Channels, p);
        }

        runtime.Launch(program, output, p.Chunks * p.Batch * p.Channels, p);
    }

    private RecurrenceArguments Inputs(RecurrenceTensors x)
    {
        var shape = x.X.shape;
        var wanted = Math.Clamp(runtime.FullThreads / (shape[0] * shape[2]), 1, Math.Max(1, shape[1] / ShortestChunk));
        var steps = (shape[1] + wanted - 1) / wanted;
        return new RecurrenceArguments
        {
            X = new CudaRows(x.X),
            LogDecay = new CudaRows(x.LogDecay),
            Initial = CudaRows.Address(x.Initial),
            Mask = CudaRows.Address(x.Mask),
            Restart = CudaRows.Address(x.Restart),
            Batch = shape[0],
            Time = shape[1],
            Channels = shape[2],
            ChunkSteps = steps,
            Chunks = (shape[1] + steps - 1) / steps,
        };
    }

    private static Tensor Floats(RecurrenceTensors x, params long[] shape) => empty(shape, dtype: ScalarType.Float32, device: x.X.device);
}
