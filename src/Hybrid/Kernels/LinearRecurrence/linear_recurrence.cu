// The diagonal linear recurrence h_t = exp(g_t) h_(t-1) + x_t, with its gradients.
//
// Time is cut into chunks that run side by side, one thread a row, channel and chunk:
//   recurrence_local     every chunk but the last, from a zero state, and the sum of its g;
//   recurrence_carry     from chunk to chunk, one thread a row and channel: over a chunk, a state decays by exp(that sum);
//   recurrence_output    every chunk from the state that enters it.
// Backwards, the gradient of the state takes the same way from the end to the start:
//   recurrence_local_gradient, recurrence_carry_gradient, recurrence_gradient.
// With one chunk, the first two of each are left out. The states are the outputs, so nothing else is kept. Options: ELEMENT,
// RECURRENCE_BYTES.

struct RecurrenceArguments
{
    Rows x, log_decay;                    // [B, T, E]
    float* initial;                       // state before the first step [B, E] or null
    unsigned char* mask;                  // [B, T], 0 at padding, or null
    unsigned char* restart;               // [B, T], 1 where a sequence begins, or null
    float* y;                             // all states [B, T, E]
    float* last;                          // state after the last step [B, E]; backwards its gradient or null
    float* local;                         // [chunks - 1, B, E]: after each chunk from zero, then before the next; backwards likewise from the end
    float* totals;                        // [chunks - 1, B, E]: sums of g, minus infinity where a sequence begins
    float* y_gradient;                    // backwards: [B, T, E]
    element* x_gradient;                  // [B, T, E]
    element* decay_gradient;              // [B, T, E]
    float* initial_gradient;              // [B, E] or null
    long long batch, time, channels;
    long long chunk_steps, chunks;
};

static_assert(sizeof(RecurrenceArguments) == RECURRENCE_BYTES, "RecurrenceArguments differs from its C# counterpart");

/// A row, a chunk of time and a channel.
struct Place
{
    long long row, chunk, channel, start, end;

    METHOD Place(const RecurrenceArguments& p, long long r, long long c, long long e)
        : row(r), chunk(c), channel(e), start(c * p.chunk_steps), end(start + p.chunk_steps < p.time ? start + p.chunk_steps : p.time)
    {
    }

    /// Channels run fastest, then rows, then chunks.
    static METHOD Place of_index(const RecurrenceArguments& p, long long index)
    {
        return Place(p, index / p.channels % p.batch, index / p.channels / p.batch, index % p.channels);
    }

    /// Of a value in [slots, B, E].
    METHOD long long in_slot(const RecurrenceArguments& p, long long slot) const { return (slot * p.batch + row) * p.channels + channel; }

    /// Of a value in [B, T, E].
    METHOD long long at_step(const RecurrenceArguments& p, long long t) const { return (row * p.time + t) * p.channels + channel; }
};

/// A step: padding adds nothing and keeps all, the first step of a sequence keeps nothing.
struct Step
{
    bool real, fresh;
    float input, log_decay;

    METHOD Step(const RecurrenceArguments& p, const Place& at, long long t)
        : real(p.mask == nullptr || p.mask[at.row * p.time + t] != 0), fresh(p.restart != nullptr && p.restart[at.row * p.time + t] != 0),
          input(real ? load(p.x.at(at.row, t) + at.channel) : 0.0f),
          log_decay(fresh ? -INFINITE : real ? load(p.log_decay.at(at.row, t) + at.channel) : 0.0f)
    {
    }

    METHOD float decayed(float state) const { return fresh ? 0.0f : expf(log_decay) * state; }
};

/// A state after a chunk: what it is from zero, and what is left of the state before. Nothing is left where a sequence began.
FUNCTION float carried_over(float local, float total, float before) { return total == -INFINITE ? local : fmaf(expf(total), before, local); }

KERNEL(recurrence_local, RecurrenceArguments)
{
    const long long index = thread_index();
    if (index >= p.batch * p.channels * (p.chunks - 1))
    {
        return;
    }

    const Place at = Place::of_index(p, index);
    float h = 0.0f, total = 0.0f;
    for (long long t = at.start; t < at.end; ++t)
    {
        const Step step(p, at, t);
        h = step.decayed(h) + step.input;
        total += step.log_decay;
    }

    p.local[index] = h;
    p.totals[index] = total;
}

KERNEL(recurrence_carry, RecurrenceArguments)
{
    const long long index = thread_index();
    if (index >= p.batch * p.channels)
    {
        return;
    }

    float h = p.initial == nullptr ? 0.0f : p.initial[index];
    for (long long slot = 0; slot < p.chunks - 1; ++slot)
    {
        float* local = p.local + slot * p.batch * p.channels + index;
        h = carried_over(*local, p.totals[slot * p.batch * p.channels + index], h);
        *local = h;
    }
}

KERNEL(recurrence_output, RecurrenceArguments)
{
    const long long index = thread_index();
    if (index >= p.batch * p.channels * p.chunks)
    {
        return;
    }

    const Place at = Place::of_index(p, index);
    const long long state = at.in_slot(p, 0);
    float h = at.chunk > 0 ? p.local[at.in_slot(p, at.chunk - 1)] : p.initial == nullptr ? 0.0f : p.initial[state];
    for (long long t = at.start; t < at.end; ++t)
    {
        const Step step(p, at, t);
        h = step.decayed(h) + step.input;
        p.y[at.at_step(p, t)] = h;
    }

    if (at.chunk == p.chunks - 1)
    {
        p.last[state] = h;
    }
}

/// Every chunk but the first, from the gradient zero at its end.
KERNEL(recurrence_local_gradient, RecurrenceArguments)
{
    const long long index = thread_index();
    if (index >= p.batch * p.channels * (p.chunks - 1))
    {
        return;
    }

    const Place slot = Place::of_index(p, index), at(p, slot.row, slot.chunk + 1, slot.channel);
    float gradient = 0.0f, total = 0.0f;
    for (long long t = at.end - 1; t >= at.start; --t)
    {
        const Step step(p, at, t);
        gradient = step.decayed(p.y_gradient[at.at_step(p, t)] + gradient);
        total += step.log_decay;
    }

    p.local[index] = gradient;
    p.totals[index] = total;
}

KERNEL(recurrence_carry_gradient, RecurrenceArguments)
{
    const long long index = thread_index();
    if (index >= p.batch * p.channels)
    {
        return;
    }

    float gradient = p.last == nullptr ? 0.0f : p.last[index];
    for (long long slot = p.chunks - 2; slot >= 0; --slot)
    {
        float* local = p.local + slot * p.batch * p.channels + index;
        gradient = carried_over(*local, p.totals[slot * p.batch * p.channels + index], gradient);
        *local = gradient;
    }
}

/// With dh the gradient of h_t: dx = dh, dg = dh exp(g) h_(t-1), and exp(g) dh goes on to h_(t-1).
KERNEL(recurrence_gradient, RecurrenceArguments)
{
    const long long index = thread_index();
    if (index >= p.batch * p.channels * p.chunks)
    {
        return;
    }

    const Place at = Place::of_index(p, index);
    const long long state = at.in_slot(p, 0);
    float gradient = at.chunk < p.chunks - 1 ? p.local[at.in_slot(p, at.chunk)] : p.last == nullptr ? 0.0f : p.last[state];
    for (long long t = at.end - 1; t >= at.start; --t)
    {
        const Step step(p, at, t);
        const float before = t > 0 ? p.y[at.at_step(p, t - 1)] : p.initial == nullptr ? 0.0f : p.initial[state];
        gradient += p.y_gradient[at.at_step(p, t)];
        store(p.x_gradient + at.at_step(p, t), step.real ? gradient : 0.0f);
        gradient = step.decayed(gradient);
        store(p.decay_gradient + at.at_step(p, t), step.real && !step.fresh ? gradient * before : 0.0f);
    }

    if (at.chunk == 0 && p.initial_gradient != nullptr)
    {
        p.initial_gradient[state] = gradient;
    }
}
