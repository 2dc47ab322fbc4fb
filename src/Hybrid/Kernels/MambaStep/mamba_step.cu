// One token of a Mamba layer between its projections, in place on the state: the convolution with its activation, and, once W_x has made
// dt, B and C of its output, step sizes, recurrence, skip and gate. One thread a row and channel.
// Options: STATES (N), TAPS (W), PARAMETERS (0: decay_log, skip and step_bias are elements, 1: they are float), ELEMENT, STEP_BYTES.

#if PARAMETERS == 1
typedef float parameter;
#else
typedef element parameter;
#endif

struct StepArguments
{
    element* projected;                   // [x; z]: [B, 2E]
    element* convolved;                   // x after the convolution: [B, E]
    element* parts;                       // [dt; B; C]: [B, R + 2N]
    element* convolution_weight;          // [E, W], oldest first
    element* convolution_bias;            // [E] or null
    element* step_weight;                 // W_dt [E, R]
    parameter* step_bias;                 // b_dt [E]
    parameter* decay_log;                 // A_log [E, N]
    parameter* skip;                      // D [E]
    element* window;                      // the state: the W - 1 inputs before [B, W - 1, E], oldest first, moved up by one
    float* state;                         // and h [B, E, N], advanced
    element* y;                           // [B, E]
    long long batch, channels;
    long long rank;                       // R
    int silu;                             // 1 for SiLU after the convolution, 0 for nothing
    float low, high;                      // limits of the step size
    int unused;
};

static_assert(sizeof(StepArguments) == STEP_BYTES, "StepArguments differs from its C# counterpart");

#if ELEMENT != 0
FUNCTION float load(const float* source) { return *source; }
#endif

KERNEL(mamba_convolution_step, StepArguments)
{
    const long long index = thread_index();
    if (index >= p.batch * p.channels)
    {
        return;
    }

    const long long row = index / p.channels, channel = index % p.channels;
    const element* weight = p.convolution_weight + channel * TAPS;
    element* window = p.window + row * (TAPS - 1) * p.channels + channel;
    const element newest = p.projected[row * 2 * p.channels + channel];
    float sum = load(weight + TAPS - 1) * load(&newest);
#pragma unroll
    for (int k = 0; k < TAPS - 1; ++k)
    {
        sum = fmaf(load(weight + k), load(window + k * p.channels), sum);
    }

    sum = p.convolution_bias == nullptr ? sum : sum + load(p.convolution_bias + channel);
    store(p.convolved + index, p.silu ? silu(sum) : sum);
#pragma unroll
    for (int k = 0; k < TAPS - 1; ++k)
    {
        window[k * p.channels] = k < TAPS - 2 ? window[(k + 1) * p.channels] : newest;
    }
}

KERNEL(mamba_scan_step, StepArguments)
{
    const long long index = thread_index();
    if (index >= p.batch * p.channels)
    {
        return;
    }

    const long long row = index / p.channels, channel = index % p.channels;
    const element* dt = p.parts + row * (p.rank + 2 * STATES);
    const element* in_matrix = dt + p.rank;
    const element* out_matrix = in_matrix + STATES;
    float delta = load(p.step_bias + channel);
    for (long long r = 0; r < p.rank; ++r)
    {
        delta = fmaf(load(p.step_weight + channel * p.rank + r), load(dt + r), delta);
    }

    const float step = clamp(softplus(delta), p.low, p.high), x = load(p.convolved + index), driven = step * x;
    float* state = p.state + index * STATES;
    float y = load(p.skip + channel) * x;
#pragma unroll
    for (int n = 0; n < STATES; ++n)
    {
        const float factor = expf(-step * expf(load(p.decay_log + channel * STATES + n)));
        const float h = fmaf(factor, state[n], driven * load(in_matrix + n));
        state[n] = h;
        y = fmaf(h, load(out_matrix + n), y);
    }

    store(p.y + index, y * silu(load(p.projected + (row * 2 + 1) * p.channels + channel)));
}
