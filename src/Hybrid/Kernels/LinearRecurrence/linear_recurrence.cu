// The diagonal linear recurrence h_t = exp(g_t) h_(t-1) + x_t, with its gradients, and what is made of it with gates (option GATES):
//   NO_GATES       x and g are the inputs, h the output;
//   RG_LRU         g = r rate and x = sqrt(1 - exp(2 g)) i input, with the gates i and r the sigmoids of a product and a bias; at the
//                  first step of a sequence, x = i input;
//   GATED_AVERAGE  exp(g) = sigmoid(l) and x = (1 - sigmoid(l)) v, l a logit of the step and one of the channel; the output is h sigmoid(gate).
//
// Time is cut into chunks that run side by side, one thread a row, channel and chunk:
//   recurrence_local     every chunk but the last, from a zero state, and the sum of its g;
//   recurrence_carry     from chunk to chunk, one thread a row and channel: over a chunk, a state decays by exp(that sum);
//   recurrence_output    every chunk from the state that enters it.
// Backwards, the gradient of the state takes the same way from the end to the start:
//   recurrence_local_gradient, recurrence_carry_gradient, recurrence_gradient.
// With one chunk, the first two of each are left out. The backward pass needs the inputs, from which gates are computed again, and the states.
// Options: ELEMENT, GATES, RECURRENCE_BYTES.

#define NO_GATES 0
#define RG_LRU 1
#define GATED_AVERAGE 2

struct RecurrenceArguments
{
    Rows x;                               // [B, T, E]; GATED_AVERAGE: v and behind it the gate of the output [B, T, 2E]
    Rows gates;                           // g [B, T, E]; RG_LRU: products of i and of r, block by block; GATED_AVERAGE: l [B, T, E] or none
    Rows y;                               // outputs [B, T, E], none where the states are the outputs; backwards their gradients
    Rows x_gradient, gates_gradient;      // of the shapes of x and gates
    float* constants;                     // RG_LRU: rate, bias of i, bias of r [3, E]; GATED_AVERAGE: the channels' part of l [1, E]
    float* initial;                       // state before the first step [B, E] or null
    unsigned char* mask;                  // [B, T], 0 at padding, or null
    unsigned char* restart;               // [B, T], 1 where a sequence begins, or null
    float* states;                        // all states [B, T, E], or null where nobody needs them
    float* last;                          // state after the last step [B, E]; backwards its gradient or null
    float* local;                         // [chunks - 1, B, E]: after each chunk from zero, then before the next; backwards likewise from the end
    float* totals;                        // [chunks - 1, B, E]: sums of g, minus infinity where a sequence begins
    float* constants_gradient;            // parts to be added up: [chunks, B, CONSTANTS, E]
    float* initial_gradient;              // [B, E] or null
    long long block_width, block_stride;  // channels of a block of gates, which lie next to each other, and from one block to the next
    long long batch, time, channels;
    long long chunk_steps, chunks;
};

static_assert(sizeof(RecurrenceArguments) == RECURRENCE_BYTES, "RecurrenceArguments differs from its C# counterpart");

#if GATES == NO_GATES
#define CONSTANTS 0
#elif GATES == RG_LRU
#define CONSTANTS 3
#define RATE 0
#define INPUT_BIAS 1
#define RECURRENT_BIAS 2
#define SMALLEST_SQUARE 1.17549435e-38f   // as in RgLru: where 1 - a^2 is exactly 0, its root has no derivative
#else
#define CONSTANTS 1
#endif

/// A row, a chunk of time and a channel, with what is constant there.
struct Place
{
    long long row, chunk, channel, start, end;
    long long gate;                       // of the channel in a row of gates
    float constants[CONSTANTS + 1];

    METHOD Place(const RecurrenceArguments& p, long long r, long long c, long long e)
        : row(r), chunk(c), channel(e), start(c * p.chunk_steps), end(start + p.chunk_steps < p.time ? start + p.chunk_steps : p.time),
          gate(e / p.block_width * p.block_stride + e % p.block_width)
    {
#pragma unroll
        for (int i = 0; i < CONSTANTS; ++i)
        {
            constants[i] = p.constants[i * p.channels + e];
        }
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

// --- gates -----------------------------------------------------------------------------------------------------------

/// What arrives at a step on the way back.
struct Upstream
{
    bool real;                            // as in Step
    float state;                          // gradient of h_t
    float output;                         // gradient of the output, times h_t
    float decay, before;                  // exp(g) and h_(t-1); where a sequence begins, both are 0
};

// A cell is what a step reads: input and log decay, and what h is multiplied by to be put out. Where gradients go to constants, they are
// added to sums.

#if GATES == NO_GATES
struct Cell
{
    float input, log_decay;

    METHOD Cell(const RecurrenceArguments& p, const Place& at, long long t, bool)
        : input(load(p.x.at(at.row, t) + at.channel)), log_decay(load(p.gates.at(at.row, t) + at.gate))
    {
    }

    METHOD float output_factor() const { return 1.0f; }

    /// dx = dh, dg = dh exp(g) h_(t-1).
    METHOD void write_gradients(const RecurrenceArguments& p, const Place& at, long long t, const Upstream& from, float (&)[CONSTANTS + 1]) const
    {
        store(p.x_gradient.at(at.row, t) + at.channel, from.real ? from.state : 0.0f);
        store(p.gates_gradient.at(at.row, t) + at.gate, from.real ? from.state * from.decay * from.before : 0.0f);
    }
};
#elif GATES == RG_LRU
struct Cell
{
    float x, input_gate, recurrent_gate, square, multiplier;
    float input, log_decay;

    METHOD Cell(const RecurrenceArguments& p, const Place& at, long long t, bool fresh)
    {
        const element* products = p.gates.at(at.row, t) + at.gate;
        x = load(p.x.at(at.row, t) + at.channel);
        input_gate = sigmoid(load(products) + at.constants[INPUT_BIAS]);
        recurrent_gate = sigmoid(load(products + p.block_width) + at.constants[RECURRENT_BIAS]);
        log_decay = recurrent_gate * at.constants[RATE];
        square = -expm1f(2.0f * log_decay);                                     // 1 - a^2, exact where a is close to 1
        multiplier = fresh ? 1.0f : sqrtf(square < SMALLEST_SQUARE ? SMALLEST_SQUARE : square);
        input = multiplier * input_gate * x;
    }

    METHOD float output_factor() const { return 1.0f; }

    /// With m the root of 1 - a^2: dm / d log a = -a^2 / m, but 0 where m is held at its floor.
    METHOD void write_gradients(const RecurrenceArguments& p, const Place& at, long long t, const Upstream& from, float (&sums)[CONSTANTS + 1]) const
    {
        element* x_gradient = p.x_gradient.at(at.row, t) + at.channel;
        element* products = p.gates_gradient.at(at.row, t) + at.gate;
        if (!from.real)
        {
            store(x_gradient, 0.0f);
            store(products, 0.0f);
            store(products + p.block_width, 0.0f);
            return;
        }

        const float slope = square < SMALLEST_SQUARE ? 0.0f : from.decay * from.decay / multiplier;
        const float driven = from.state * multiplier;
        const float input_gradient = driven * x * input_gate * (1.0f - input_gate);
        const float decay_gradient = from.state * (from.decay * from.before - input_gate * x * slope);
        const float recurrent_gradient = decay_gradient * at.constants[RATE] * recurrent_gate * (1.0f - recurrent_gate);
        store(x_gradient, driven * input_gate);
        store(products, input_gradient);
        store(products + p.block_width, recurrent_gradient);
        sums[RATE] += decay_gradient * recurrent_gate;
        sums[INPUT_BIAS] += input_gradient;
        sums[RECURRENT_BIAS] += recurrent_gradient;
    }
};
#else
struct Cell
{
    float value, keep, enter, gate;       // v; sigmoid(l) and 1 - sigmoid(l), each exact where it is small; sigmoid of the output's gate
    float input, log_decay;

    METHOD Cell(const RecurrenceArguments& p, const Place& at, long long t, bool)
    {
        const element* x = p.x.at(at.row, t) + at.channel;
        const float logit = at.constants[0] + (p.gates.exists() ? load(p.gates.at(at.row, t) + at.gate) : 0.0f);
        value = load(x);
        keep = sigmoid(logit);
        enter = sigmoid(-logit);
        gate = sigmoid(load(x + p.channels));
        input = enter * value;
        log_decay = -softplus(-logit);
    }

    METHOD float output_factor() const { return gate; }

    /// dl = dh (h_(t-1) - v) a (1 - a). The output's gate has its gradient at padding too.
    METHOD void write_gradients(const RecurrenceArguments& p, const Place& at, long long t, const Upstream& from, float (&sums)[CONSTANTS + 1]) const
    {
        const float logit_gradient = from.real ? from.state * (from.before - value) * keep * enter : 0.0f;
        element* x_gradient = p.x_gradient.at(at.row, t) + at.channel;
        store(x_gradient, from.real ? from.state * enter : 0.0f);
        store(x_gradient + p.channels, from.output * gate * (1.0f - gate));
        if (p.gates.exists())
        {
            store(p.gates_gradient.at(at.row, t) + at.gate, logit_gradient);
        }

        sums[0] += logit_gradient;
    }
};
#endif

// --- kernels ---------------------------------------------------------------------------------------------------------

/// A step: padding adds nothing and keeps all, the first step of a sequence keeps nothing.
struct Step
{
    bool real, fresh;
    Cell cell;
    float input, log_decay, decay;

    METHOD Step(const RecurrenceArguments& p, const Place& at, long long t)
        : real(p.mask == nullptr || p.mask[at.row * p.time + t] != 0), fresh(p.restart != nullptr && p.restart[at.row * p.time + t] != 0),
          cell(p, at, t, fresh), input(real ? cell.input : 0.0f), log_decay(fresh ? -INFINITE : real ? cell.log_decay : 0.0f),
          decay(fresh ? 0.0f : expf(log_decay))
    {
    }

    METHOD float advanced(float state) const { return (fresh ? 0.0f : decay * state) + input; }
    METHOD float passed(float gradient) const { return fresh ? 0.0f : decay * gradient; }
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
        h = step.advanced(h);
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
        h = step.advanced(h);
        if (p.states != nullptr)
        {
            p.states[at.at_step(p, t)] = h;
        }

        if (p.y.exists())
        {
            store(p.y.at(at.row, t) + at.channel, h * step.cell.output_factor());
        }
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
        gradient = step.passed(fmaf(load(p.y.at(at.row, t) + at.channel), step.cell.output_factor(), gradient));
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

/// Gradients of the inputs step by step; with dh the gradient of h_t, exp(g) dh goes on to h_(t-1).
KERNEL(recurrence_gradient, RecurrenceArguments)
{
    const long long index = thread_index();
    if (index >= p.batch * p.channels * p.chunks)
    {
        return;
    }

    const Place at = Place::of_index(p, index);
    const long long state = at.in_slot(p, 0);
    float sums[CONSTANTS + 1] = {};
    float gradient = at.chunk < p.chunks - 1 ? p.local[at.in_slot(p, at.chunk)] : p.last == nullptr ? 0.0f : p.last[state];
    for (long long t = at.end - 1; t >= at.start; --t)
    {
        const Step step(p, at, t);
        const float upstream = load(p.y.at(at.row, t) + at.channel);
        const float before = t > 0 ? p.states[at.at_step(p, t - 1)] : p.initial == nullptr ? 0.0f : p.initial[state];
        gradient = fmaf(upstream, step.cell.output_factor(), gradient);
        const Upstream from = { step.real, gradient, upstream * p.states[at.at_step(p, t)], step.decay, step.fresh ? 0.0f : before };
        step.cell.write_gradients(p, at, t, from, sums);
        gradient = step.passed(gradient);
    }

#pragma unroll
    for (int i = 0; i < CONSTANTS; ++i)
    {
        p.constants_gradient[((at.chunk * p.batch + at.row) * CONSTANTS + i) * p.channels + at.channel] = sums[i];
    }

    if (at.chunk == 0 && p.initial_gradient != nullptr)
    {
        p.initial_gradient[state] = gradient;
    }
}
