using Hybrid.Kernels.Cpu;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// Runs the kernels of gated_delta.cu: step by step with the state in registers, side by side over rows, heads and tiles of values. A backward
/// pass needs the inputs and what the forward pass read of its states.
/// </summary>
/// <param name="runtime">The device.</param>
/// <param name="corrects">False leaves out the correction of the delta rule: each step writes its value whatever is held for its key.</param>
internal sealed unsafe class DeltaOnCuda(CudaRuntime runtime, bool corrects = true) : IDeltaDevice
{
    /// <summary>The widest keys: with the widest tile a thread holds 128 floats of state for them.</summary>
    public const long MaxKeyWidth = 256;

    /// <summary>Threads and warps of a block and lanes of a warp: BLOCK, WARPS and WARP in gated_delta.cu.</summary>
    private const int BlockThreads = 128;
    private const int Warps = 4;
    private const int Lanes = 32;

    /// <summary>The most and the fewest columns of a warp.</summary>
    private const int MaxColumns = 16;
    private const int MinColumns = 4;

    /// <summary>Floats of state a thread up to which the forward pass has room for its sums, of which it has twice as many as the backward passes.</summary>
    private const int ForwardState = 64;

    /// <inheritdoc/>
    public ScalarType RowType(IEnumerable<Tensor> rows)
    {
        var dtypes = rows.Select(tensor => tensor.dtype).Distinct().ToArray();
        return dtypes.Length == 1 && CudaProgram.Holds(dtypes[0]) ? dtypes[0] : ScalarType.Float32;
    }

    /// <inheritdoc/>
    public (Tensor O, Tensor? Kept) Forward(DeltaTensors x, Tensor final, bool keep)
    {
        var shape = x.V.shape;
        var p = Inputs(x);
        var o = Floats(x, shape);
        var reading = keep && corrects ? Floats(x, shape) : null;
        (p.Last, p.Output, p.Reading) = (new CudaStrided(final), CudaRows.Address(o), CudaRows.Address(reading));

        // Narrow tiles where wide ones leave multiprocessors idle.
        var columns = WidestTile(p.Values);
        while (columns > MinColumns && (columns * Rows(p.Keys) > ForwardState || p.Batch * p.Heads * Tiles(p.Values, columns) < runtime.Multiprocessors))
        {
            columns /= 2;
        }

        Launch("delta_output", x, p, p, columns);
        TensorMemory.KeepAlive([.. x.All, final, o, reading]);
        return (o, reading);
    }

    /// <inheritdoc/>
    public Tensor?[] Backward(DeltaTensors x, Tensor? kept, Tensor gradO, Tensor? gradFinal)
    {
        var rule = Inputs(x);
        rule.Reading = CudaRows.Address(kept);
        var (batch, time, heads) = (rule.Batch, rule.Time, rule.Heads);

        // Wide tiles whatever the device: each has a part of the gradients of queries and keys.
        var columns = WidestTile(rule.Values);
        var tiles = Tiles(rule.Values, columns);
        var upstream = gradO.contiguous();
        var (query, key) = (Floats(x, tiles, batch, time, heads, rule.Keys), Floats(x, tiles, batch, time, heads, rule.Keys));
        var (strength, logDecay) = (Floats(x, tiles, batch, time, heads), Floats(x, tiles, batch, time, heads));
        var value = Floats(x, batch, time, heads, rule.Values);
        var initial = x.Initial is null ? null : Floats(x, x.Initial.shape);
        var p = new DeltaGradientArguments
        {
            Rule = rule,
            Last = new CudaStrided(gradFinal),
            Output = CudaRows.Address(upstream),
            Query = CudaRows.Address(query),
            Key = CudaRows.Address(key),
            Value = CudaRows.Address(value),
            Strength = CudaRows.Address(strength),
            LogDecay = CudaRows.Address(logDecay),
            Initial = new CudaStrided(initial),
        };
        Launch("delta_value_gradient", x, rule, p, columns);
        Launch("delta_key_gradient", x, rule, p, columns);
        TensorMemory.KeepAlive([.. x.All, kept, gradFinal, upstream, query, key, strength, logDecay, value, initial]);

        // Parts of tiles, and of heads that share their keys, are added up in a fixed order.
        return
        [
            Joined(query), Joined(key), value.to_type(x.V.dtype), strength.sum(dim: 0), x.G is null ? null : logDecay.sum(dim: 0), initial, null, null,
        ];

        Tensor Joined(Tensor parts) => parts.view(tiles, batch, time, heads / rule.HeadsOfGroup, rule.HeadsOfGroup, rule.Keys).sum(0L, 4L).to_type(x.Q.dtype);
    }

    private void Launch<TArguments>(string kernel, DeltaTensors x, in DeltaArguments sizes, in TArguments p, int columns)
        where TArguments : unmanaged
    {
        var program = CudaProgram.Of(
            "gated_delta.cu", x.Q.dtype, ("ROWS", Rows(sizes.Keys)), ("COLUMNS", columns), ("CORRECTED", corrects ? 1 : 0),
            ("DELTA_BYTES", sizeof(DeltaArguments)), ("DELTA_GRADIENT_BYTES", sizeof(DeltaGradientArguments)));
        runtime.Launch(program, kernel, sizes.Batch * sizes.Heads * Tiles(sizes.Values, columns) * BlockThreads, p);
    }

    private static DeltaArguments Inputs(DeltaTensors x)
    {
        var (shape, values) = (x.Q.shape, x.V.shape);
        return new DeltaArguments
        {
            Query = new CudaStrided(x.Q),
            Key = new CudaStrided(x.K),
            Value = new CudaStrided(x.V),
            Initial = new CudaStrided(x.Initial),
            Strength = new CudaRows(x.Beta),
            LogDecay = new CudaRows(x.G),
            Mask = CudaRows.Address(x.Mask),
            Restart = CudaRows.Address(x.Restart),
            Batch = shape[0],
            Time = shape[1],
            Heads = values[2],
            HeadsOfGroup = values[2] / shape[2],
            Keys = shape[3],
            Values = values[3],
            Scale = (float)x.Keys.Scale,
            Normalise = x.Keys.Normalise ? 1 : 0,
        };
    }

    /// <summary>Rows of the state that a lane holds.</summary>
    private static long Rows(long keyWidth) => (keyWidth + Lanes - 1) / Lanes;

    private static long Tiles(long valueWidth, int columns) => (valueWidth + (Warps * columns) - 1) / (Warps * columns);

    /// <summary>Columns of a warp, so that a tile has room for all values where it can, and no more.</summary>
    private static int WidestTile(long valueWidth)
    {
        var columns = MaxColumns;
        while (columns > MinColumns && Warps * columns / 2 >= valueWidth)
        {
            columns /= 2;
        }

        return columns;
    }

    private static Tensor Floats(DeltaTensors x, params long[] shape) => empty(shape, dtype: ScalarType.Float32, device: x.Q.device);
}
