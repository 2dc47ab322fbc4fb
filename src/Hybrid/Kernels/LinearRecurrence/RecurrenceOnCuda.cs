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
    public CudaRows Gates;
    public CudaRows Y;
    public CudaRows XGradient;
    public CudaRows GatesGradient;
    public nint Constants;
    public nint Initial;
    public nint Mask;
    public nint Restart;
    public nint States;
    public nint Last;
    public nint Local;
    public nint Totals;
    public nint ConstantsGradient;
    public nint InitialGradient;
    public long BlockWidth;
    public long BlockStride;
    public long Batch;
    public long Time;
    public long Channels;
    public long ChunkSteps;
    public long Chunks;
}

/// <summary>What makes inputs and decays of a recurrence: GATES in linear_recurrence.cu.</summary>
internal enum RecurrenceGates
{
    /// <summary>They are given.</summary>
    None,

    /// <summary>The gates of <see cref="RgLru"/>.</summary>
    RgLru,

    /// <summary>Those of <see cref="GatedAverage"/>.</summary>
    GatedAverage,
}

/// <summary>What a recurrence is made of, ready for kernels: rows of one dtype, the rest contiguous and float32.</summary>
/// <param name="X">Input [B, T, E]; of the average, values and output gates [B, T, 2E].</param>
/// <param name="Gates">
/// Log decay [B, T, E]; of the RG-LRU, the products of both gates, block by block [H, B, T, 2E / H], contiguous; of the average, logits
/// [B, T, E] or null.
/// </param>
/// <param name="Constants">Of the RG-LRU, rate and the biases of both gates [3, E]; of the average, a logit a channel [1, E]; else null.</param>
/// <param name="Initial">State before the first step [B, E], or null.</param>
/// <param name="Mask">Bool [B, T], or null.</param>
/// <param name="Restart">Bool [B, T], or null.</param>
internal sealed record RecurrenceTensors(Tensor X, Tensor? Gates, Tensor? Constants, Tensor? Initial, Tensor? Mask, Tensor? Restart)
{
    /// <summary>All of them, in this order.</summary>
    public Tensor?[] All => [X, Gates, Constants, Initial, Mask, Restart];

    /// <summary>From <see cref="All"/>.</summary>
    public static RecurrenceTensors From(IReadOnlyList<Tensor?> all) => new(all[0]!, all[1], all[2], all[3], all[4], all[5]);
}

/// <summary>Runs the kernels of linear_recurrence.cu. Time is cut into as many chunks as fill the device together with rows and channels.</summary>
/// <param name="runtime">The device.</param>
internal sealed unsafe class RecurrenceOnCuda(CudaRuntime runtime)
{
    private const int ShortestChunk = 64;

    /// <summary>
    /// Outputs [B, T, E] in the dtype of the rows, the last state [B, E] and, where a backward pass will need them, all states [B, T, E]: the
    /// outputs themselves where these are the states in float32.
    /// </summary>
    public (Tensor Y, Tensor Final, Tensor? States) Forward(RecurrenceTensors x, RecurrenceGates gates, bool keep)
    {
        var p = Inputs(x, gates);
        var y = empty([p.Batch, p.Time, p.Channels], dtype: x.X.dtype, device: x.X.device);
        var outputsAreStates = gates != RecurrenceGates.GatedAverage && x.X.dtype == ScalarType.Float32;
        var states = outputsAreStates ? y : keep ? Floats(x, p.Batch, p.Time, p.Channels) : null;
        var final = Floats(x, p.Batch, p.Channels);
        var local = Floats(x, p.Chunks - 1, p.Batch, p.Channels);
        var totals = Floats(x, p.Chunks - 1, p.Batch, p.Channels);
        p.Y = new CudaRows(outputsAreStates ? null : y);
        (p.States, p.Last, p.Local, p.Totals) = (Address(states), Address(final), Address(local), Address(totals));
        Launch(x, gates, p, "recurrence_local", "recurrence_carry", "recurrence_output");
        TensorMemory.KeepAlive([.. x.All, y, states, final, local, totals]);
        return (y, final, keep ? states : null);
    }

    /// <summary>Gradients in the order of <see cref="RecurrenceTensors"/>, null where there is no such input.</summary>
    /// <param name="x">The inputs.</param>
    /// <param name="gates">What makes inputs and decays of them.</param>
    /// <param name="states">All states.</param>
    /// <param name="gradY">Gradient of the outputs, in their dtype, with channels next to each other.</param>
    /// <param name="gradFinal">Gradient of the last state, contiguous float32, or null.</param>
    public Tensor?[] Backward(RecurrenceTensors x, RecurrenceGates gates, Tensor states, Tensor gradY, Tensor? gradFinal)
    {
        var p = Inputs(x, gates);
        var (gradX, gradGates) = (Like(x.X)!, Like(x.Gates));
        var gradConstants = x.Constants is null ? null : Floats(x, p.Chunks * p.Batch, x.Constants.size(0), p.Channels);
        var gradInitial = x.Initial is null ? null : Floats(x, p.Batch, p.Channels);
        var local = Floats(x, p.Chunks - 1, p.Batch, p.Channels);
        var totals = Floats(x, p.Chunks - 1, p.Batch, p.Channels);
        (p.Y, p.XGradient, p.GatesGradient) = (new CudaRows(gradY), new CudaRows(gradX), Rows(gradGates));
        (p.States, p.Last, p.Local, p.Totals) = (Address(states), Address(gradFinal), Address(local), Address(totals));
        (p.ConstantsGradient, p.InitialGradient) = (Address(gradConstants), Address(gradInitial));
        Launch(x, gates, p, "recurrence_local_gradient", "recurrence_carry_gradient", "recurrence_gradient");
        TensorMemory.KeepAlive([.. x.All, states, gradY, gradFinal, gradX, gradGates, gradConstants, gradInitial, local, totals]);

        // Parts are added up in a fixed order.
        return [gradX, gradGates, gradConstants?.sum(dim: 0), gradInitial, null, null];

        static Tensor? Like(Tensor? tensor) => tensor is null ? null : empty(tensor.shape, dtype: tensor.dtype, device: tensor.device);
    }

    private void Launch(RecurrenceTensors x, RecurrenceGates gates, in RecurrenceArguments p, string local, string carry, string output)
    {
        var program = CudaProgram.Of(
            "linear_recurrence.cu", x.X.dtype, ("GATES", (long)gates), ("RECURRENCE_BYTES", sizeof(RecurrenceArguments)));
        if (p.Chunks > 1)
        {
            runtime.Launch(program, local, (p.Chunks - 1) * p.Batch * p.Channels, p);
            runtime.Launch(program, carry, p.Batch * p.Channels, p);
        }

        runtime.Launch(program, output, p.Chunks * p.Batch * p.Channels, p);
    }

    private RecurrenceArguments Inputs(RecurrenceTensors x, RecurrenceGates gates)
    {
        var shape = x.X.shape;
        var (batch, time) = (shape[0], shape[1]);
        var channels = gates == RecurrenceGates.GatedAverage ? shape[2] / 2 : shape[2];
        var wanted = Math.Clamp(runtime.FullThreads / (batch * channels), 1, Math.Max(1, time / ShortestChunk));
        var steps = (time + wanted - 1) / wanted;
        var blocks = gates == RecurrenceGates.RgLru ? x.Gates!.size(0) : 1;
        return new RecurrenceArguments
        {
            X = new CudaRows(x.X),
            Gates = Rows(x.Gates),
            Constants = Address(x.Constants),
            Initial = Address(x.Initial),
            Mask = Address(x.Mask),
            Restart = Address(x.Restart),
            BlockWidth = channels / blocks,
            BlockStride = x.Gates?.stride()[0] ?? 0,
            Batch = batch,
            Time = time,
            Channels = channels,
            ChunkSteps = steps,
            Chunks = (time + steps - 1) / steps,
        };
    }

    /// <summary>Rows, or those of the first block where they lie block by block.</summary>
    private static CudaRows Rows(Tensor? rows) => new(rows?.Dimensions == 4 ? rows.select(0, 0) : rows);

    private static nint Address(Tensor? tensor) => CudaRows.Address(tensor);

    private static Tensor Floats(RecurrenceTensors x, params long[] shape) => empty(shape, dtype: ScalarType.Float32, device: x.X.device);
}
