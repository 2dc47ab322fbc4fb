// The weighted mean over time of RWKV, with its gradients. Relative to the running maximum m_t = max(m_(t-1) + log d_t, k_t) of the log weights,
//   n_t = p n_(t-1) + q v_t, d_t = p d_(t-1) + q, with p = e^(m_(t-1) - m_t + log d_t) and q = e^(k_t - m_t);
//   y_t = (P n_(t-1) + Q v_t) / (P d_(t-1) + Q + e), with P = e^(m_(t-1) - top + log d_t), Q = e^(k_t + u - top), top the larger exponent,
// where in the form of RWKV-4 P has no log d_t and e is 0, and in the data-dependent form e is 1e-6 e^-top. What is put out is sigmoid(r_t) y_t
// where there is a receptance r.
//
// Time is cut into chunks that run side by side, one thread a row, channel and chunk:
//   wkv_local            every chunk but the last, from nothing, and the sum of its log d;
//   wkv_carry            from chunk to chunk, one thread a row and channel;
//   wkv_output           every chunk from the state that enters it; keeps the state before every 16 steps where a backward pass will come.
// Backwards, from the end to the start, the gradients of n and d relative to the same maxima, which are constants to them:
//   wkv_local_gradient, wkv_carry_gradient, wkv_gradient: 16 steps at a time are computed again from the state kept before them.
// With one chunk, the first two of each are left out. Options: ELEMENT, WKV_BYTES, WKV_GRADIENT_BYTES.

#define STEPS 16
#define AHEAD 4                           // steps read at once, before anything is written; divides 16
#define NO_MAXIMUM -1e38f                 // of a state that has seen nothing
#define NO_KEY -2e38f                     // of a token that is none: nothing even beside that
#define LOG_EPSILON -13.815510557964274f  // 1e-6

struct WkvArguments
{
    Rows key, value;                      // [B, T, E]
    Rows receptance;                      // r [B, T, E], or none
    float* log_decay;                     // [B, T, E], where constant [E]
    float* bonus;                         // u [E]
    float* numerator;                     // state before the first step [B, E], or null
    float* denominator;
    float* maximum;
    unsigned char* mask;                  // [B, T], 0 at padding, or null
    unsigned char* restart;               // [B, T], 1 where a sequence begins, or null
    element* y;                           // [B, T, E]
    float* last_numerator;                // state after the last step [B, E]; backwards its gradient or null
    float* last_denominator;
    float* last_maximum;
    float* local;                         // [chunks - 1, 3, B, E]: state after each chunk from nothing, then before the next chunk
    float* totals;                        // [chunks - 1, B, E]: sums of log d, minus infinity where a sequence begins
    float* kept;                          // [ceil(T / 16), 3, B, E]: states before every 16 steps, or null
    long long batch, time, channels;
    long long chunk_steps, chunks;        // chunk_steps is a multiple of 16
    int data_dependent;
    int unused;
};

struct WkvGradientArguments
{
    WkvArguments wkv;
    Rows y;                               // gradient of what was put out [B, T, E]
    float* local;                         // [chunks - 1, 2, B, E]: gradients that leave each chunk but the first at its start, then that enter the chunk before
    float* totals;                        // [chunks - 1, B, E]: what is left of a state after each chunk but the first
    element* key;                         // gradients [B, T, E]
    element* value;
    element* receptance;                  // or null
    float* log_decay;                     // [B, T, E], where constant parts to be added up [chunks, B, E]
    float* bonus;                         // parts to be added up [chunks, B, E]
    float* numerator;                     // [B, E] or null
    float* denominator;
};

static_assert(sizeof(WkvArguments) == WKV_BYTES, "WkvArguments differs from its C# counterpart");
static_assert(sizeof(WkvGradientArguments) == WKV_GRADIENT_BYTES, "WkvGradientArguments differs from its C# counterpart");

/// A row, a chunk of time and a channel.
struct Place
{
    long long row, chunk, channel, start, end;

    METHOD Place(const WkvArguments& p, long long r, long long c, long long e)
        : row(r), chunk(c), channel(e), start(c * p.chunk_steps), end(start + p.chunk_steps < p.time ? start + p.chunk_steps : p.time)
    {
    }

    /// Channels run fastest, then rows, then chunks.
    static METHOD Place of_index(const WkvArguments& p, long long index)
    {
        return Place(p, index / p.channels % p.batch, index / p.channels / p.batch, index % p.channels);
    }

    /// Of a value in [slots, parts, B, E].
    METHOD long long in_slot(const WkvArguments& p, long long slot, int parts, int part) const
    {
        return ((slot * parts + part) * p.batch + row) * p.channels + channel;
    }

    /// Of a value in [B, T, E].
    METHOD long long at_step(const WkvArguments& p, long long t) const { return (row * p.time + t) * p.channels + channel; }
};

FUNCTION float larger(float a, float b) { return a > b || a != a ? a : b; }

/// The sums n and d relative to the maximum m.
struct State
{
    float n, d, m;

    static METHOD State nothing()
    {
        State state;
        state.n = state.d = 0.0f;
        state.m = NO_MAXIMUM;
        return state;
    }

    static METHOD State initial(const WkvArguments& p, const Place& at)
    {
        State state = nothing();
        if (p.numerator != nullptr)
        {
            const long long index = at.in_slot(p, 0, 1, 0);
            state.n = p.numerator[index];
            state.d = p.denominator[index];
            state.m = p.maximum[index];
        }

        return state;
    }

    static METHOD State from_slot(const WkvArguments& p, const Place& at, const float* slots, long long slot)
    {
        State state;
        state.n = slots[at.in_slot(p, slot, 3, 0)];
        state.d = slots[at.in_slot(p, slot, 3, 1)];
        state.m = slots[at.in_slot(p, slot, 3, 2)];
        return state;
    }

    METHOD void to_slot(const WkvArguments& p, const Place& at, float* slots, long long slot) const
    {
        slots[at.in_slot(p, slot, 3, 0)] = n;
        slots[at.in_slot(p, slot, 3, 1)] = d;
        slots[at.in_slot(p, slot, 3, 2)] = m;
    }
};

/// A step: padding adds nothing and keeps all, the first step of a sequence keeps nothing.
struct Step
{
    bool real, fresh;
    float key, value, receptance, log_decay;

    METHOD Step() {}

    METHOD Step(const WkvArguments& p, const Place& at, long long t)
        : real(p.mask == nullptr || p.mask[at.row * p.time + t] != 0), fresh(p.restart != nullptr && p.restart[at.row * p.time + t] != 0),
          key(load(p.key.at(at.row, t) + at.channel)), value(load(p.value.at(at.row, t) + at.channel)),
          receptance(p.receptance.exists() ? load(p.receptance.at(at.row, t) + at.channel) : INFINITE),
          log_decay(fresh ? -INFINITE : !real ? 0.0f : p.log_decay[p.data_dependent ? at.at_step(p, t) : at.channel])
    {
    }

    METHOD float gate() const { return sigmoid(receptance); }
    METHOD float weight_key() const { return real ? key : NO_KEY; }
    METHOD float maximum_after(float before) const { return larger(before + log_decay, weight_key()); }

    /// p and q. Differences of maxima come first: where an old token holds the maximum they are exact, and make up for its rounding.
    METHOD float keep(float before, float after) const { return expf(before - after + log_decay); }
    METHOD float weight(float after) const { return expf(weight_key() - after); }

    METHOD State advance(const State& before) const
    {
        State state;
        state.m = maximum_after(before.m);
        const float p = keep(before.m, state.m), q = weight(state.m);
        state.n = fmaf(p, before.n, q * value);
        state.d = fmaf(p, before.d, q);
        return state;
    }
};

/// The mean that a step puts out, and what it is made of.
struct Mean
{
    float past, now, denominator, y;

    METHOD Mean(const WkvArguments& p, const Step& step, const State& before, float bonus)
    {
        const float passed = p.data_dependent || step.fresh ? step.log_decay : 0.0f;
        float top = larger(before.m + passed, step.key + bonus);
        top = p.data_dependent ? larger(top, LOG_EPSILON) : top;
        past = expf(before.m - top + passed);
        now = expf(step.key - top + bonus);
        denominator = fmaf(past, before.d, now) + (p.data_dependent ? expf(LOG_EPSILON - top) : 0.0f);
        y = fmaf(past, before.n, now * step.value) / denominator;
    }
};

KERNEL(wkv_local, WkvArguments)
{
    const long long index = thread_index();
    if (index >= p.batch * p.channels * (p.chunks - 1))
    {
        return;
    }

    const Place at = Place::of_index(p, index);
    State state = State::nothing();
    float total = 0.0f;
    for (long long t = at.start; t < at.end; ++t)
    {
        const Step step(p, at, t);
        state = step.advance(state);
        total += step.log_decay;
    }

    state.to_slot(p, at, p.local, at.chunk);
    p.totals[index] = total;
}

KERNEL(wkv_carry, WkvArguments)
{
    const long long index = thread_index();
    if (index >= p.batch * p.channels)
    {
        return;
    }

    const Place at = Place::of_index(p, index);
    State state = State::initial(p, at);
    for (long long slot = 0; slot < p.chunks - 1; ++slot)
    {
        const State local = State::from_slot(p, at, p.local, slot);
        const float total = p.totals[slot * p.batch * p.channels + index];
        State after;
        after.m = larger(state.m + total, local.m);
        const float kept = expf(state.m - after.m + total), added = expf(local.m - after.m);
        after.n = fmaf(kept, state.n, added * local.n);
        after.d = fmaf(kept, state.d, added * local.d);
        state = after;
        state.to_slot(p, at, p.local, slot);
    }
}

KERNEL(wkv_output, WkvArguments)
{
    const long long index = thread_index();
    if (index >= p.batch * p.channels * p.chunks)
    {
        return;
    }

    const Place at = Place::of_index(p, index);
    const float bonus = p.bonus[at.channel];
    State state = at.chunk > 0 ? State::from_slot(p, at, p.local, at.chunk - 1) : State::initial(p, at);
    for (long long first = at.start; first < at.end; first += AHEAD)
    {
        if (p.kept != nullptr && first % STEPS == 0)
        {
            state.to_slot(p, at, p.kept, first / STEPS);
        }

        Step steps[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
        {
            steps[i] = Step(p, at, first + i < at.end ? first + i : at.end - 1);
        }

#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
        {
            if (first + i < at.end)
            {
                store(p.y + at.at_step(p, first + i), Mean(p, steps[i], state, bonus).y * steps[i].gate());
                state = steps[i].advance(state);
            }
        }
    }

    if (at.chunk == p.chunks - 1)
    {
        const long long place = at.in_slot(p, 0, 1, 0);
        p.last_numerator[place] = state.n;
        p.last_denominator[place] = state.d;
        p.last_maximum[place] = state.m;
    }
}

/// The gradients of n and d.
struct Flow
{
    float n, d;
};

/// What a chunk adds to the gradients that all its steps share.
struct Shared
{
    float log_decay, bonus;
};

/// Up to 16 steps from the state kept before them, forwards and then backwards. Takes the gradients after them and gives those before; writes
/// the gradients of keys, values and decays only where asked to.
FUNCTION Flow return_stretch(const WkvGradientArguments& g, const Place& at, long long start, Flow flow, bool write, Shared& shared)
{
    const WkvArguments& p = g.wkv;
    const int count = (int)(at.end - start < STEPS ? at.end - start : STEPS);
    const float bonus = p.bonus[at.channel];
    State before[STEPS + 1];
    before[0] = State::from_slot(p, at, p.kept, start / STEPS);
    for (int i = 0; i < count; ++i)
    {
        before[i + 1] = Step(p, at, start + i).advance(before[i]);
    }

    for (int i = count - 1; i >= 0; --i)
    {
        const long long t = start + i;
        const Step step(p, at, t);
        const State& state = before[i];
        const float keep = step.keep(state.m, before[i + 1].m), weight = step.weight(before[i + 1].m);

        // Of the state: dp = n dn + d dd, dq = v dn + dd.
        float key = weight * fmaf(step.value, flow.n, flow.d), value = weight * flow.n;
        float log_decay = keep * fmaf(state.n, flow.n, state.d * flow.d);
        flow.n *= keep;
        flow.d *= keep;

        // Of the output: with a = dy / denominator, a goes to P n + Q v, and -a y to the denominator.
        const Mean mean(p, step, state, bonus);
        const float gate = step.gate(), upstream = load(g.y.at(at.row, t) + at.channel);
        const float a = upstream * gate / mean.denominator, b = -a * mean.y;
        const float now = mean.now * fmaf(a, step.value, b);
        key += now;
        value = fmaf(a, mean.now, value);
        log_decay += p.data_dependent ? mean.past * fmaf(a, state.n, b * state.d) : 0.0f;
        flow.n = fmaf(a, mean.past, flow.n);
        flow.d = fmaf(b, mean.past, flow.d);

        if (write)
        {
            log_decay = step.real && !step.fresh ? log_decay : 0.0f;
            shared.bonus += now;
            shared.log_decay += log_decay;
            store(g.key + at.at_step(p, t), key);
            store(g.value + at.at_step(p, t), value);
            if (p.receptance.exists())
            {
                store(g.receptance + at.at_step(p, t), upstream * mean.y * gate * (1.0f - gate));
            }

            if (p.data_dependent)
            {
                g.log_decay[at.at_step(p, t)] = log_decay;
            }
        }
    }

    return flow;
}

FUNCTION Flow return_chunk(const WkvGradientArguments& g, const Place& at, Flow flow, bool write, Shared& shared)
{
    for (long long start = (at.end - 1) / STEPS * STEPS; start >= at.start; start -= STEPS)
    {
        flow = return_stretch(g, at, start, flow, write, shared);
    }

    return flow;
}

/// Every chunk but the first, from gradients zero at its end.
KERNEL(wkv_local_gradient, WkvGradientArguments)
{
    const WkvArguments& w = p.wkv;
    const long long index = thread_index();
    if (index >= w.batch * w.channels * (w.chunks - 1))
    {
        return;
    }

    const Place slot = Place::of_index(w, index), at(w, slot.row, slot.chunk + 1, slot.channel);
    Shared shared = {0.0f, 0.0f};
    const Flow flow = return_chunk(p, at, Flow{0.0f, 0.0f}, false, shared);
    p.local[slot.in_slot(w, slot.chunk, 2, 0)] = flow.n;
    p.local[slot.in_slot(w, slot.chunk, 2, 1)] = flow.d;

    // What is left of a state after the chunk is the product of p over it.
    State state = State::from_slot(w, at, w.kept, at.start / STEPS);
    float left = 1.0f;
    for (long long t = at.start; t < at.end; ++t)
    {
        const Step step(w, at, t);
        const float after = step.maximum_after(state.m);
        left *= step.keep(state.m, after);
        state.m = after;
    }

    p.totals[index] = left;
}

KERNEL(wkv_carry_gradient, WkvGradientArguments)
{
    const WkvArguments& w = p.wkv;
    const long long index = thread_index();
    if (index >= w.batch * w.channels)
    {
        return;
    }

    const Place at = Place::of_index(w, index);
    Flow flow = {w.last_numerator == nullptr ? 0.0f : w.last_numerator[index], w.last_denominator == nullptr ? 0.0f : w.last_denominator[index]};
    for (long long slot = w.chunks - 2; slot >= 0; --slot)
    {
        const float left = p.totals[slot * w.batch * w.channels + index];
        float* n = p.local + at.in_slot(w, slot, 2, 0);
        float* d = p.local + at.in_slot(w, slot, 2, 1);
        flow.n = fmaf(left, flow.n, *n);
        flow.d = fmaf(left, flow.d, *d);
        *n = flow.n;
        *d = flow.d;
    }
}

KERNEL(wkv_gradient, WkvGradientArguments)
{
    const WkvArguments& w = p.wkv;
    const long long index = thread_index();
    if (index >= w.batch * w.channels * w.chunks)
    {
        return;
    }

    const Place at = Place::of_index(w, index);
    const long long place = at.in_slot(w, 0, 1, 0);
    Flow flow = {0.0f, 0.0f};
    if (at.chunk < w.chunks - 1)
    {
        flow = Flow{p.local[at.in_slot(w, at.chunk, 2, 0)], p.local[at.in_slot(w, at.chunk, 2, 1)]};
    }
    else if (w.last_numerator != nullptr)
    {
        flow = Flow{w.last_numerator[place], w.last_denominator[place]};
    }

    Shared shared = {0.0f, 0.0f};
    flow = return_chunk(p, at, flow, true, shared);
    p.bonus[index] = shared.bonus;
    if (!w.data_dependent)
    {
        p.log_decay[index] = shared.log_decay;
    }

    if (at.chunk == 0 && p.numerator != nullptr)
    {
        p.numerator[place] = flow.n;
        p.denominator[place] = flow.d;
    }
}
