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

#define AHEAD 4                           // steps that are read before any is computed: one alone would leave the memory waiting
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
#define VALUES 2
#elif GATES == RG_LRU
#define CONSTANTS 3
#define VALUES 3
#define RATE 0
#define INPUT_BIAS 1
#define RECURRENT_BIAS 2
#define SMALLEST_SQUARE 1.17549435e-38f   // as in RgLru: where 1 - a^2 is exactly 0, its root has no derivative
#else
#define CONSTANTS 1
#define VALUES 3
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

    /// The step itself, or the nearest one of the chunk.
    METHOD long long step(long long t) const { return t < start ? start : t < end ? t : end - 1; }

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

// A cell is what a step makes of its values: input and log decay, and what h is multiplied by to be put out. Gradients of constants are added
// to sums.

#if GATES == NO_GATES
FUNCTION void read_values(const RecurrenceArguments& p, const Place& at, long long t, float (&values)[VALUES])
{
    values[0] = load(p.x.at(at.row, t) + at.channel);
    values[1] = load(p.gates.at(at.row, t) + at.gate);
}

struct Cell
{
    float input, log_decay;

    METHOD Cell(const Place&, const float (&values)[VALUES], bool) : input(values[0]), log_decay(values[1]) {}

    METHOD float output_factor() const { return 1.0f; }

    /// dx = dh, dg = dh exp(g) h_(t-1).
    METHOD void write_gradients(const RecurrenceArguments& p, const Place& at, long long t, const Upstream& from, float (&)[CONSTANTS + 1]) const
    {
        store(p.x_gradient.at(at.row, t) + at.channel, from.real ? from.state : 0.0f);
        store(p.gates_gradient.at(at.row, t) + at.gate, from.real ? from.state * from.decay * from.before : 0.0f);
    }
};
#elif GATES == RG_LRU
FUNCTION void read_values(const RecurrenceArguments& p, const Place& at, long long t, float (&values)[VALUES])
{
    const element* products = p.gates.at(at.row, t) + at.gate;
    values[0] = load(p.x.at(at.row, t) + at.channel);
    values[1] = load(products);
    values[2] = load(products + p.block_width);
}

struct Cell
{
    float x, input_gate, recurrent_gate, square, multiplier;
    float input, log_decay;

    METHOD Cell(const Place& at, const float (&values)[VALUES], bool fresh)
    {
        x = values[0];
        input_gate = sigmoid(values[1] + at.constants[INPUT_BIAS]);
        recurrent_gate = sigmoid(values[2] + at.constants[RECURRENT_BIAS]);
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
FUNCTION void read_values(const RecurrenceArguments& p, const Place& at, long long t, float (&values)[VALUES])
{
    const element* x = p.x.at(at.row, t) + at.channel;
    values[0] = load(x);
    values[1] = load(x + p.channels);
    values[2] = p.gates.exists() ? load(p.gates.at(at.row, t) + at.gate) : 0.0f;
}

struct Cell
{
    float value, keep, enter, gate;       // v; sigmoid(l) and 1 - sigmoid(l), each exact where it is small; sigmoid of the output's gate
    float input, log_decay;

    METHOD Cell(const Place& at, const float (&values)[VALUES], bool)
    {
        const float logit = values[2] + at.constants[0];
        value = values[0];
        gate = sigmoid(values[1]);
        keep = sigmoid(logit);
        enter = sigmoid(-logit);
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

/// What some steps read, from one on or back from it; past the end of the chunk, its last step again. Values come first, and nothing is done
/// with them yet, so that all loads are on their way together.
struct Reading
{
    float values[AHEAD][VALUES];
    unsigned char real[AHEAD], fresh[AHEAD];

    METHOD Reading(const RecurrenceArguments& p, const Place& at, long long from, int direction)
    {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
        {
            read_values(p, at, at.step(from + direction * i), values[i]);
        }

#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
        {
            const long long place = at.row * p.time + at.step(from + direction * i);
            real[i] = p.mask == nullptr ? 1 : p.mask[place];
            fresh[i] = p.restart == nullptr ? 0 : p.restart[place];
        }
    }
};

/// A step: padding adds nothing and keeps all, the first step of a sequence keeps nothing.
struct Step
{
    bool real, fresh;
    Cell cell;
    float input, log_decay, decay;

    METHOD Step(const Place& at, const Reading& read, int i)
        : real(read.real[i] != 0), fresh(read.fresh[i] != 0), cell(at, read.values[i], fresh), input(real ? cell.input : 0.0f),
          log_decay(fresh ? -INFINITE : real ? cell.log_decay : 0.0f), decay(fresh ? 0.0f : expf(log_decay))
    {
    }

    METHOD float advanced(float state) const { return (fresh ? 0.0f : decay * state) + input; }
    METHOD float passed(float gradient) const { return fresh ? 0.0f : decay * gradient; }
};

/// A state after a chunk: what it is from zero, and what is left of the state before. Nothing is left where a sequence began.
FUNCTION float carried_over(float local, float total, float before) { return total == -INFINITE ? local : fmaf(expf(total), before, local); }

FUNCTION void write_output(const RecurrenceArguments& p, const Place& at, long long t, const Cell& cell, float h)
{
    if (p.states != nullptr)
    {
        p.states[at.at_step(p, t)] = h;
    }

    if (p.y.exists())
    {
        store(p.y.at(at.row, t) + at.channel, h * cell.output_factor());
    }
}

/// Takes a state over a chunk; writes outputs only where asked to. Adds the chunk's g to total.
FUNCTION float advance_chunk(const RecurrenceArguments& p, const Place& at, float h, bool write, float& total)
{
    for (long long first = at.start; first < at.end; first += AHEAD)
    {
        const Reading read(p, at, first, 1);
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
        {
            if (first + i < at.end)
            {
                const Step step(at, read, i);
                h = step.advanced(h);
                total += step.log_decay;
                if (write)
                {
                    write_output(p, at, first + i, step.cell, h);
                }
            }
        }
    }

    return h;
}

/// Takes the gradient of the state after a chunk to that of the state before it: with dh the gradient of h_t, exp(g) dh goes on to h_(t-1). Writes
/// gradients of inputs only where asked to. Adds the chunk's g to total.
FUNCTION float return_chunk(const RecurrenceArguments& p, const Place& at, float gradient, bool write, float& total, float (&sums)[CONSTANTS + 1])
{
    for (long long last = at.end - 1; last >= at.start; last -= AHEAD)
    {
        const Reading read(p, at, last, -1);
        float upstream[AHEAD], before[AHEAD], after[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
        {
            const long long t = at.step(last - i);
            upstream[i] = load(p.y.at(at.row, t) + at.channel);
            if (write)
            {
                before[i] = t > 0 ? p.states[at.at_step(p, t - 1)] : p.initial == nullptr ? 0.0f : p.initial[at.in_slot(p, 0)];
                after[i] = p.states[at.at_step(p, t)];
            }
        }

#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
        {
            if (last - i >= at.start)
            {
                const Step step(at, read, i);
                gradient = fmaf(upstream[i], step.cell.output_factor(), gradient);
                total += step.log_decay;
                if (write)
                {
                    const Upstream from = { step.real, gradient, upstream[i] * after[i], step.decay, step.fresh ? 0.0f : before[i] };
                    step.cell.write_gradients(p, at, last - i, from, sums);
                }

                gradient = step.passed(gradient);
            }
        }
    }

    return gradient;
}

/// Hands a state from chunk to chunk, or its gradient from the last to the first.
FUNCTION void carry(const RecurrenceArguments& p, long long index, float h, bool backwards)
{
    const long long slots = p.chunks - 1, stride = p.batch * p.channels;
    for (long long first = 0; first < slots; first += AHEAD)
    {
        long long place[AHEAD];
        float local[AHEAD], total[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
        {
            const long long slot = first + i < slots ? first + i : slots - 1;
            place[i] = (backwards ? slots - 1 - slot : slot) * stride + index;
            local[i] = p.local[place[i]];
            total[i] = p.totals[place[i]];
        }

#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
        {
            if (first + i < slots)
            {
                h = carried_over(local[i], total[i], h);
                p.local[place[i]] = h;
            }
        }
    }
}

KERNEL(recurrence_local, RecurrenceArguments)
{
    const long long index = thread_index();
    if (index < p.batch * p.channels * (p.chunks - 1))
    {
        float total = 0.0f;
        p.local[index] = advance_chunk(p, Place::of_index(p, index), 0.0f, false, total);
        p.totals[index] = total;
    }
}

KERNEL(recurrence_carry, RecurrenceArguments)
{
    const long long index = thread_index();
    if (index < p.batch * p.channels)
    {
        carry(p, index, p.initial == nullptr ? 0.0f : p.initial[index], false);
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
    const float before = at.chunk > 0 ? p.local[at.in_slot(p, at.chunk - 1)] : p.initial == nullptr ? 0.0f : p.initial[state];
    float total = 0.0f;
    const float after = advance_chunk(p, at, before, true, total);
    if (at.chunk == p.chunks - 1)
    {
        p.last[state] = after;
    }
}

/// Every chunk but the first, from the gradient zero at its end.
KERNEL(recurrence_local_gradient, RecurrenceArguments)
{
    const long long index = thread_index();
    if (index < p.batch * p.channels * (p.chunks - 1))
    {
        const Place slot = Place::of_index(p, index), at(p, slot.row, slot.chunk + 1, slot.channel);
        float total = 0.0f, sums[CONSTANTS + 1] = {};
        p.local[index] = return_chunk(p, at, 0.0f, false, total, sums);
        p.totals[index] = total;
    }
}

KERNEL(recurrence_carry_gradient, RecurrenceArguments)
{
    const long long index = thread_index();
    if (index < p.batch * p.channels)
    {
        carry(p, index, p.last == nullptr ? 0.0f : p.last[index], true);
    }
}

KERNEL(recurrence_gradient, RecurrenceArguments)
{
    const long long index = thread_index();
    if (index >= p.batch * p.channels * p.chunks)
    {
        return;
    }

    const Place at = Place::of_index(p, index);
    const long long state = at.in_slot(p, 0);
    const float after = at.chunk < p.chunks - 1 ? p.local[at.in_slot(p, at.chunk)] : p.last == nullptr ? 0.0f : p.last[state];
    float total = 0.0f, sums[CONSTANTS + 1] = {};
    const float before = return_chunk(p, at, after, true, total, sums);
#pragma unroll
    for (int i = 0; i < CONSTANTS; ++i)
    {
        p.constants_gradient[((at.chunk * p.batch + at.row) * CONSTANTS + i) * p.channels + at.channel] = sums[i];
    }

    if (at.chunk == 0 && p.initial_gradient != nullptr)
    {
        p.initial_gradient[state] = before;
    }
}
