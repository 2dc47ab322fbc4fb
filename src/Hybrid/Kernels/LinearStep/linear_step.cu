// A linear layer for a few rows, y = x W^T + b + r: a warp goes over one row of W, which is read once and multiplied with all rows of x.
// Options: ROWS (of x), PACKS (1: widths and addresses allow reads of 16 bytes), ELEMENT, LINEAR_BYTES.

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

#define STRIDE (WARP * PACK)

/// Adds the products of Count packs of a lane, a stride apart, which are read before any of them is used.
template <int Count>
FUNCTION void add_products(const LinearArguments& p, const element* weight, long long k, float (&sums)[ROWS])
{
    Pack w[Count];
#pragma unroll
    for (int c = 0; c < Count; ++c)
    {
        w[c] = read_pack(weight + k + c * STRIDE, p.width - k - c * STRIDE);
    }

#pragma unroll
    for (int row = 0; row < ROWS; ++row)
    {
#pragma unroll
        for (int c = 0; c < Count; ++c)
        {
            const long long at = k + c * STRIDE;
            const Pack x = read_pack(p.x + row * p.width + at, p.width - at);
#pragma unroll
            for (int i = 0; i < PACK; ++i)
            {
                sums[row] = fmaf(w[c][i], x[i], sums[row]);
            }
        }
    }
}

KERNEL(linear_step, LinearArguments)
{
    const long long output = thread_index() / WARP;
    if (output >= p.outputs)
    {
        return;
    }

    const element* weight = p.weight + output * p.width;
    float sums[ROWS] = {};
    long long k = lane_index() * PACK;
#pragma unroll 1
    for (; k + 3 * STRIDE < p.width; k += 4 * STRIDE)
    {
        add_products<4>(p, weight, k, sums);
    }

    // What is left is read at once too: a row of 768 is three packs a lane.
    if (k + 2 * STRIDE < p.width)
    {
        add_products<3>(p, weight, k, sums);
    }
    else if (k + STRIDE < p.width)
    {
        add_products<2>(p, weight, k, sums);
    }
    else if (k < p.width)
    {
        add_products<1>(p, weight, k, sums);
    }

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
