// The selective scan: h_t = exp(delta_t A) h_(t-1) + delta_t u_t B_t, y_t = (C_t h_t + D u_t) SiLU(z_t), with its gradients.
//
// Time is cut into chunks that run side by side, one thread a row, channel and chunk, with the N states of that channel in registers:
//   scan_local         every chunk but the last, from a zero state, and the sum of its step sizes;
//   scan_carry         from chunk to chunk: over a chunk, a state decays by exp(A * that sum);
//   scan_output        every chunk from the state that enters it; keeps the state before every 16 steps where a backward pass will come.
// Backwards, the gradient of the state takes the same way from the end to the start:
//   scan_local_gradient, scan_carry_gradient
//   scan_gradient      every chunk from the gradient that enters it at its end, 16 steps at a time: for each state the 16 are computed again
//                      from the state kept before them, so no [B, T, E, N] is ever stored.
// With one chunk, the first two of each are left out. Options: STATES (N), ELEMENT, SCAN_BYTES, SCAN_GRADIENT_BYTES.

#define STEPS 16

/// B or C: [B, T, N], [B, T, G, N], or constant [E, N] as groups of one channel with row = step = 0. States are next to each other.
struct Matrix
{
    element* first;
    long long row;
    long long step;
    long long group;
    long long channels;                   // of a group

    /// Where step 0 of a row is for a channel.
    METHOD const element* of(long long r, long long channel) const { return first + r * row + channel / channels * group; }
};

struct ScanArguments
{
    Rows u, delta, z;                     // [B, T, E]; z may be missing
    Matrix in_matrix, out_matrix;         // B and C
    float* decay;                         // A [E, N]
    float* skip;                          // D [E] or null
    float* bias;                          // added to delta: [E] or null
    float* initial;                       // state before the first step [B, E, N] or null
    unsigned char* mask;                  // [B, T], 0 at padding, or null
    unsigned char* restart;               // [B, T], 1 where a sequence begins, or null
    element* y;                           // [B, T, E]
    float* last;                          // state after the last step [B, E, N]
    float* local;                         // [chunks - 1, B, N, E]: after each chunk from zero, then before the next chunk
    float* totals;                        // [chunks - 1, B, E]: sums of step sizes, infinite where a sequence begins
    float* kept;                          // states before every 16 steps [ceil(T / 16), B, N, E], or null
    long long batch, time, channels;
    long long chunk_steps, chunks;        // chunk_steps is a multiple of 16
    int softplus;
    float low, high;                      // limits of the step size
    int unused;
};

struct ScanGradientArguments
{
    ScanArguments scan;
    Rows y;                               // gradient of y [B, T, E]
    float* last;                          // gradient of the last state [B, E, N] or null
    float* local;                         // [chunks - 1, B, N, E]: gradient that leaves each chunk but the first at its start, then that enters the chunk before
    float* totals;                        // [chunks - 1, B, E]: step sizes of each chunk but the first
    element* u;                           // gradients [B, T, E]; of z only where there is one
    element* delta;
    element* z;
    float* decay;                         // parts to be added up: [chunks, B, N, E]
    float* in_matrix;                     // [tiles, B, N, T], where constant [chunks, B, N, E]
    float* out_matrix;
    float* skip;                          // [chunks, B, E] or null
    float* bias;                          // [chunks, B, E] or null
    float* initial;                       // [B, E, N] or null
    long long unit;                       // channels that share their B and C, and are cut into tiles of 32
    int in_constant, out_constant;
};

static_assert(sizeof(ScanArguments) == SCAN_BYTES, "ScanArguments differs from its C# counterpart");
static_assert(sizeof(ScanGradientArguments) == SCAN_GRADIENT_BYTES, "ScanGradientArguments differs from its C# counterpart");

/// A row, a chunk of time and a channel.
struct Place
{
    long long row, chunk, channel, start, end;

    METHOD Place(const ScanArguments& p, long long r, long long c, long long e)
        : row(r), chunk(c), channel(e), start(c * p.chunk_steps), end(start + p.chunk_steps < p.time ? start + p.chunk_steps : p.time)
    {
    }

    /// Channels run fastest, then rows, then chunks.
    static METHOD Place of_index(const ScanArguments& p, long long index)
    {
        return Place(p, index / p.channels % p.batch, index / p.channels / p.batch, index % p.channels);
    }

    /// Of a value in [slots, B, E].
    METHOD long long in_slot(const ScanArguments& p, long long slot) const { return (slot * p.batch + row) * p.channels + channel; }

    /// Of a state in [slots, B, N, E].
    METHOD long long in_slot(const ScanArguments& p, long long slot, int n) const
    {
        return ((slot * p.batch + row) * STATES + n) * p.channels + channel;
    }

    /// Of a state in [B, E, N].
    METHOD long long in_states(const ScanArguments& p, int n) const { return (row * p.channels + channel) * STATES + n; }
};

FUNCTION float biased_delta(const ScanArguments& p, const Place& at, long long t)
{
    const float delta = load(p.delta.at(at.row, t) + at.channel);
    return p.bias == nullptr ? delta : delta + p.bias[at.channel];
}

FUNCTION bool is_real(const ScanArguments& p, const Place& at, long long t) { return p.mask == nullptr || p.mask[at.row * p.time + t] != 0; }
FUNCTION bool restarts(const ScanArguments& p, const Place& at, long long t) { return p.restart != nullptr && p.restart[at.row * p.time + t] != 0; }

/// softplus(delta + bias) within its limits, 0 at padding.
FUNCTION float step_size(const ScanArguments& p, const Place& at, long long t)
{
    const float delta = biased_delta(p, at, t);
    return is_real(p, at, t) ? clamp(p.softplus ? softplus(delta) : delta, p.low, p.high) : 0.0f;
}

/// A state after a chunk: what it is from zero, and what is left of the state before. Nothing is left where a sequence began.
FUNCTION float carried_over(float local, float total, float decay, float before)
{
    return total == INFINITE ? local : fmaf(exp2f(total * decay), before, local);
}

FUNCTION float decay_of(const ScanArguments& p, const Place& at, int n) { return p.decay[at.channel * STATES + n] * LOG2_E; }

KERNEL(scan_local, ScanArguments)
{
    const long long index = thread_index();
    if (index >= p.batch * p.channels * (p.chunks - 1))
    {
        return;
    }

    const Place at = Place::of_index(p, index);
    float decay[STATES], h[STATES], total = 0.0f;
#pragma unroll
    for (int n = 0; n < STATES; ++n)
    {
        decay[n] = decay_of(p, at, n);
        h[n] = 0.0f;
    }

    const element* in_matrix = p.in_matrix.of(at.row, at.channel) + at.start * p.in_matrix.step;
    for (long long t = at.start; t < at.end; ++t, in_matrix += p.in_matrix.step)
    {
        const float step = step_size(p, at, t), driven = step * load(p.u.at(at.row, t) + at.channel);
        const bool fresh = restarts(p, at, t);
        total = fresh ? INFINITE : total + step;
#pragma unroll
        for (int n = 0; n < STATES; ++n)
        {
            h[n] = fmaf(fast_exp2(step * decay[n]), fresh ? 0.0f : h[n], driven * load(in_matrix + n));
        }
    }

    p.totals[at.in_slot(p, at.chunk)] = total;
#pragma unroll
    for (int n = 0; n < STATES; ++n)
    {
        p.local[at.in_slot(p, at.chunk, n)] = h[n];
    }
}

/// One thread a row, state and channel.
KERNEL(scan_carry, ScanArguments)
{
    const long long index = thread_index();
    if (index >= p.batch * STATES * p.channels)
    {
        return;
    }

    const int n = (int)(index / p.channels % STATES);
    const Place at(p, index / p.channels / STATES, 0, index % p.channels);
    const float decay = decay_of(p, at, n);
    float h = p.initial == nullptr ? 0.0f : p.initial[at.in_states(p, n)];
    for (long long slot = 0; slot < p.chunks - 1; ++slot)
    {
        float* local = p.local + at.in_slot(p, slot, n);
        h = carried_over(*local, p.totals[at.in_slot(p, slot)], decay, h);
        *local = h;
    }
}

KERNEL(scan_output, ScanArguments)
{
    const long long index = thread_index();
    if (index >= p.batch * p.channels * p.chunks)
    {
        return;
    }

    const Place at = Place::of_index(p, index);
    const float skip = p.skip == nullptr ? 0.0f : p.skip[at.channel];
    float decay[STATES], h[STATES];
#pragma unroll
    for (int n = 0; n < STATES; ++n)
    {
        decay[n] = decay_of(p, at, n);
        h[n] = at.chunk > 0 ? p.local[at.in_slot(p, at.chunk - 1, n)] : p.initial == nullptr ? 0.0f : p.initial[at.in_states(p, n)];
    }

    const element* in_matrix = p.in_matrix.of(at.row, at.channel) + at.start * p.in_matrix.step;
    const element* out_matrix = p.out_matrix.of(at.row, at.channel) + at.start * p.out_matrix.step;
    for (long long t = at.start; t < at.end; ++t, in_matrix += p.in_matrix.step, out_matrix += p.out_matrix.step)
    {
        if (p.kept != nullptr && t % STEPS == 0)
        {
#pragma unroll
            for (int n = 0; n < STATES; ++n)
            {
                p.kept[at.in_slot(p, t / STEPS, n)] = h[n];
            }
        }

        const float u = load(p.u.at(at.row, t) + at.channel), step = step_size(p, at, t), driven = step * u;
        const bool fresh = restarts(p, at, t);
        float y = 0.0f;
#pragma unroll
        for (int n = 0; n < STATES; ++n)
        {
            h[n] = fmaf(fast_exp2(step * decay[n]), fresh ? 0.0f : h[n], driven * load(in_matrix + n));
            y = fmaf(h[n], load(out_matrix + n), y);
        }

        y = p.skip == nullptr ? y : fmaf(skip, u, y);
        y = p.z.exists() ? y * silu(load(p.z.at(at.row, t) + at.channel)) : y;
        store(p.y + (at.row * p.time + t) * p.channels + at.channel, y);
    }

    if (at.chunk == p.chunks - 1)
    {
#pragma unroll
        for (int n = 0; n < STATES; ++n)
        {
            p.last[at.in_states(p, n)] = h[n];
        }
    }
}

/// The gradient of y before the gate.
FUNCTION float ungated_gradient(const ScanGradientArguments& g, const Place& at, long long t)
{
    const float gradient = load(g.y.at(at.row, t) + at.channel);
    return g.scan.z.exists() ? gradient * silu(load(g.scan.z.at(at.row, t) + at.channel)) : gradient;
}

KERNEL(scan_local_gradient, ScanGradientArguments)
{
    const ScanArguments& s = p.scan;
    const long long index = thread_index();
    if (index >= s.batch * s.channels * (s.chunks - 1))
    {
        return;
    }

    const Place slot = Place::of_index(s, index), at(s, slot.row, slot.chunk + 1, slot.channel);
    float decay[STATES], gradient[STATES], total = 0.0f;
#pragma unroll
    for (int n = 0; n < STATES; ++n)
    {
        decay[n] = decay_of(s, at, n);
        gradient[n] = 0.0f;
    }

    const element* out_matrix = s.out_matrix.of(at.row, at.channel) + (at.end - 1) * s.out_matrix.step;
    for (long long t = at.end - 1; t >= at.start; --t, out_matrix -= s.out_matrix.step)
    {
        const float step = step_size(s, at, t), upstream = ungated_gradient(p, at, t);
        const bool fresh = restarts(s, at, t);
        total = fresh ? INFINITE : total + step;
#pragma unroll
        for (int n = 0; n < STATES; ++n)
        {
            gradient[n] = fresh ? 0.0f : fast_exp2(step * decay[n]) * fmaf(upstream, load(out_matrix + n), gradient[n]);
        }
    }

    p.totals[slot.in_slot(s, slot.chunk)] = total;
#pragma unroll
    for (int n = 0; n < STATES; ++n)
    {
        p.local[slot.in_slot(s, slot.chunk, n)] = gradient[n];
    }
}

/// One thread a row, state and channel.
KERNEL(scan_carry_gradient, ScanGradientArguments)
{
    const ScanArguments& s = p.scan;
    const long long index = thread_index();
    if (index >= s.batch * STATES * s.channels)
    {
        return;
    }

    const int n = (int)(index / s.channels % STATES);
    const Place at(s, index / s.channels / STATES, 0, index % s.channels);
    const float decay = decay_of(s, at, n);
    float gradient = p.last == nullptr ? 0.0f : p.last[at.in_states(s, n)];
    for (long long slot = s.chunks - 2; slot >= 0; --slot)
    {
        float* local = p.local + at.in_slot(s, slot, n);
        gradient = carried_over(*local, p.totals[at.in_slot(s, slot)], decay, gradient);
        *local = gradient;
    }
}

/// What 16 steps of a channel need for every state, and what all states together add to their gradients.
struct Stretch
{
    long long start;
    int count;
    unsigned int fresh;                   // bit i: a sequence begins at step i
    const element* in_matrix;             // B and C at the first step
    const element* out_matrix;
    float step[STEPS], driven[STEPS], upstream[STEPS];
    float y[STEPS], step_gradient[STEPS], driven_gradient[STEPS];

    /// Steps beyond the end and channels beyond the tile are steps of size zero, which change nothing; they read what exists, so that reading
    /// takes no branches.
    METHOD Stretch(const ScanGradientArguments& g, const Place& at, long long from, bool active)
        : start(from), count((int)(at.end - from < STEPS ? at.end - from : STEPS)), fresh(0),
          in_matrix(g.scan.in_matrix.of(at.row, at.channel) + from * g.scan.in_matrix.step),
          out_matrix(g.scan.out_matrix.of(at.row, at.channel) + from * g.scan.out_matrix.step)
    {
#pragma unroll
        for (int i = 0; i < STEPS; ++i)
        {
            const long long t = start + nearest(i);
            const bool exists = active && i < count;
            const float size = step_size(g.scan, at, t), u = load(g.scan.u.at(at.row, t) + at.channel), gradient = ungated_gradient(g, at, t);
            step[i] = exists ? size : 0.0f;
            driven[i] = exists ? size * u : 0.0f;
            upstream[i] = exists ? gradient : 0.0f;
            fresh |= exists && restarts(g.scan, at, t) ? 1u << i : 0u;
            y[i] = step_gradient[i] = driven_gradient[i] = 0.0f;
        }
    }

    /// A step that exists: the i-th, or the last.
    METHOD int nearest(int i) const { return i < count ? i : count - 1; }

    METHOD float in(const ScanArguments& p, int i, int n) const
    {
        const float value = load(in_matrix + nearest(i) * p.in_matrix.step + n);
        return i < count ? value : 0.0f;
    }

    METHOD float out(const ScanArguments& p, int i, int n) const
    {
        const float value = load(out_matrix + nearest(i) * p.out_matrix.step + n);
        return i < count ? value : 0.0f;
    }
};

/// One state over a stretch, forwards and then backwards; with dh the gradient of h_t and a = exp(step A): dh += C dy,
/// d(step) += dh h_(t-1) a A, d(step u) = dh B, and dh_(t-1) = a dh. Takes the gradient after the stretch and gives that before it. The
/// first 16 of sums become the gradients of B for this channel, the others those of C.
FUNCTION float return_state(
    const ScanArguments& p, const Place& at, Stretch& x, int n, float before, float gradient, float& decay_gradient, float (&sums)[WARP])
{
    const float decay = p.decay[at.channel * STATES + n];
    float h[STEPS + 1], factor[STEPS];
    h[0] = before;
#pragma unroll
    for (int i = 0; i < STEPS; ++i)
    {
        const bool fresh = (x.fresh >> i & 1) != 0;
        factor[i] = fast_exp2(x.step[i] * (decay * LOG2_E));
        h[i + 1] = fmaf(factor[i], fresh ? 0.0f : h[i], x.driven[i] * x.in(p, i, n));
        x.y[i] = fmaf(h[i + 1], x.out(p, i, n), x.y[i]);
    }

    float decayed = 0.0f;
#pragma unroll
    for (int i = STEPS - 1; i >= 0; --i)
    {
        const bool fresh = (x.fresh >> i & 1) != 0;
        gradient = fmaf(x.upstream[i], x.out(p, i, n), gradient);
        sums[i] = gradient * x.driven[i];
        sums[STEPS + i] = x.upstream[i] * h[i + 1];
        x.driven_gradient[i] = fmaf(gradient, x.in(p, i, n), x.driven_gradient[i]);
        gradient = fresh ? 0.0f : gradient * factor[i];
        const float exponent = fresh ? 0.0f : gradient * h[i];                       // gradient of step * A
        x.step_gradient[i] = fmaf(exponent, decay, x.step_gradient[i]);
        decayed = fmaf(exponent, x.step[i], decayed);
    }

    decay_gradient += decayed;
    return gradient;
}

/// From the gradients of step and step * u to those of u, delta and z; adds to those of D and of the bias.
FUNCTION void store_inputs(const ScanGradientArguments& g, const Place& at, const Stretch& x, float& skip_gradient, float& bias_gradient)
{
    const ScanArguments& s = g.scan;
    const float skip = s.skip == nullptr ? 0.0f : s.skip[at.channel];
#pragma unroll
    for (int i = 0; i < STEPS; ++i)
    {
        const long long t = x.start + i;
        if (i < x.count)
        {
            const long long target = (at.row * s.time + t) * s.channels + at.channel;
            const float u = load(s.u.at(at.row, t) + at.channel), delta = biased_delta(s, at, t);
            const float free = s.softplus ? softplus(delta) : delta;
            const bool moves = is_real(s, at, t) && !(free < s.low) && !(free > s.high);
            const float slope = !moves ? 0.0f : s.softplus ? softplus_slope(delta) : 1.0f;
            const float delta_gradient = slope * fmaf(x.driven_gradient[i], u, x.step_gradient[i]);
            store(g.u + target, fmaf(x.driven_gradient[i], x.step[i], skip * x.upstream[i]));
            store(g.delta + target, delta_gradient);
            bias_gradient += delta_gradient;
            skip_gradient = fmaf(x.upstream[i], u, skip_gradient);
            if (s.z.exists())
            {
                const float gradient = load(g.y.at(at.row, t) + at.channel), gate = load(s.z.at(at.row, t) + at.channel);
                store(g.z + target, gradient * fmaf(skip, u, x.y[i]) * silu_slope(gate));
            }
        }
    }
}

/// One warp a row, chunk and tile of up to 32 channels that share their B and C.
KERNEL(scan_gradient, ScanGradientArguments)
{
    const ScanArguments& s = p.scan;
    const long long tiles_of_unit = divide_up(p.unit, WARP), tiles = s.channels / p.unit * tiles_of_unit;
    const long long warp = thread_index() / WARP;
    if (warp >= tiles * s.batch * s.chunks)
    {
        return;
    }

    // Lanes beyond the tile read its first channel, and take part in sums with zeros.
    const long long tile = warp % tiles, within = tile % tiles_of_unit * WARP + lane_index();
    const bool active = within < p.unit;
    const long long first = tile / tiles_of_unit * p.unit + tile % tiles_of_unit * WARP;
    const Place at(s, warp / tiles % s.batch, warp / tiles / s.batch, active ? first + lane_index() : first);

    float carried[STATES], decay_gradient[STATES], in_gradient[STATES], out_gradient[STATES], skip_gradient = 0.0f, bias_gradient = 0.0f;
#pragma unroll 1
    for (int n = 0; n < STATES; ++n)
    {
        carried[n] = at.chunk < s.chunks - 1 ? p.local[at.in_slot(s, at.chunk, n)] : p.last == nullptr ? 0.0f : p.last[at.in_states(s, n)];
        decay_gradient[n] = in_gradient[n] = out_gradient[n] = 0.0f;
    }

    const long long first_stretch = at.start / STEPS;
    for (long long stretch = divide_up(at.end, STEPS) - 1; stretch >= first_stretch; --stretch)
    {
        Stretch x(p, at, stretch * STEPS, active);
#pragma unroll 1
        for (int n = 0; n < STATES; ++n)
        {
            float sums[WARP];
            carried[n] = return_state(s, at, x, n, s.kept[at.in_slot(s, stretch, n)], carried[n], decay_gradient[n], sums);
            if (p.in_constant || p.out_constant)
            {
#pragma unroll
                for (int i = 0; i < STEPS; ++i)
                {
                    in_gradient[n] += sums[i];
                    out_gradient[n] += sums[STEPS + i];
                }
            }

            if (!p.in_constant || !p.out_constant)
            {
                // Lane i holds the sum of B's step i, lane 16 + i that of C's.
                const float sum = warp_sums(sums);
                const int i = lane_index() % STEPS;
                float* target = lane_index() < STEPS ? p.in_matrix : p.out_matrix;
                if (i < x.count && !(lane_index() < STEPS ? p.in_constant : p.out_constant))
                {
                    target[((tile * s.batch + at.row) * STATES + n) * s.time + x.start + i] = sum;
                }
            }
        }

        if (active)
        {
            store_inputs(p, at, x, skip_gradient, bias_gradient);
        }
    }

    if (!active)
    {
        return;
    }

#pragma unroll 1
    for (int n = 0; n < STATES; ++n)
    {
        p.decay[at.in_slot(s, at.chunk, n)] = decay_gradient[n];
        if (p.in_constant)
        {
            p.in_matrix[at.in_slot(s, at.chunk, n)] = in_gradient[n];
        }

        if (p.out_constant)
        {
            p.out_matrix[at.in_slot(s, at.chunk, n)] = out_gradient[n];
        }

        if (p.initial != nullptr && at.chunk == 0)
        {
            p.initial[at.in_states(s, n)] = carried[n];
        }
    }

    if (p.skip != nullptr)
    {
        p.skip[at.in_slot(s, at.chunk)] = skip_gradient;
    }

    if (p.bias != nullptr)
    {
        p.bias[at.in_slot(s, at.chunk)] = bias_gradient;
    }
}
