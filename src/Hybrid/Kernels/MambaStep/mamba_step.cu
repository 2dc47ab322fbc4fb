// One token of a Mamba layer between its projections, in place on the state: convolution and activation; dt, B and C as W_x of all channels;
// step sizes, recurrence, skip and gate. A block takes 128 channels of a row, adds up what these contribute to dt, B and C, and waits for
// the other blocks, so that W_x is read once and the layer is one launch. It is launched together.
// Options: STATES (N), TAPS (W), PARTS (R + 2N), PARAMETERS (0: decay_log, skip, step_bias and norms are elements, 1: they are float),
// ELEMENT, STEP_BYTES.

#if PARAMETERS == 1
typedef float parameter;
#else
typedef element parameter;
#endif

#define RANK (PARTS - 2 * STATES)
#define WARPS (BLOCK / WARP)

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
    const element* weight = p.convolution_weight + channel * TAPS;
    element* window = p.window + row * (TAPS - 1) * p.channels + channel;
    const element newest = p.projected[row * 2 * p.channels + channel];
    float sum = load(weight + TAPS - 1) * load(&newest);
#pragma unroll
    for (int k = 0; k < TAPS - 1; ++k)
    {
        sum = fmaf(load(weight + k), load(window + k * p.channels), sum);
    }

#pragma unroll
    for (int k = 0; k < TAPS - 1; ++k)
    {
        window[k * p.channels] = k < TAPS - 2 ? window[(k + 1) * p.channels] : newest;
    }

    sum = p.convolution_bias == nullptr ? sum : sum + load(p.convolution_bias + channel);
    return p.silu ? silu(sum) : sum;
}

/// Adds up W_x x over the block's channels, 32 rows of W_x at a time, and writes the sums.
FUNCTION void contribute(const StepArguments& p, long long channel, float x, float* sums)
{
    SHARED float of_warps[WARPS][PARTS];
    block_barrier();                                        // of_warps may still be read from the work before
#pragma unroll 1
    for (int first = 0; first < PARTS; first += WARP)
    {
        float values[WARP];
#pragma unroll
        for (int i = 0; i < WARP; ++i)
        {
            values[i] = first + i < PARTS && channel < p.channels ? load(p.parts_weight + (first + i) * p.channels + channel) * x : 0.0f;
        }

        const float sum = warp_sums(values);
        if (first + lane_index() < PARTS)
        {
            of_warps[block_thread() / WARP][first + lane_index()] = sum;
        }
    }

    block_barrier();
    for (int i = block_thread(); i < PARTS; i += BLOCK)
    {
        float sum = 0.0f;
#pragma unroll
        for (int warp = 0; warp < WARPS; ++warp)
        {
            sum += of_warps[warp][i];
        }

        sums[i] = sum;
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

/// y of a channel, from dt, B and C of its row.
FUNCTION float advance(const StepArguments& p, long long row, long long channel, const float* parts)
{
    float delta = load(p.step_bias + channel);
    for (int r = 0; r < RANK; ++r)
    {
        delta = fmaf(load(p.step_weight + channel * RANK + r), parts[r], delta);
    }

    const float step = clamp(softplus(delta), p.low, p.high), x = p.convolved[row * p.channels + channel], driven = step * x;
    float* state = p.state + (row * p.channels + channel) * STATES;
    float y = load(p.skip + channel) * x;
#pragma unroll
    for (int n = 0; n < STATES; ++n)
    {
        const float factor = expf(-step * expf(load(p.decay_log + channel * STATES + n)));
        const float h = fmaf(factor, state[n], driven * parts[RANK + n]);
        state[n] = h;
        y = fmaf(h, parts[RANK + STATES + n], y);
    }

    return y * silu(load(p.projected + (row * 2 + 1) * p.channels + channel));
}

KERNEL(mamba_step, StepArguments)
{
    const long long groups = divide_up(p.channels, BLOCK);
    for (long long work = block_index(); work < p.batch * groups; work += block_count())
    {
        const long long row = work / groups, channel = work % groups * BLOCK + block_thread();
        const float x = channel < p.channels ? convolve(p, row, channel) : 0.0f;
        if (channel < p.channels)
        {
            p.convolved[row * p.channels + channel] = x;
        }

        contribute(p, channel, x, p.sums + work * PARTS);
    }

    grid_barrier(p.barrier);
    SHARED float parts[PARTS];
    for (long long work = block_index(); work < p.batch * groups; work += block_count())
    {
        const long long row = work / groups, channel = work % groups * BLOCK + block_thread();
        for (int i = block_thread(); i < PARTS; i += BLOCK)
        {
            float sum = 0.0f;
            for (long long group = 0; group < groups; ++group)
            {
                sum += p.sums[(row * groups + group) * PARTS + i];
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
