// The root-mean-square norm over groups of neighbouring channels, y = x r w with r = 1 / sqrt(mean(x^2) + eps), and its gated forms
// y = RMS(x SiLU(z)) w and y = RMS(x) w SiLU(z), where w may be 1 plus a weight, or nothing. A row here is one group of one token; its threads (a warp where a row is short, else a block) go over
// it together. Options: ROW_THREADS (32 or 128), ELEMENT, NORM_BYTES.

struct NormArguments
{
    element* x;                           // [rows, width], contiguous
    element* z;                           // gate, likewise, or null
    float* weight;                        // [groups, width], or null for ones
    element* y;                           // backwards: gradient of y
    element* x_gradient;
    element* z_gradient;
    float* inverse;                       // r of each row, or null
    float* weight_gradient;               // parts to be added up: [parts, groups, width]
    long long rows, width, groups;        // rows = tokens * groups
    long long parts;
    int norm_before_gate;
    int round_normal;                     // 1: x r is rounded to an element before it is scaled
    float epsilon;
    float weight_shift;                   // added to the weight
};

static_assert(sizeof(NormArguments) == NORM_BYTES, "NormArguments differs from its C# counterpart");

#if ROW_THREADS == WARP
FUNCTION int row_thread() { return lane_index(); }
FUNCTION float row_sum(float value) { return warp_sum(value); }
#else
FUNCTION int row_thread() { return block_thread(); }
FUNCTION float row_sum(float value) { return block_sum(value); }
#endif

FUNCTION float gate_at(const NormArguments& p, long long at) { return p.z == nullptr ? 1.0f : silu(load(p.z + at)); }

/// What is normalised.
FUNCTION float value_at(const NormArguments& p, long long at)
{
    const float x = load(p.x + at);
    return p.norm_before_gate ? x : x * gate_at(p, at);
}

/// What the normal value is multiplied by, besides the weight.
FUNCTION float factor_at(const NormArguments& p, long long at) { return p.norm_before_gate ? gate_at(p, at) : 1.0f; }

/// The weights of a row's group; null for ones.
FUNCTION const float* weights_of(const NormArguments& p, long long row)
{
    return p.weight == nullptr ? nullptr : p.weight + row % p.groups * p.width;
}

FUNCTION float weight_at(const NormArguments& p, const float* weights, long long i) { return weights == nullptr ? 1.0f : weights[i] + p.weight_shift; }

FUNCTION float rounded(const NormArguments& p, float normal)
{
    element nearest;
    store(&nearest, normal);
    return p.round_normal ? load(&nearest) : normal;
}

KERNEL(root_mean_square, NormArguments)
{
    const long long row = thread_index() / ROW_THREADS;
    if (row >= p.rows)
    {
        return;
    }

    const long long start = row * p.width;
    const float* weights = weights_of(p, row);
    float sum = 0.0f;
    for (long long i = row_thread(); i < p.width; i += ROW_THREADS)
    {
        const float value = value_at(p, start + i);
        sum = fmaf(value, value, sum);
    }

    const float inverse = 1.0f / sqrtf(row_sum(sum) / (float)p.width + p.epsilon);
    for (long long i = row_thread(); i < p.width; i += ROW_THREADS)
    {
        const float normal = rounded(p, value_at(p, start + i) * inverse);
        store(p.y + start + i, normal * weight_at(p, weights, i) * factor_at(p, start + i));
    }

    if (p.inverse != nullptr && row_thread() == 0)
    {
        p.inverse[row] = inverse;
    }
}

/// With n = v r the normal value and g = w f dy, f the factor after the norm: dv = r (g - n mean(g n)); and the gate's by the product rule.
KERNEL(root_mean_square_gradient, NormArguments)
{
    const long long row = thread_index() / ROW_THREADS;
    if (row >= p.rows)
    {
        return;
    }

    const long long start = row * p.width;
    const float* weights = weights_of(p, row);
    const float inverse = p.inverse[row];
    float sum = 0.0f;
    for (long long i = row_thread(); i < p.width; i += ROW_THREADS)
    {
        sum = fmaf(load(p.y + start + i) * weight_at(p, weights, i) * factor_at(p, start + i), value_at(p, start + i) * inverse, sum);
    }

    const float mean = row_sum(sum) / (float)p.width;
    for (long long i = row_thread(); i < p.width; i += ROW_THREADS)
    {
        const long long at = start + i;
        const float upstream = load(p.y + at) * weight_at(p, weights, i), normal = value_at(p, at) * inverse;
        const float value_gradient = inverse * (upstream * factor_at(p, at) - normal * mean);
        store(p.x_gradient + at, p.norm_before_gate ? value_gradient : value_gradient * gate_at(p, at));
        if (p.z != nullptr)
        {
            const float gated = p.norm_before_gate ? upstream * normal : value_gradient * load(p.x + at);
            store(p.z_gradient + at, gated * silu_slope(load(p.z + at)));
        }
    }
}

/// One thread a part of the tokens and a channel.
KERNEL(root_mean_square_weight_gradient, NormArguments)
{
    const long long index = thread_index(), channels = p.groups * p.width;
    if (index >= p.parts * channels)
    {
        return;
    }

    const long long channel = index % channels, part = index / channels, tokens = p.rows / p.groups;
    float sum = 0.0f;
    for (long long token = part * tokens / p.parts; token < (part + 1) * tokens / p.parts; ++token)
    {
        const long long at = token * channels + channel;
        const float normal = rounded(p, value_at(p, at) * p.inverse[at / p.width]);
        sum = fmaf(load(p.y + at) * factor_at(p, at), normal, sum);
    }

    p.weight_gradient[index] = sum;
}
