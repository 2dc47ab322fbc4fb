using Hybrid.Kernels.Cpu;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// Runs the kernels of gated_delta.cu: step by step with the state in registers, side by side over rows, heads and tiles of values. A backward
/// pass goes back over time segment by segment, so that what it needs at a time does not grow with the length of the row.
/// </summary>
/// <param name="runtime">The device.</param>
/// <param name="corrects">False leaves out the correction of the delta rule: each step writes its value whatever is held for its key.</param>
internal sealed unsafe class DeltaOnCuda(CudaRuntime runtime, bool corrects = true) : IDeltaDevice
{
    /// <summary>Steps of a segment.</summary>
    public const long SegmentSteps = 256;

    /// <summary>The widest keys: with the widest tile a thread holds 128 floats of state for them.</summary>
    public const long MaxKeyWidth = 256;

    /// <summary>Threads and warps of a block, lanes of a warp, and steps between stored gradients: BLOCK, WARPS, WARP and FLOW_STEPS in gated_delta.cu.</summary>
    private const int BlockThreads = 128;
    private const int Warps = 4;
    private const int Lanes = 32;
    private const int FlowSteps = 8;

    /// <summary>The most and the fewest columns of a warp.</summary>
    private const int MaxColumns = 16;
    private const int MinColumns = 4;

    /// <summary>Floats of state a thread up to which the forward pass has room for its sums, of which it has twice as many as the backward passes.</summary>
    private const int ForwardState = 64;

    /// <summary>Rows of a lane above which gradients with more than the fewest columns spill registers.</summary>
    private const int MostRowsOfWideTiles = 4;

    /// <summary>Why keys of a width are none for the kernels; empty where they fit.</summary>
    /// <param name="name">The name of the width.</param>
    /// <param name="keyWidth">The width.</param>
    public static string TooWide(string name, long keyWidth) =>
        keyWidth > MaxKeyWidth ? $"{name} is {keyWidth}, and the registers of a block hold at most {MaxKeyWidth}" : "";

    /// <inheritdoc/>
    public ScalarType RowType(IEnumerable<Tensor> rows)
    {
        var dtypes = rows.Select(tensor => tensor.dtype).Distinct().ToArray();
        return dtypes.Length == 1 && CudaProgram.Holds(dtypes[0]) ? dtypes[0] : ScalarType.Float32;
    }

    /// <inheritdoc/>
    public (Tensor O, Tensor? Kept) Forward(DeltaTensors x, Tensor final, bool keep)
    {
        var p = Inputs(x);
        var o = Floats(x, x.V.shape);
        var kept = keep ? Keep(x, p) : null;
        (p.Last, p.Output) = (new CudaStrided(final), CudaRows.Address(o));
        (p.Reading, p.States) = (CudaRows.Address(kept?.Reading), CudaRows.Address(kept?.States));

        // Narrow tiles where wide ones leave multiprocessors idle.
        var columns = WidestTile(p.Values);
        while (columns > MinColumns && (columns * Rows(p.Keys) > ForwardState || p.Batch * p.Heads * Tiles(p.Values, columns) < runtime.Multiprocessors))
        {
            columns /= 2;
        }

        Launch("delta_output", x, p, p, columns);
        TensorMemory.KeepAlive([.. x.All, final, o, kept?.All]);
        return (o, kept?.All);
    }

    /// <inheritdoc/>
    public Tensor?[] Backward(DeltaTensors x, Tensor? kept, Tensor gradO, Tensor? gradFinal)
    {
        var rule = Inputs(x);
        var (batch, time, heads) = (rule.Batch, rule.Time, rule.Heads);
        var (reading, states) = kept is null ? (null, null) : Views(kept, rule);
        rule.Reading = CudaRows.Address(reading);

        // Wide tiles whatever the device, as each has a part of the gradients of queries and keys; but a lane with many rows has registers for few columns.
        var columns = Rows(rule.Keys) > MostRowsOfWideTiles ? MinColumns : WidestTile(rule.Values);
        var (tiles, steps) = (Tiles(rule.Values, columns), Math.Min(time, SegmentSteps));
        Tensor?[] gradients =
        [
            empty_like(x.Q), empty_like(x.K), empty_like(x.V), Floats(x, batch, time, heads), x.G is null ? null : Floats(x, batch, time, heads),
            Floats(x, batch, heads, rule.Keys, rule.Values), null, null,
        ];
        Tensor[] parts =
        [
            Floats(x, tiles * batch * steps * heads * rule.Keys), Floats(x, tiles * batch * steps * heads * rule.Keys),
            Floats(x, batch * steps * heads * rule.Values), Floats(x, tiles * batch * steps * heads), Floats(x, tiles * batch * steps * heads),
        ];
        var flow = Floats(x, (steps + FlowSteps - 1) / FlowSteps * batch * heads * tiles * columns * Rows(rule.Keys) * BlockThreads);
        var upstream = gradO.contiguous();
        var first = gradients[5]!;
        for (var segment = Segments(time) - 1; segment >= 0; segment--)
        {
            var start = segment * SegmentSteps;
            var count = Math.Min(time - start, SegmentSteps);
            rule.Initial = new CudaStrided(segment > 0 ? states!.select(0, segment - 1) : x.Initial);
            var p = new DeltaGradientArguments
            {
                Rule = rule,
                Last = new CudaStrided(start + count < time ? first : gradFinal),
                First = new CudaStrided(first),
                Output = CudaRows.Address(upstream),
                Query = CudaRows.Address(parts[0]),
                Key = CudaRows.Address(parts[1]),
                Value = CudaRows.Address(parts[2]),
                Strength = CudaRows.Address(parts[3]),
                LogDecay = CudaRows.Address(parts[4]),
                Flow = CudaRows.Address(flow),
                Start = start,
                End = start + count,
            };
            Launch("delta_value_gradient", x, rule, p, columns);
            Launch("delta_key_gradient", x, rule, p, columns);

            // Parts of tiles, and of heads that share their keys, are added up in a fixed order.
            long[] groups = [heads / rule.HeadsOfGroup, rule.HeadsOfGroup];
            Fill(0, [tiles, batch, count, .. groups, rule.Keys], 0, 4);
            Fill(1, [tiles, batch, count, .. groups, rule.Keys], 0, 4);
            Fill(2, [batch, count, heads, rule.Values]);
            Fill(3, [tiles, batch, count, heads], 0);
            Fill(4, [tiles, batch, count, heads], 0);

            void Fill(int index, long[] shape, params long[] summed)
            {
                using var scope = NewDisposeScope();
                var part = parts[index].narrow(0, 0, shape.Aggregate((product, size) => product * size)).view(shape);
                gradients[index]?.narrow(1, start, count).copy_(summed.Length == 0 ? part : part.sum(summed));
            }
        }

        TensorMemory.KeepAlive([.. x.All, kept, gradFinal, upstream, flow, .. parts, .. gradients]);
        gradients[5] = x.Initial is null ? null : first;
        return gradients;
    }

    /// <summary>Room for what a backward pass needs besides the inputs: r [B, T, H, V] of a rule that corrects, and the states before the segments but the first.</summary>
    private (Tensor All, Tensor? Reading, Tensor? States)? Keep(DeltaTensors x, in DeltaArguments p)
    {
        var readings = corrects ? p.Batch * p.Time * p.Heads * p.Values : 0;
        var count = readings + ((Segments(p.Time) - 1) * p.Batch * p.Heads * p.Keys * p.Values);
        if (count == 0)
        {
            return null;
        }

        var all = Floats(x, count);
        var (reading, states) = Views(all, p);
        return (all, reading, states);
    }

    private (Tensor? Reading, Tensor? States) Views(Tensor kept, in DeltaArguments p)
    {
        var (readings, segments) = (corrects ? p.Batch * p.Time * p.Heads * p.Values : 0, Segments(p.Time));
        return (
            corrects ? kept.narrow(0, 0, readings) : null,
            segments > 1 ? kept.narrow(0, readings, kept.numel() - readings).view(segments - 1, p.Batch, p.Heads, p.Keys, p.Values) : null);
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
            Segment = SegmentSteps,
            HeadsOfGroup = values[2] / shape[2],
            Keys = shape[3],
            Values = values[3],
            Scale = (float)x.Keys.Scale,
            Normalise = x.Keys.Normalise ? 1 : 0,
        };
    }

    private static long Segments(long time) => (time + SegmentSteps - 1) / SegmentSteps;

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
