// One token of a Mamba layer between its projections, in place on the state: convolution and activation; dt, B and C as W_x of all channels;
// step sizes, recurrence, skip and gate. A block takes 128 channels of a row, adds up what these contribute to dt, B and C, and waits for
// the other blocks, so that W_x is read once and the layer is one launch. It is launched together.
// Options: STATES (N), TAPS (W), PARTS (R + 2N), PARAMETERS (0: decay_log, skip, step_bias and norms are elements, 1: they are float),
// PACKS (1: widths and addresses allow reads of 16 bytes), ELEMENT, STEP_BYTES.

#if PARAMETERS == 1
typedef float parameter;
#else
typedef element parameter;
#endif

#define RANK (PARTS - 2 * STATES)

// Threads beside each other that read a row of W_x for the block's channels, a pack each. The block reads PACK rows at once, and a thread as
// many as this before it uses them.
#define COLUMNS (BLOCK / PACK)
#define READS ((PARTS + PACK - 1) / PACK < 12 ? (PARTS + PACK - 1) / PACK : 12)

// States of a channel that are read at once.
#define TILE (STATES % 16 == 0 ? 16 : STATES % 8 == 0 ? 8 : STATES % 4 == 0 ? 4 : 1)

struct StepArguments
{
    element* projected;                   // [x; z]: [B, 2E]
    element* convolution_weight;          // [E, W], oldest first
    element* convolution_bias;            // [E] or null
    element* parts_weight;                // W_x [R + 2N, E]
    element* step_weight;                 // W_dt [E, R]
    parameter* step_bias;                 // b_dt [E]
    parameter* decay_log;                 // A_log [E, N]
    parameter* skip;                      // D [E]
    parameter* step_norm;                 // weights of the norms of dt [R], B [N] and C [N], each or null
    parameter* input_norm;
    parameter* output_norm;
    element* window;                      // the state: the W - 1 inputs before [B, W - 1, E], oldest first, moved up by one
    float* state;                         // and h [B, E, N], advanced
    float* convolved;                     // x after the convolution: [B, E]
    float* sums;                          // what each block contributes to [dt; B; C]: [B, blocks of a row, R + 2N]
    element* y;                           // [B, E]
    unsigned int* barrier;
    long long batch, channels;
    int silu;                             // 1 for SiLU after the convolution, 0 for nothing
    float low, high;                      // limits of the step size
    float norm_epsilon;                   // negative: no norms
};

static_assert(sizeof(StepArguments) == STEP_BYTES, "StepArguments differs from its C# counterpart");

#if ELEMENT != 0
FUNCTION float load(const float* source) { return *source; }
#endif

/// x of a channel after the convolution; the window moves up by one input.
FUNCTION float convolve(const StepArguments& p, long long row, long long channel)
{
    const float sum = convolve_next<TAPS>(
        p.convolution_weight + channel * TAPS, p.convolution_bias, channel, p.window + row * (TAPS - 1) * p.channels + channel, p.channels,
        p.projected[row * 2 * p.channels + channel]);
    return p.silu ? silu(sum) : sum;
}

/// Asks for what the second half of the step reads of a channel, so that it comes while blocks wait for each other.
FUNCTION void prefetch_channel(const StepArguments& p, long long row, long long channel)
{
    constexpr int LINE = 128;
    const char* step_weight = (const char*)(p.step_weight + channel * RANK);
    const char* decay = (const char*)(p.decay_log + channel * STATES);
    const char* state = (const char*)(p.state + (row * p.channels + channel) * STATES);
#pragma unroll 1
    for (int i = 0; i < RANK * (int)sizeof(element); i += LINE)
    {
        prefetch(step_weight + i);
    }

#pragma unroll 1
    for (int i = 0; i < STATES * (int)sizeof(float); i += LINE)
    {
        prefetch(decay + i * (int)sizeof(parameter) / (int)sizeof(float));
        prefetch(state + i);
    }

    prefetch(p.projected + (row * 2 + 1) * p.channels + channel);
}

/// W_x x over the block's channels, of which inputs holds x: a number a row of W_x.
FUNCTION void contribute(const StepArguments& p, long long first_channel, const float* inputs, float* sums)
{
    const int own = block_thread() / COLUMNS, column = block_thread() % COLUMNS;
    const long long channel = first_channel + column * PACK, left = p.channels - channel;
#pragma unroll 1
    for (int first = own; first < PARTS + own; first += PACK * READS)                   // the same number of times in all threads of a warp
    {
        Pack weights[READS];
#pragma unroll
        for (int i = 0; i < READS; ++i)
        {
            const int part = first + i * PACK;
            weights[i] = part < PARTS && left > 0 ? read_pack(p.parts_weight + part * p.channels + channel, left) : Pack {};
        }

#pragma unroll
        for (int i = 0; i < READS; ++i)
        {
            float sum = 0.0f;
#pragma unroll
            for (int c = 0; c < PACK; ++c)
            {
                sum = fmaf(weights[i][c], inputs[column * PACK + c], sum);
            }

#pragma unroll
            for (int mask = COLUMNS / 2; mask > 0; mask /= 2)
            {
                sum += lane_exchange(sum, mask);
            }

            if (column == 0 && first + i * PACK < PARTS)
            {
                sums[first + i * PACK] = sum;
            }
        }
    }
}

/// The RMS norm of one part of a row; all threads of the block take part.
FUNCTION void normalise(float* values, int count, const parameter* weight, float epsilon)
{
    float sum = 0.0f;
    for (int i = block_thread(); i < count; i += BLOCK)
    {
        sum = fmaf(values[i], values[i], sum);
    }

    const float inverse = 1.0f / sqrtf(block_sum(sum) / (float)count + epsilon);
    for (int i = block_thread(); i < count; i += BLOCK)
    {
        values[i] *= weight == nullptr ? inverse : inverse * load(weight + i);
    }
}

/// Reads Count numbers that lie next to each other, a pack at once where it can be.
template <typename Number, int Count>
FUNCTION void read_all(const Number* source, float (&values)[Count])
{
    constexpr int IN_PACK = 16 / (int)sizeof(Number);
#pragma unroll
    for (int i = 0; i < Count; ++i)
    {
        if constexpr (PACKS == 0 || Count % IN_PACK != 0)
        {
            values[i] = load(source + i);
        }
        else if constexpr (sizeof(Number) == sizeof(float))
        {
            values[i] = bits_to_float(((const Pack*)source)[i / IN_PACK].words[i % IN_PACK]);
        }
        else
        {
            values[i] = ((const Pack*)source)[i / IN_PACK][i % IN_PACK];
        }
    }
}

template <int Count>
FUNCTION void write_all(const float (&values)[Count], float* target)
{
#pragma unroll
    for (int i = 0; i < Count; i += 4)
    {
        if constexpr (PACKS == 0 || Count % 4 != 0)
        {
#pragma unroll
            for (int j = i; j < i + 4 && j < Count; ++j)
            {
                target[j] = values[j];
            }
        }
        else
        {
            *(Pack*)(target + i) = Pack { { float_to_bits(values[i]), float_to_bits(values[i + 1]), float_to_bits(values[i + 2]), float_to_bits(values[i + 3]) } };
        }
    }
}

/// y of a channel, from dt, B and C of its row.
FUNCTION float advance(const StepArguments& p, long long row, long long channel, const float* parts)
{
    float delta = load(p.step_bias + channel);
#pragma unroll 8
    for (int r = 0; r < RANK; r += PACK)
    {
        const Pack weights = read_pack(p.step_weight + channel * RANK + r, RANK - r);
#pragma unroll
        for (int i = 0; i < PACK; ++i)
        {
            delta = r + i < RANK ? fmaf(weights[i], parts[r + i], delta) : delta;
        }
    }

    const float step = clamp(softplus(delta), p.low, p.high), x = p.convolved[row * p.channels + channel], driven = step * x;
    const parameter* decay_log = p.decay_log + channel * STATES;
    float* state = p.state + (row * p.channels + channel) * STATES;
    float y = load(p.skip + channel) * x;
#pragma unroll 1
    for (int first = 0; first < STATES; first += TILE)
    {
        float decay[TILE], h[TILE];
        read_all(decay_log + first, decay);
        read_all(state + first, h);
#pragma unroll
        for (int i = 0; i < TILE; ++i)
        {
            h[i] = fmaf(fast_exp2(-step * LOG2_E * expf(decay[i])), h[i], driven * parts[RANK + first + i]);
            y = fmaf(h[i], parts[RANK + STATES + first + i], y);
        }

        write_all(h, state + first);
    }

    return y * silu(load(p.projected + (row * 2 + 1) * p.channels + channel));
}

KERNEL(mamba_step, StepArguments)
{
    alignas(16) SHARED float inputs[BLOCK];

    // In 32 bits, where a division is a few instructions and not a call.
    const unsigned int groups = (unsigned int)divide_up(p.channels, BLOCK), works = (unsigned int)p.batch * groups;
    for (unsigned int work = (unsigned int)block_index(); work < works; work += (unsigned int)block_count())
    {
        const long long row = work / groups, first_channel = (long long)(work % groups) * BLOCK, channel = first_channel + block_thread();
        float x = 0.0f;
        if (channel < p.channels)
        {
            prefetch_channel(p, row, channel);
            x = convolve(p, row, channel);
            p.convolved[row * p.channels + channel] = x;
        }

        block_barrier();                                    // inputs may still be read for the work before
        inputs[block_thread()] = x;
        block_barrier();
        contribute(p, first_channel, inputs, p.sums + (long long)work * PARTS);
    }

    grid_barrier(p.barrier);
    alignas(16) SHARED float parts[PARTS];
    for (unsigned int work = (unsigned int)block_index(); work < works; work += (unsigned int)block_count())
    {
        const long long row = work / groups, channel = (long long)(work % groups) * BLOCK + block_thread();
        for (int i = block_thread(); i < PARTS; i += BLOCK)
        {
            const float* sums = p.sums + row * groups * PARTS + i;
            float sum = 0.0f;
#pragma unroll 8
            for (unsigned int group = 0; group < groups; ++group)
            {
                sum += sums[group * PARTS];
            }

            parts[i] = sum;
        }

        block_barrier();
        if (p.norm_epsilon >= 0.0f)
        {
            normalise(parts, RANK, p.step_norm, p.norm_epsilon);
            normalise(parts + RANK, STATES, p.input_norm, p.norm_epsilon);
            normalise(parts + RANK + STATES, STATES, p.output_norm, p.norm_epsilon);
            block_barrier();
        }

        if (channel < p.channels)
        {
            store(p.y + row * p.channels + channel, advance(p, row, channel, parts));
        }

        block_barrier();
    }
}
