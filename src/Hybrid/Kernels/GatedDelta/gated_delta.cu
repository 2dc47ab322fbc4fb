// The gated delta rule: S' = e^g S, r = S'^T k, u = beta (v - r), S = S' + k u^T, o = scale S^T q, with its gradients. Without CORRECTED r is left
// out, u = beta v, which is the recurrence of state-space duality (k = B, q = C, beta = dt).
//
// The columns of S, one a value, do not depend on each other. So a block has a tile of them of one head and keeps it in registers for all of
// time: a warp has COLUMNS columns, its lanes the K rows, each ROWS of them: ROWS * COLUMNS floats a thread, 64 for K = 128. This takes 4 K V
// multiplications a token and head and nothing but inputs and outputs from memory; the chunked form takes 2 L (K + V) more, and writes matrices.
//   delta_output          forwards: one sum over lanes a step gives all columns of S^T k and of S^T q. Where a backward pass will come, keeps r, and
//                         S before each segment of time but the first.
// Backwards one segment after the other, from the last:
//   delta_value_gradient  from its end to its start: the gradient F of S, which needs no state: with F after a step, du = F^T k + (q . k) do,
//                         dv = beta du, and F = e^g (F + q do^T - k dv^T) before it. Gives dv, dbeta = du . (v - r) and the part of dk that F has.
//   delta_key_gradient    from its start to its end again, with S and all dv: dq = S do, the rest of dk, -S' dv, and dg.
// dg = <F, S> of what is before a step and has to be known at the same time from both passes: F is stored before every 8 steps. Between these dg
// is handed from step to step. What it changes by, r . dv + u . F^T k - S'^T q . do, is off by some rounding errors of F and S, which would
// add up over long rows in the sums over time that the gradient of A is.
// Sums over the columns of a head come in one part a tile. Options: ELEMENT, ROWS, COLUMNS (16, 8 or 4), CORRECTED, DELTA_BYTES,
// DELTA_GRADIENT_BYTES.

#define KEYS (WARP * ROWS)                    // K rounded up; rows beyond K are zero
#define WARPS (BLOCK / WARP)
#define TILE (WARPS * COLUMNS)
#define STEPS (ROWS > 4 ? WARPS : 2 * WARPS)  // that are in shared memory at a time; a thread holds as many more on their way, in registers
#define BACK_STEPS WARPS                      // the same for gradients: each warp ends one step
#define FLOW_STEPS (2 * BACK_STEPS)           // between stored F
#define NORM_EPSILON 1e-6f

#if ELEMENT != 0
FUNCTION float load(const float* source) { return *source; }
#endif

/// A tensor of four dimensions in any layout; no tensor where first is null.
template <typename T>
struct Strided
{
    T* first;
    long long stride0, stride1, stride2, stride3;

    METHOD bool exists() const { return first != nullptr; }
    METHOD T* at(long long i, long long j, long long k, long long l) const { return first + i * stride0 + j * stride1 + k * stride2 + l * stride3; }
};

/// A tensor [B, T, H] of which the heads are next to each other.
struct Gates
{
    float* first;
    long long row, step;

    METHOD float at(long long r, long long t, long long head) const { return first[r * row + t * step + head]; }
};

struct DeltaArguments
{
    Strided<element> query, key;              // [B, T, G, K]
    Strided<element> value;                   // [B, T, H, V]
    Strided<float> initial;                   // state before the first step [B, H, K, V], may be missing
    Strided<float> last;                      // state after the last step
    Gates strength, log_decay;                // beta and g; g may be missing
    unsigned char* mask;                      // [B, T], 0 at padding, or null
    unsigned char* restart;                   // [B, T], 1 where a sequence begins, or null
    float* output;                            // o [B, T, H, V]
    float* reading;                           // r [B, T, H, V], or null
    float* states;                            // states before the segments but the first [segments - 1, B, H, K, V], or null
    long long batch, time, heads;
    long long segment;                        // its steps: a multiple of 8
    long long heads_of_group;                 // that share their q and k
    long long keys, values;
    float scale;
    int normalise;                            // q and k are divided by their norm
};

/// Of a segment of L steps. The state before the first of them is the rule's initial one.
struct DeltaGradientArguments
{
    DeltaArguments rule;
    Strided<float> last;                      // gradient of the state after the segment, may be missing
    Strided<float> first;                     // gradient of the state before it
    float* output;                            // gradient of o [B, T, H, V]
    float* query;                             // gradients, in parts [tiles, B, L, H, K]
    float* key;
    float* value;                             // [B, L, H, V]
    float* strength;                          // in parts [tiles, B, L, H]
    float* log_decay;
    float* flow;                              // F before every 8 steps [L / 8, blocks, floats of a thread, threads]
    long long start, end;                     // of the segment
};

static_assert(sizeof(DeltaArguments) == DELTA_BYTES, "DeltaArguments differs from its C# counterpart");
static_assert(sizeof(DeltaGradientArguments) == DELTA_GRADIENT_BYTES, "DeltaGradientArguments differs from its C# counterpart");

/// A row, a head, a tile of its values, and of that the columns of this warp and the one that this lane holds sums of.
struct Place
{
    long long row, head, group, tile;
    int lane, warp, column;

    METHOD explicit Place(const DeltaArguments& p) : lane(lane_index()), warp(block_thread() / WARP), column(warp * COLUMNS + lane % COLUMNS)
    {
        const long long tiles = divide_up(p.values, TILE), block = block_index();
        tile = block % tiles;
        head = block / tiles % p.heads;
        row = block / tiles / p.heads;
        group = head / p.heads_of_group;
    }

    /// First value of the tile.
    METHOD long long first() const { return tile * TILE; }

    /// Values of the tile.
    METHOD int width(const DeltaArguments& p) const { return (int)(p.values - first() < TILE ? p.values - first() : TILE); }

    /// Of a value in [B, T, H].
    METHOD long long at_step(const DeltaArguments& p, long long t) const { return (row * p.time + t) * p.heads + head; }

    /// Of a value in [B, L, H], and of one in [tiles, B, L, H].
    METHOD long long in_segment(const DeltaGradientArguments& g, long long t) const
    {
        return (row * (g.end - g.start) + t - g.start) * g.rule.heads + head;
    }

    METHOD long long in_part(const DeltaGradientArguments& g, long long t) const
    {
        return tile * g.rule.batch * (g.end - g.start) * g.rule.heads + in_segment(g, t);
    }
};

// --- steps ahead -----------------------------------------------------------------------------------------------------

/// Four floats that are read from memory at once.
struct alignas(16) Four
{
    float v[4];
};

/// Vectors of some steps in shared memory.
template <int Steps, int Width>
struct Vectors
{
    Four fours[Steps][Width / 4];

    METHOD float& at(int t, int column) { return fours[t][column / 4].v[column % 4]; }
    METHOD float at(int t, int column) const { return fours[t][column / 4].v[column % 4]; }

    /// From a column on that is a multiple of four.
    METHOD Four four(int t, int column) const { return fours[t][column / 4]; }
};

/// Vectors of some steps on their way from global to shared memory: read while the steps before them run. What does not exist is zero.
template <typename T, int Steps, int Width>
struct Ahead
{
    static constexpr int Count = (Steps * Width + BLOCK - 1) / BLOCK;
    T values[Count];

    METHOD void fetch(const T* first, long long step, long long stride, long long steps, long long width)
    {
#pragma unroll
        for (int i = 0; i < Count; ++i)
        {
            const int index = block_thread() + i * BLOCK, t = index / Width, column = index % Width;
            values[i] = t < Steps && t < steps && column < width ? first[t * step + column * stride] : T(0);
        }
    }

    METHOD void put(Vectors<Steps, Width>& target, float factor = 1.0f) const
    {
#pragma unroll
        for (int i = 0; i < Count; ++i)
        {
            const int index = block_thread() + i * BLOCK;
            if (index < Steps * Width)
            {
                target.at(index / Width, index % Width) = factor * load(values + i);
            }
        }
    }
};

/// What the columns of a head share, of some steps, in shared memory.
template <int Steps>
struct Chunk
{
    Vectors<Steps, KEYS> keys, queries;
    float key_factors[Steps], query_factors[Steps];       // 1 / norm
    float overlaps[Steps];                                // q . k
    float decays[Steps], strengths[Steps];
    bool real[Steps], fresh[Steps];                       // no padding; a sequence begins

    /// Norms and overlaps, each warp some steps. A barrier before and after it.
    METHOD void prepare(const DeltaArguments& p, const Place& at)
    {
#pragma unroll 1
        for (int t = at.warp; t < Steps; t += WARPS)
        {
            float keys_squared = 0.0f, queries_squared = 0.0f, overlap = 0.0f;
#pragma unroll
            for (int i = 0; i < ROWS; ++i)
            {
                const float k = keys.at(t, i * WARP + at.lane), q = queries.at(t, i * WARP + at.lane);
                keys_squared = fmaf(k, k, keys_squared);
                queries_squared = fmaf(q, q, queries_squared);
                overlap = fmaf(q, k, overlap);
            }

            overlap = warp_sum(overlap);
            float key_factor = 1.0f, query_factor = 1.0f;
            if (p.normalise)
            {
                key_factor = 1.0f / sqrtf(warp_sum(keys_squared) + NORM_EPSILON);
                query_factor = 1.0f / sqrtf(warp_sum(queries_squared) + NORM_EPSILON);
#pragma unroll
                for (int i = 0; i < ROWS; ++i)
                {
                    keys.at(t, i * WARP + at.lane) *= key_factor;
                    queries.at(t, i * WARP + at.lane) *= query_factor;
                }
            }

            if (at.lane == 0)
            {
                key_factors[t] = key_factor;
                query_factors[t] = query_factor;
                overlaps[t] = overlap * key_factor * query_factor;
            }
        }
    }
};

/// A chunk on its way. Padding writes nothing and keeps all, the first step of a sequence keeps nothing.
template <int Steps>
struct ChunkAhead
{
    Ahead<element, Steps, KEYS> keys, queries;
    float strength, log_decay;                            // of one step a thread
    bool real, fresh;

    METHOD void fetch(const DeltaArguments& p, const Place& at, long long start)
    {
        const long long steps = p.time - start, t = start + block_thread();
        keys.fetch(p.key.at(at.row, start, at.group, 0), p.key.stride1, p.key.stride3, steps, p.keys);
        queries.fetch(p.query.at(at.row, start, at.group, 0), p.query.stride1, p.query.stride3, steps, p.keys);
        const bool exists = block_thread() < Steps && t >= 0 && t < p.time;
        strength = exists ? p.strength.at(at.row, t, at.head) : 0.0f;
        log_decay = exists && p.log_decay.first != nullptr ? p.log_decay.at(at.row, t, at.head) : 0.0f;
        real = !exists || p.mask == nullptr || p.mask[at.row * p.time + t] != 0;
        fresh = exists && p.restart != nullptr && p.restart[at.row * p.time + t] != 0;
    }

    METHOD void put(Chunk<Steps>& chunk) const
    {
        keys.put(chunk.keys);
        queries.put(chunk.queries);
        const int t = block_thread();
        if (t < Steps)
        {
            chunk.decays[t] = fresh ? 0.0f : real ? expf(log_decay) : 1.0f;
            chunk.strengths[t] = real ? strength : 0.0f;
            chunk.real[t] = real;
            chunk.fresh[t] = fresh;
        }
    }
};

/// u of some steps, each warp some. Without CORRECTED there is no r.
template <int Steps>
FUNCTION void writings(
    const Chunk<Steps>& chunk, const Place& at, const Vectors<Steps, TILE>& values, const Vectors<Steps, TILE>& readings, Vectors<Steps, TILE>& written)
{
#pragma unroll 1
    for (int t = at.warp; t < Steps; t += WARPS)
    {
        for (int column = at.lane; column < TILE; column += WARP)
        {
            written.at(t, column) = chunk.strengths[t] * (CORRECTED ? values.at(t, column) - readings.at(t, column) : values.at(t, column));
        }
    }
}

// --- the state -------------------------------------------------------------------------------------------------------

/// This lane's rows of this warp's columns, of S or of its gradient: row i * 32 + lane.
struct State
{
    float s[ROWS][COLUMNS];

    METHOD void clear()
    {
#pragma unroll
        for (int i = 0; i < ROWS; ++i)
        {
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c)
            {
                s[i][c] = 0.0f;
            }
        }
    }

    METHOD void read(const DeltaArguments& p, const Place& at, const Strided<float>& source)
    {
#pragma unroll
        for (int i = 0; i < ROWS; ++i)
        {
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c)
            {
                const long long row = i * WARP + at.lane, value = at.first() + at.warp * COLUMNS + c;
                s[i][c] = source.exists() && row < p.keys && value < p.values ? *source.at(at.row, at.head, row, value) : 0.0f;
            }
        }
    }

    METHOD void write(const DeltaArguments& p, const Place& at, const Strided<float>& target) const
    {
#pragma unroll
        for (int i = 0; i < ROWS; ++i)
        {
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c)
            {
                const long long row = i * WARP + at.lane, value = at.first() + at.warp * COLUMNS + c;
                if (row < p.keys && value < p.values)
                {
                    *target.at(at.row, at.head, row, value) = s[i][c];
                }
            }
        }
    }

    /// In a slot of its own, thread by thread.
    METHOD void write_flow(float* slot) const
    {
#pragma unroll
        for (int i = 0; i < ROWS; ++i)
        {
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c)
            {
                slot[(i * COLUMNS + c) * BLOCK + block_thread()] = s[i][c];
            }
        }
    }

    /// This thread's part of the product with what is in a slot.
    METHOD float product(const float* slot) const
    {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < ROWS; ++i)
        {
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c)
            {
                sum = fmaf(s[i][c], slot[(i * COLUMNS + c) * BLOCK + block_thread()], sum);
            }
        }

        return sum;
    }

    /// This lane's part of the product of each column with a vector of K.
    template <int First, int Count>
    METHOD void products(const float (&vector)[ROWS], float (&sums)[Count]) const
    {
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c)
        {
            float sum = 0.0f;
#pragma unroll
            for (int i = 0; i < ROWS; ++i)
            {
                sum = fmaf(s[i][c], vector[i], sum);
            }

            sums[First + c] = sum;
        }
    }
};

/// This lane's elements of a vector of K in shared memory.
template <int Steps>
FUNCTION void take(const Vectors<Steps, KEYS>& source, int t, const Place& at, float (&vector)[ROWS])
{
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
    {
        vector[i] = source.at(t, i * WARP + at.lane);
    }
}

// --- forwards --------------------------------------------------------------------------------------------------------

/// The state before a segment, counted from the second.
FUNCTION Strided<float> segment_state(const DeltaArguments& p, long long slot)
{
    const long long head = p.keys * p.values, row = p.heads * head;
    return Strided<float>{p.states + slot * p.batch * row, row, head, p.values, 1};
}

KERNEL(delta_output, DeltaArguments)
{
    SHARED Chunk<STEPS> chunk;
    SHARED Vectors<STEPS, TILE> values, written;
    const Place at(p);
    const long long first_value = at.first() + at.column;
    const int width = at.width(p);
    State state;
    state.read(p, at, p.initial);

    ChunkAhead<STEPS> ahead;
    Ahead<element, STEPS, TILE> values_ahead;
    ahead.fetch(p, at, 0);
    values_ahead.fetch(p.value.at(at.row, 0, at.head, at.first()), p.value.stride1, p.value.stride3, p.time, width);
    for (long long start = 0; start < p.time; start += STEPS)
    {
        if (p.states != nullptr && start > 0 && start % p.segment == 0)
        {
            state.write(p, at, segment_state(p, start / p.segment - 1));
        }

        const long long next = start + STEPS;
        block_barrier();
        ahead.put(chunk);
        values_ahead.put(values);
        ahead.fetch(p, at, next);
        values_ahead.fetch(p.value.at(at.row, next, at.head, at.first()), p.value.stride1, p.value.stride3, p.time - next, width);
        block_barrier();
        chunk.prepare(p, at);
        if (!CORRECTED)
        {
            writings(chunk, at, values, values, written);
        }

        block_barrier();
        const int count = (int)(p.time - start < STEPS ? p.time - start : STEPS);
#pragma unroll 1
        for (int t = 0; t < count; ++t)
        {
            if (chunk.fresh[t])
            {
                state.clear();
            }

            float k[ROWS], q[ROWS];
            take(chunk.keys, t, at, k);
            take(chunk.queries, t, at, q);

            // Of S before it decays. Lanes hold the sums of keys first, where there are any, then those of queries.
            const float decay = chunk.decays[t];
            float u, read;
            bool holds_output;
            if constexpr (CORRECTED != 0)
            {
                float sums[2 * COLUMNS];
                state.products<0>(k, sums);
                state.products<COLUMNS>(q, sums);
                read = decay * warp_sums(sums);
                const bool of_query = (at.lane & COLUMNS) != 0;
                const float own = chunk.strengths[t] * (values.at(t, at.column) - read), other = lane_exchange(own, COLUMNS);
                u = of_query ? other : own;
                holds_output = at.lane / COLUMNS == 1;
                if (at.lane < COLUMNS)
                {
                    written.at(t, at.column) = u;
                    if (p.reading != nullptr && at.column < width)
                    {
                        p.reading[at.at_step(p, start + t) * p.values + first_value] = read;
                    }
                }

                lane_barrier();
            }
            else
            {
                float sums[COLUMNS];
                state.products<0>(q, sums);
                read = decay * warp_sums(sums);
                u = written.at(t, at.column);
                holds_output = at.lane < COLUMNS;
            }

            if (holds_output && at.column < width)
            {
                p.output[at.at_step(p, start + t) * p.values + first_value] = p.scale * fmaf(chunk.overlaps[t], u, read);
            }

#pragma unroll
            for (int first = 0; first < COLUMNS; first += 4)
            {
                const Four write = written.four(t, at.warp * COLUMNS + first);
#pragma unroll
                for (int c = 0; c < 4; ++c)
                {
#pragma unroll
                    for (int i = 0; i < ROWS; ++i)
                    {
                        float& s = state.s[i][first + c];
                        s = fmaf(k[i], write.v[c], decay * s);
                    }
                }
            }
        }
    }

    state.write(p, at, p.last);
}

// --- backwards -------------------------------------------------------------------------------------------------------

/// Vectors of the tile that both passes need, on their way.
struct TileAhead
{
    Ahead<element, BACK_STEPS, TILE> values;
    Ahead<float, BACK_STEPS, TILE> readings, upstream;

    METHOD void fetch(const DeltaGradientArguments& g, const Place& at, long long start)
    {
        const DeltaArguments& p = g.rule;
        const long long steps = g.end - start, step = p.heads * p.values, place = at.at_step(p, start) * p.values + at.first();
        const int width = at.width(p);
        values.fetch(p.value.at(at.row, start, at.head, at.first()), p.value.stride1, p.value.stride3, steps, width);
        readings.fetch(p.reading + place, step, 1, CORRECTED ? steps : 0, width);
        upstream.fetch(g.output + place, step, 1, steps, width);
    }
};

/// Where F before a step is stored.
FUNCTION float* flow_slot(const DeltaGradientArguments& g, const Place& at, long long t)
{
    const long long blocks = g.rule.batch * g.rule.heads * divide_up(g.rule.values, TILE);
    return g.flow + ((t - g.start) / FLOW_STEPS * blocks + block_index()) * (ROWS * COLUMNS * BLOCK);
}

/// The sum over a tile of what stands in shared memory, in every lane.
FUNCTION float tile_sum(const float (&terms)[TILE], const Place& at)
{
    float sum = 0.0f;
    for (int column = at.lane; column < TILE; column += WARP)
    {
        sum += terms[column];
    }

    return warp_sum(sum);
}

/// The sum over warps of an element of a vector of K.
FUNCTION float sum_of_warps(const float (&sums)[WARPS][BACK_STEPS][KEYS], int t, int row)
{
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp)
    {
        sum += sums[warp][t][row];
    }

    return sum;
}

KERNEL(delta_value_gradient, DeltaGradientArguments)
{
    SHARED Chunk<BACK_STEPS> chunk;
    SHARED Vectors<BACK_STEPS, TILE> values, readings, upstream, written, passed;
    SHARED float strength_terms[BACK_STEPS][TILE], decay_terms[BACK_STEPS][TILE], key_sums[WARPS][BACK_STEPS][KEYS];
    const DeltaArguments& rule = p.rule;
    const Place at(rule);
    const int width = at.width(rule);
    State flow;
    flow.read(rule, at, p.last);

    ChunkAhead<BACK_STEPS> ahead;
    TileAhead tile_ahead;
    const long long last = (p.end - 1) / BACK_STEPS * BACK_STEPS;
    ahead.fetch(rule, at, last);
    tile_ahead.fetch(p, at, last);
    for (long long start = last; start >= p.start; start -= BACK_STEPS)
    {
        block_barrier();
        ahead.put(chunk);
        tile_ahead.values.put(values);
        tile_ahead.readings.put(readings);
        tile_ahead.upstream.put(upstream, rule.scale);
        if (start > p.start)
        {
            ahead.fetch(rule, at, start - BACK_STEPS);
            tile_ahead.fetch(p, at, start - BACK_STEPS);
        }

        block_barrier();
        chunk.prepare(rule, at);
        writings(chunk, at, values, readings, written);
        block_barrier();
        const int count = (int)(p.end - start < BACK_STEPS ? p.end - start : BACK_STEPS);
#pragma unroll 1
        for (int t = count - 1; t >= 0; --t)
        {
            float k[ROWS], q[ROWS], sums[COLUMNS], key_gradient[ROWS];
            take(chunk.keys, t, at, k);
            take(chunk.queries, t, at, q);
            flow.products<0>(k, sums);
            const float later = warp_sums(sums), gradient = fmaf(chunk.overlaps[t], upstream.at(t, at.column), later);
            const float value_gradient = chunk.strengths[t] * gradient;
            if (at.lane < COLUMNS)
            {
                const float reading = readings.at(t, at.column);
                passed.at(t, at.column) = value_gradient;
                strength_terms[t][at.column] = gradient * (CORRECTED ? values.at(t, at.column) - reading : values.at(t, at.column));
                decay_terms[t][at.column] = fmaf(written.at(t, at.column), later, CORRECTED ? reading * value_gradient : 0.0f);
                if (at.column < width)
                {
                    p.value[at.in_segment(p, start + t) * rule.values + at.first() + at.column] = value_gradient;
                }
            }

            if (CORRECTED)
            {
                lane_barrier();
            }

            const float decay = chunk.decays[t];
#pragma unroll
            for (int i = 0; i < ROWS; ++i)
            {
                key_gradient[i] = 0.0f;
            }

#pragma unroll
            for (int first = 0; first < COLUMNS; first += 4)
            {
                const int column = at.warp * COLUMNS + first;
                const Four read = upstream.four(t, column), write = written.four(t, column), correction = CORRECTED ? passed.four(t, column) : Four{};
#pragma unroll
                for (int c = 0; c < 4; ++c)
                {
#pragma unroll
                    for (int i = 0; i < ROWS; ++i)
                    {
                        float& f = flow.s[i][first + c];
                        const float after = fmaf(q[i], read.v[c], f);
                        key_gradient[i] = fmaf(after, write.v[c], key_gradient[i]);
                        f = decay * (CORRECTED ? fmaf(-k[i], correction.v[c], after) : after);
                    }
                }
            }

#pragma unroll
            for (int i = 0; i < ROWS; ++i)
            {
                key_sums[at.warp][t][i * WARP + at.lane] = key_gradient[i];
            }

            if (chunk.fresh[t])
            {
                flow.clear();
            }
        }

        if (start % FLOW_STEPS == 0)
        {
            flow.write_flow(flow_slot(p, at, start));
        }

        block_barrier();
        const int t = at.warp;
        if (t < count)
        {
            const long long part = at.in_part(p, start + t);
            const float strength = tile_sum(strength_terms[t], at), change = tile_sum(decay_terms[t], at);
            if (at.lane == 0)
            {
                p.strength[part] = chunk.real[t] ? strength : 0.0f;
                p.log_decay[part] = change;
            }

#pragma unroll
            for (int i = 0; i < ROWS; ++i)
            {
                const int row = i * WARP + at.lane;
                if (row < rule.keys)
                {
                    p.key[part * rule.keys + row] = sum_of_warps(key_sums, t, row);
                }
            }
        }
    }

    flow.write(rule, at, p.first);
}

/// From the gradient of a vector of unit length to that of the vector itself: for n = f x, dx = f (dn - n (n . dn)).
FUNCTION void store_gradient(const DeltaArguments& p, const Place& at, const float (&gradient)[ROWS], const float (&vector)[ROWS], float factor, float* target)
{
    float along = 0.0f;
    if (p.normalise)
    {
#pragma unroll
        for (int i = 0; i < ROWS; ++i)
        {
            along = fmaf(vector[i], gradient[i], along);
        }

        along = warp_sum(along);
    }

#pragma unroll
    for (int i = 0; i < ROWS; ++i)
    {
        const int row = i * WARP + at.lane;
        if (row < p.keys)
        {
            target[row] = factor * fmaf(-along, vector[i], gradient[i]);
        }
    }
}

/// Gradients of values, which a rule that does not correct does not need.
FUNCTION void fetch_passed(const DeltaGradientArguments& g, const Place& at, long long start, Ahead<float, BACK_STEPS, TILE>& passed)
{
    const DeltaArguments& p = g.rule;
    const long long place = at.in_segment(g, start) * p.values + at.first();
    passed.fetch(g.value + place, p.heads * p.values, 1, CORRECTED ? g.end - start : 0, at.width(p));
}

KERNEL(delta_key_gradient, DeltaGradientArguments)
{
    SHARED Chunk<BACK_STEPS> chunk;
    SHARED Vectors<BACK_STEPS, TILE> values, readings, upstream, written, passed;
    SHARED float query_sums[WARPS][BACK_STEPS][KEYS], key_sums[WARPS][BACK_STEPS][KEYS], changes[BACK_STEPS];
    const DeltaArguments& rule = p.rule;
    const Place at(rule);
    State state;
    state.read(rule, at, rule.initial);
    float decay_gradient = 0.0f;

    ChunkAhead<BACK_STEPS> ahead;
    TileAhead tile_ahead;
    Ahead<float, BACK_STEPS, TILE> passed_ahead;
    ahead.fetch(rule, at, p.start);
    tile_ahead.fetch(p, at, p.start);
    fetch_passed(p, at, p.start, passed_ahead);
    for (long long start = p.start; start < p.end; start += BACK_STEPS)
    {
        block_barrier();
        ahead.put(chunk);
        tile_ahead.values.put(values);
        tile_ahead.readings.put(readings);
        tile_ahead.upstream.put(upstream, rule.scale);
        passed_ahead.put(passed);
        ahead.fetch(rule, at, start + BACK_STEPS);
        tile_ahead.fetch(p, at, start + BACK_STEPS);
        fetch_passed(p, at, start + BACK_STEPS, passed_ahead);

        // What the other pass left for the step that this warp ends.
        const int count = (int)(p.end - start < BACK_STEPS ? p.end - start : BACK_STEPS), own = at.warp;
        const long long part = at.in_part(p, start + own);
        float key_gradient[ROWS], change = 0.0f;
#pragma unroll
        for (int i = 0; i < ROWS; ++i)
        {
            const int row = i * WARP + at.lane;
            key_gradient[i] = own < count && row < rule.keys ? p.key[part * rule.keys + row] : 0.0f;
        }

        change = own < count ? p.log_decay[part] : 0.0f;
        if (start % FLOW_STEPS == 0)
        {
            decay_gradient = block_sum(state.product(flow_slot(p, at, start)));
        }

        block_barrier();
        chunk.prepare(rule, at);
        writings(chunk, at, values, readings, written);
        block_barrier();
#pragma unroll 1
        for (int t = 0; t < count; ++t)
        {
            if (chunk.fresh[t])
            {
                state.clear();
            }

            float k[ROWS], of_query[ROWS], of_key[ROWS];
            take(chunk.keys, t, at, k);
#pragma unroll
            for (int i = 0; i < ROWS; ++i)
            {
                of_query[i] = of_key[i] = 0.0f;
            }

            const float decay = chunk.decays[t];
#pragma unroll
            for (int first = 0; first < COLUMNS; first += 4)
            {
                const int column = at.warp * COLUMNS + first;
                const Four read = upstream.four(t, column), write = written.four(t, column), correction = CORRECTED ? passed.four(t, column) : Four{};
#pragma unroll
                for (int c = 0; c < 4; ++c)
                {
#pragma unroll
                    for (int i = 0; i < ROWS; ++i)
                    {
                        float& s = state.s[i][first + c];
                        const float before = decay * s;
                        of_query[i] = fmaf(before, read.v[c], of_query[i]);
                        of_key[i] = CORRECTED ? fmaf(before, -correction.v[c], of_key[i]) : 0.0f;
                        s = fmaf(k[i], write.v[c], before);
                    }
                }
            }

#pragma unroll
            for (int i = 0; i < ROWS; ++i)
            {
                query_sums[at.warp][t][i * WARP + at.lane] = of_query[i];
                key_sums[at.warp][t][i * WARP + at.lane] = of_key[i];
            }
        }

        block_barrier();
        if (own < count)
        {
            float query_gradient[ROWS], q[ROWS], k[ROWS], read = 0.0f, written_read = 0.0f;
            take(chunk.queries, own, at, q);
            take(chunk.keys, own, at, k);
            for (int column = at.lane; column < TILE; column += WARP)
            {
                written_read = fmaf(written.at(own, column), upstream.at(own, column), written_read);
            }

            written_read = warp_sum(written_read);
#pragma unroll
            for (int i = 0; i < ROWS; ++i)
            {
                const int row = i * WARP + at.lane;
                const float before = sum_of_warps(query_sums, own, row);
                read = fmaf(q[i], before, read);
                query_gradient[i] = fmaf(k[i], written_read, before);
                key_gradient[i] += sum_of_warps(key_sums, own, row);
            }

            read = warp_sum(read);
            store_gradient(rule, at, query_gradient, q, chunk.query_factors[own], p.query + part * rule.keys);
            store_gradient(rule, at, key_gradient, k, chunk.key_factors[own], p.key + part * rule.keys);
            if (at.lane == 0)
            {
                changes[own] = change - read;
            }
        }

        block_barrier();
        if (block_thread() == 0)
        {
            for (int t = 0; t < count; ++t)
            {
                decay_gradient = chunk.fresh[t] ? 0.0f : decay_gradient;
                p.log_decay[at.in_part(p, start + t)] = chunk.real[t] ? decay_gradient : 0.0f;
                decay_gradient += changes[t];
            }
        }
    }
}
