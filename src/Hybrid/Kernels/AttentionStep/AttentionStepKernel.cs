using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

/// <summary>
/// A unit is some keys of one head: each key and value is read once, for all queries of all heads that share it. Scores s of a block of keys
/// join the running softmax <c>m' = max(m, max s)</c>, <c>l' = e^(m - m') l + sum e^(s - m')</c>, <c>o' = e^(m - m') o + sum e^(s - m') v</c>
/// (Milakov and Gimelshein, arXiv 1805.02867); the units of a query are joined in the same way.
/// </summary>
internal readonly unsafe struct AttentionStepKernel<TLane, TStored>(AttentionStepSizes sizes) : IPartedWork
    where TLane : struct, ILane<TLane>
    where TStored : struct, IStoredWeights
{
    // A finite stand-in for minus infinity as the first maximum, so that differences from it are never NaN.
    private const float LowestMaximum = -1e30f;

    private readonly AttentionStepSizes sizes = sizes;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public void Run(int part)
    {
        var scores = stackalloc float[AttentionStepSizes.BlockKeys];
        var end = Math.Min((part + 1) * sizes.PartUnits, sizes.Units);
        for (var unit = part * sizes.PartUnits; unit < end; unit++)
        {
            var (chunk, head, row) = (unit % sizes.Chunks, unit / sizes.Chunks % sizes.Groups, unit / sizes.Chunks / sizes.Groups);
            Mix(row, head, chunk, sizes.Mixed + ((long)unit * sizes.UnitFloats), scores, sizes.Widened + ((long)part * sizes.WidenedFloats));
        }
    }

    /// <summary>Joins the units of all queries.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public void Join()
    {
        for (var unit = 0; unit < sizes.Units; unit += sizes.Chunks)
        {
            var (head, row) = (unit / sizes.Chunks % sizes.Groups, unit / sizes.Chunks / sizes.Groups);
            for (var query = 0; query < sizes.Members * sizes.Time; query++)
            {
                var (member, time) = (query / sizes.Time, query % sizes.Time);
                var place = (((long)row * sizes.Time) + time) * sizes.Heads;
                Join(
                    sizes.Mixed + ((long)unit * sizes.UnitFloats) + (query * sizes.ResultFloats),
                    sizes.Output + ((place + (head * sizes.Members) + member) * sizes.ValueWidth));
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Mix(int row, int head, int chunk, float* results, float* scores, float* widened)
    {
        for (var query = 0; query < sizes.Members * sizes.Time; query++)
        {
            var result = results + (query * sizes.ResultFloats);
            LaneMemory.Clear(result, sizes.ResultFloats);
            result[0] = LowestMaximum;
        }

        // From the first key that the first query sees to the last key of the last query.
        var first = Math.Max(sizes.Sees(row, 0).First, (long)chunk * AttentionStepSizes.ChunkKeys);
        var end = Math.Min(sizes.Sees(row, sizes.Time - 1).End, (chunk + 1L) * AttentionStepSizes.ChunkKeys);
        for (var block = first; block < end; block += AttentionStepSizes.BlockKeys)
        {
            var count = (int)Math.Min(AttentionStepSizes.BlockKeys, end - block);
            var keys = Rows(sizes.Keys, sizes.KeyStrides, row, head, block, count, sizes.KeyWidth, widened, out var keyStride);
            var room = widened + (AttentionStepSizes.BlockKeys * sizes.KeyWidth);
            var values = Rows(sizes.Values, sizes.ValueStrides, row, head, block, count, sizes.ValueWidth, room, out var valueStride);
            for (var query = 0; query < sizes.Members * sizes.Time; query++)
            {
                var (member, time) = (query / sizes.Time, query % sizes.Time);
                var (seen, seenEnd) = sizes.Sees(row, time);
                var from = (int)Math.Max(seen - block, 0);
                var seenCount = (int)Math.Min(seenEnd - block, count) - from;
                if (seenCount > 0)
                {
                    var vector = sizes.Query + (row * sizes.QueryStrides.Row)
                        + (((head * sizes.Members) + member) * sizes.QueryStrides.Head) + (time * sizes.QueryStrides.Token);
                    var result = results + (query * sizes.ResultFloats);
                    var decay = Weights(vector, keys + (from * keyStride), keyStride, seenCount, scores, result);
                    Add(values + (from * valueStride), valueStride, seenCount, scores, decay, result + AttentionStepSizes.Statistics);
                }
            }
        }
    }

    /// <summary>Some rows of keys or values in float32: those of the cache themselves, or <paramref name="widened"/> filled from them.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static float* Rows(
        byte* cache, (long Row, long Head, long Token) strides, int row, int head, long slot, int count, int width, float* widened, out long stride)
    {
        var first = cache + (((row * strides.Row) + (head * strides.Head) + (slot * strides.Token)) * TStored.Size);
        if (typeof(TStored) == typeof(Float32Weights))
        {
            stride = strides.Token;
            return (float*)first;
        }

        for (var token = 0; token < count; token++)
        {
            var from = first + (token * strides.Token * TStored.Size);
            var to = widened + ((long)token * width);
            var i = 0;
            for (; i <= width - TLane.Count; i += TLane.Count)
            {
                TLane.Store(TStored.Load<TLane>(from, i), to + i);
            }

            for (; i < width; i++)
            {
                to[i] = TStored.Load(from, i);
            }
        }

        stride = width;
        return widened;
    }

    /// <summary>Turns the scores of a block into weights, and moves the maximum and the sum of a query. Returns what its older weights lose.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private float Weights(float* query, float* keys, long stride, int count, float* weights, float* result)
    {
        Products(query, keys, stride, count, weights);
        var lanes = TLane.Count;
        var (scale, cap, last) = (TLane.Broadcast(sizes.Scale), TLane.Broadcast(sizes.SoftCap), (count - 1) / lanes * lanes);
        var highest = TLane.Broadcast(result[0]);
        for (var i = 0; i <= last; i += lanes)
        {
            var score = TLane.Load(weights + i) * scale;
            TLane.Store(sizes.SoftCap == 0 ? score : cap * LaneMath.Tanh(score / cap), weights + i);
            if (i == last)
            {
                // The lanes beyond the last score have no weight.
                new Span<float>(weights + count, -count & (lanes - 1)).Fill(float.NegativeInfinity);
            }

            score = TLane.Load(weights + i);
            highest = TLane.WhereLess(highest, score, score, highest);
        }

        var next = Highest(highest);
        var (maximum, sum) = (TLane.Broadcast(next), TLane.Zero);
        for (var i = 0; i <= last; i += lanes)
        {
            var weight = LaneMath.Exp(TLane.Load(weights + i) - maximum);
            TLane.Store(weight, weights + i);
            sum += weight;
        }

        var decay = MathF.Exp(result[0] - next);
        (result[0], result[1]) = (next, (result[1] * decay) + TLane.Sum(sum));
        return decay;
    }

    /// <summary>The products of a query with keys, four keys at a time.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Products(float* query, float* keys, long stride, int count, float* products)
    {
        var (width, lanes) = (sizes.KeyWidth, TLane.Count);
        var key = 0;
        for (; key <= count - 4; key += 4, keys += 4 * stride)
        {
            var (a, b, c, d) = (TLane.Zero, TLane.Zero, TLane.Zero, TLane.Zero);
            var second = keys + stride;
            var third = keys + (2 * stride);
            var fourth = keys + (3 * stride);
            var i = 0;
            for (; i <= width - lanes; i += lanes)
            {
                var q = TLane.Load(query + i);
                a = TLane.MultiplyAdd(q, TLane.Load(keys + i), a);
                b = TLane.MultiplyAdd(q, TLane.Load(second + i), b);
                c = TLane.MultiplyAdd(q, TLane.Load(third + i), c);
                d = TLane.MultiplyAdd(q, TLane.Load(fourth + i), d);
            }

            TLane.StoreSums(a, b, c, d, products + key);
            for (; i < width; i++)
            {
                products[key] += query[i] * keys[i];
                products[key + 1] += query[i] * second[i];
                products[key + 2] += query[i] * third[i];
                products[key + 3] += query[i] * fourth[i];
            }
        }

        for (; key < count; key++, keys += stride)
        {
            products[key] = LinearStepKernel<TLane, Float32Weights>.Dot(query, (byte*)keys, width);
        }
    }

    /// <summary>The greatest lane; NaN ones, which were never greater, are none.</summary>
    private static float Highest(TLane value)
    {
        var lanes = stackalloc float[TLane.Count];
        TLane.Store(value, lanes);
        var highest = lanes[0];
        for (var i = 1; i < TLane.Count; i++)
        {
            highest = lanes[i] > highest ? lanes[i] : highest;
        }

        return highest;
    }

    /// <summary>o' = decay o + sum of weights times values; four registers of o, so that an addition need not wait for the one before it.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Add(float* values, long stride, int count, float* weights, float decay, float* mixed)
    {
        var (width, lanes) = (sizes.ValueWidth, TLane.Count);
        var older = TLane.Broadcast(decay);
        var i = 0;
        for (; i <= width - (4 * lanes); i += 4 * lanes)
        {
            var (a, b) = (TLane.Load(mixed + i) * older, TLane.Load(mixed + i + lanes) * older);
            var (c, d) = (TLane.Load(mixed + i + (2 * lanes)) * older, TLane.Load(mixed + i + (3 * lanes)) * older);
            var value = values;
            for (var key = 0; key < count; key++, value += stride)
            {
                var weight = TLane.Broadcast(weights[key]);
                a = TLane.MultiplyAdd(weight, TLane.Load(value + i), a);
                b = TLane.MultiplyAdd(weight, TLane.Load(value + i + lanes), b);
                c = TLane.MultiplyAdd(weight, TLane.Load(value + i + (2 * lanes)), c);
                d = TLane.MultiplyAdd(weight, TLane.Load(value + i + (3 * lanes)), d);
            }

            TLane.Store(a, mixed + i);
            TLane.Store(b, mixed + i + lanes);
            TLane.Store(c, mixed + i + (2 * lanes));
            TLane.Store(d, mixed + i + (3 * lanes));
        }

        for (; i <= width - lanes; i += lanes)
        {
            var a = TLane.Load(mixed + i) * older;
            for (var key = 0; key < count; key++)
            {
                a = TLane.MultiplyAdd(TLane.Broadcast(weights[key]), TLane.Load(values + (key * stride) + i), a);
            }

            TLane.Store(a, mixed + i);
        }

        for (; i < width; i++)
        {
            var a = mixed[i] * decay;
            for (var key = 0; key < count; key++)
            {
                a += weights[key] * values[(key * stride) + i];
            }

            mixed[i] = a;
        }
    }

    /// <summary>The mixed values of one query over all its units.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Join(float* results, float* output)
    {
        var highest = LowestMaximum;
        for (var chunk = 0; chunk < sizes.Chunks; chunk++)
        {
            highest = Math.Max(highest, results[(long)chunk * sizes.UnitFloats]);
        }

        var sum = 0f;
        LaneMemory.Clear(output, sizes.ValueWidth);
        for (var chunk = 0; chunk < sizes.Chunks; chunk++)
        {
            var result = results + ((long)chunk * sizes.UnitFloats);
            var share = MathF.Exp(result[0] - highest);
            sum += result[1] * share;
            for (var i = 0; i < sizes.ValueWidth; i++)
            {
                output[i] += result[AttentionStepSizes.Statistics + i] * share;
            }
        }

        for (var i = 0; i < sizes.ValueWidth; i++)
        {
            output[i] /= sum;
        }
    }
}
