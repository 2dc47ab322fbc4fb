// A linear layer for a few rows, y = x W^T + b + r: a warp goes over one row of W, which is read once and multiplied with all rows of x.
// Options: ROWS (of x), CHUNKS (1: a lane reads 16 bytes at a time, which widths and addresses allow), ELEMENT, LINEAR_BYTES.

struct LinearArguments
{
    element* x;                           // [ROWS, width]
    element* weight;                      // W [outputs, width]
    element* bias;                        // [outputs] or null
    element* residual;                    // r [ROWS, outputs] or null
    element* y;                           // [ROWS, outputs]
    long long width, outputs;
};

static_assert(sizeof(LinearArguments) == LINEAR_BYTES, "LinearArguments differs from its C# counterpart");

#if CHUNKS
/// Adds the products of Count chunks of W, a warp's width apart, which are read before any of them is used.
template <int Count>
FUNCTION void add_products(const LinearArguments& p, const element* weight, long long k, float (&sums)[ROWS])
{
    Pack w[Count];
#pragma unroll
    for (int c = 0; c < Count; ++c)
    {
        w[c] = *(const Pack*)(weight + k + c * WARP * PACK);
    }

#pragma unroll
    for (int row = 0; row < ROWS; ++row)
    {
#pragma unroll
        for (int c = 0; c < Count; ++c)
        {
            const Pack x = *(const Pack*)(p.x + row * p.width + k + c * WARP * PACK);
#pragma unroll
            for (int i = 0; i < PACK; ++i)
            {
                sums[row] = fmaf(w[c][i], x[i], sums[row]);
            }
        }
    }
}
#endif

KERNEL(linear_step, LinearArguments)
{
    const long long output = thread_index() / WARP;
    if (output >= p.outputs)
    {
        return;
    }

    const element* weight = p.weight + output * p.width;
    float sums[ROWS] = {};
#if CHUNKS
    long long k = lane_index() * PACK;
    for (; k + 3 * WARP * PACK < p.width; k += 4 * WARP * PACK)
    {
        add_products<4>(p, weight, k, sums);
    }

#pragma unroll 1
    for (; k < p.width; k += WARP * PACK)
    {
        add_products<1>(p, weight, k, sums);
    }
#else
#pragma unroll 1
    for (long long k = lane_index(); k < p.width; k += WARP)
    {
        const float w = load(weight + k);
#pragma unroll
        for (int row = 0; row < ROWS; ++row)
        {
            sums[row] = fmaf(w, load(p.x + row * p.width + k), sums[row]);
        }
    }
#endif

    const float bias = p.bias == nullptr ? 0.0f : load(p.bias + output);
#pragma unroll
    for (int row = 0; row < ROWS; ++row)
    {
        const float sum = warp_sum(sums[row]);
        if (lane_index() == 0)
        {
            const long long at = row * p.outputs + output;
            store(p.y + at, sum + bias + (p.residual == nullptr ? 0.0f : load(p.residual + at)));
        }
    }
}
