// One token of a Mamba-2 layer between its projections, in place on the state: convolution and SiLU; step sizes, recurrence and skip; gate and
// norm. Blocks wait for each other between the three, so that the layer is one launch. It is launched together.
// Options: STATES (N), TAPS (W), PARAMETERS (0: step_bias, decay_log, skip and the norm's weight are elements, 1: they are float), ELEMENT,
// STEP_BYTES.

#if PARAMETERS == 1
typedef float parameter;
#else
typedef element parameter;
#endif

// Channels of a block in the recurrence, all of one head and one group of the norm. A warp takes some of them, its lanes the states.
#define TILE 16
#define OF_WARP (TILE / (BLOCK / WARP))
#define OF_LANE ((STATES + WARP - 1) / WARP)

struct StepArguments
{
    element* projected;                   // [z; x; B; C; dt]: [B, 2E + 2GN + H]
    element* convolution_weight;          // [E + 2GN, W], oldest first
    element* convolution_bias;            // [E + 2GN] or null
    parameter* step_bias;                 // dt_bias [H]
    parameter* decay_log;                 // A_log [H]
    parameter* skip;                      // D [H]
    parameter* norm;                      // weight of the norm [E]; null where there is the gate alone
    element* window;                      // the state: the W - 1 inputs before [B, W - 1, E + 2GN], oldest first, moved up by one
    float* state;                         // and S [B, H, P, N], advanced
    float* convolved;                     // [x; B; C] after the convolution: [B, E + 2GN]
    float* mixed;                         // what the norm reads: y, gated where the gate comes first [B, E]
    float* squares;                       // sums of its squares, one a tile [B, E / TILE]
    element* y;                           // [B, E]
    unsigned int* barrier;
    int batch, heads, head_width, groups, norm_groups;
    int gate_first;                       // 1 where the gate comes before the norm
    float low, high;                      // limits of the step size
    float epsilon;
};

static_assert(sizeof(StepArguments) == STEP_BYTES, "StepArguments differs from its C# counterpart");

#if ELEMENT != 0
FUNCTION float load(const float* source) { return *source; }
#endif

FUNCTION int inner(const StepArguments& p) { return p.heads * p.head_width; }
FUNCTION int convolutions(const StepArguments& p) { return inner(p) + 2 * p.groups * STATES; }
FUNCTION const element* projected(const StepArguments& p, long long row) { return p.projected + row * (inner(p) + convolutions(p) + p.heads); }

/// Convolution and SiLU of all channels, one a thread.
FUNCTION void convolve(const StepArguments& p)
{
    const unsigned int channels = (unsigned int)convolutions(p), works = (unsigned int)p.batch * channels;
    for (unsigned int work = (unsigned int)thread_index(); work < works; work += (unsigned int)block_count() * BLOCK)
    {
        const long long row = work / channels, channel = work % channels;
        p.convolved[work] = silu(convolve_next<TAPS>(
            p.convolution_weight + channel * TAPS, p.convolution_bias, channel, p.window + row * (TAPS - 1) * channels + channel, channels,
            projected(p, row)[inner(p) + channel]));
    }
}

/// y of some channels of a head, before the gate, in all lanes; their states are read before any of them is used, and advanced.
FUNCTION void recur(const StepArguments& p, long long row, int first, float (&y)[OF_WARP])
{
    const int head = first / p.head_width, lane = lane_index();
    const float* x = p.convolved + row * convolutions(p);
    const float* in_matrix = x + inner(p) + head / (p.heads / p.groups) * STATES;
    const float* out_matrix = in_matrix + p.groups * STATES;
    float* state = p.state + (row * inner(p) + first) * STATES;
    float s[OF_WARP][OF_LANE], b[OF_LANE], c[OF_LANE];
#pragma unroll
    for (int i = 0; i < OF_LANE; ++i)
    {
        const int n = lane + i * WARP;
#pragma unroll
        for (int channel = 0; channel < OF_WARP; ++channel)
        {
            s[channel][i] = n < STATES ? state[channel * STATES + n] : 0.0f;
        }

        b[i] = n < STATES ? in_matrix[n] : 0.0f;
        c[i] = n < STATES ? out_matrix[n] : 0.0f;
    }

    const float delta = load(projected(p, row) + inner(p) + convolutions(p) + head) + load(p.step_bias + head);
    const float step = clamp(softplus(delta), p.low, p.high), decay = fast_exp2(-step * LOG2_E * expf(load(p.decay_log + head)));
    const float skip = load(p.skip + head);
#pragma unroll
    for (int channel = 0; channel < OF_WARP; ++channel)
    {
        const float input = x[first + channel], driven = step * input;
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < OF_LANE; ++i)
        {
            const int n = lane + i * WARP;
            const float next = fmaf(decay, s[channel][i], driven * b[i]);
            sum = fmaf(next, c[i], sum);
            if (n < STATES)
            {
                state[channel * STATES + n] = next;
            }
        }

        y[channel] = fmaf(skip, input, warp_sum(sum));
    }
}

/// The recurrence of a block's channels; what comes of them is written, and with a norm the sum of its squares.
FUNCTION void recur(const StepArguments& p, long long row, int tile)
{
    const int first = tile * TILE + block_thread() / WARP * OF_WARP;
    float y[OF_WARP], squares = 0.0f;
    recur(p, row, first, y);
#pragma unroll
    for (int channel = 0; channel < OF_WARP; ++channel)
    {
        const float gated = p.gate_first ? y[channel] * silu(load(projected(p, row) + first + channel)) : y[channel];
        squares = fmaf(gated, gated, squares);
        if (lane_index() == 0)
        {
            const long long at = row * inner(p) + first + channel;
            p.mixed[at] = gated;
            if (p.norm == nullptr)
            {
                store(p.y + at, gated);
            }
        }
    }

    if (p.norm != nullptr)
    {
        // All lanes of a warp hold its sum.
        const float sum = block_sum(lane_index() == 0 ? squares : 0.0f);
        if (block_thread() == 0)
        {
            p.squares[row * (inner(p) / TILE) + tile] = sum;
        }
    }
}

/// The norm of BLOCK channels of a group, or what is left of it.
FUNCTION void normalise(const StepArguments& p, long long row, int group, int first)
{
    const int width = inner(p) / p.norm_groups, tiles = width / TILE, channel = first + block_thread();
    const float* squares = p.squares + row * (inner(p) / TILE) + group * tiles;
    float sum = 0.0f;
    for (int i = block_thread(); i < tiles; i += BLOCK)
    {
        sum += squares[i];
    }

    const float inverse = 1.0f / sqrtf(block_sum(sum) / (float)width + p.epsilon);
    if (channel < width)
    {
        const int of_row = group * width + channel;
        const long long at = row * inner(p) + of_row;
        const float normal = p.mixed[at] * inverse * load(p.norm + of_row);
        store(p.y + at, p.gate_first ? normal : normal * silu(load(projected(p, row) + of_row)));
    }
}

KERNEL(duality_step, StepArguments)
{
    convolve(p);
    grid_barrier(p.barrier);
    const unsigned int blocks = (unsigned int)block_count(), tiles = (unsigned int)inner(p) / TILE;
    for (unsigned int work = (unsigned int)block_index(); work < p.batch * tiles; work += blocks)
    {
        recur(p, work / tiles, (int)(work % tiles));
    }

    if (p.norm == nullptr)
    {
        return;
    }

    grid_barrier(p.barrier);
    const unsigned int pieces = (unsigned int)divide_up(inner(p) / p.norm_groups, BLOCK), of_row = p.norm_groups * pieces;
    for (unsigned int work = (unsigned int)block_index(); work < p.batch * of_row; work += blocks)
    {
        normalise(p, work / of_row, (int)(work % of_row / pieces), (int)(work % pieces) * BLOCK);
    }
}
