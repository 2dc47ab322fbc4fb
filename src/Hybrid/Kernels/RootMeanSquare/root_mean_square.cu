// The root-mean-square norm over groups of neighbouring channels, y = x r w with r = 1 / sqrt(mean(x^2) + eps), and its gated forms
// y = RMS(x SiLU(z)) w and y = RMS(x) w SiLU(z), where w may be 1 plus a weight, or nothing. A row here is one group of one token; its threads
// (a warp where a row is short, else a block) go over it together, PIECE elements at once, and where KEPT is not 0 keep all that they read of it
// in registers from the sum on; else they read it twice.
// Options: GATE (which form), ROUNDED (1: x r is rounded to an element before it is scaled), ROW_THREADS (32 or 128), PIECE (PACK where all rows
// begin at multiples of 16 bytes, else 1), KEPT (pieces of a thread), ELEMENT, NORM_BYTES.

#define NO_GATE 0
#define GATE_BEFORE 1
#define GATE_AFTER 2

struct NormArguments
{
    element* x;                           // [rows, width], contiguous
    element* z;                           // gate, likewise, or null
    float* weight;                        // [groups, width], or null for ones
    element* y;                           // backwards: gradient of y
    element* x_gradient;
    element* z_gradient;
    float* inverse;                       // r of each row, or null
    float* weight_gradient;               // parts to be added up: [parts, groups, width], or null
    long long rows, width, groups;        // rows = tokens * groups
    long long parts;                      // backwards, the tokens are cut into so many
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

#if PIECE == 1
struct Piece
{
    element only;

    METHOD float operator[](int) const { return load(&only); }
    METHOD void set(const float (&values)[1]) { store(&only, values[0]); }
};

struct Floats
{
    float of[1];
};
#else
typedef Pack Piece;

struct alignas(16) Floats
{
    float of[PIECE];
};
#endif

#define SPAN (KEPT > 0 ? KEPT : 4)        // pieces that a thread reads before it uses any

// A thread's first piece of each span of a row: of the only one, as the compiler must see, where it is kept.
#define FOR_EACH_SPAN(first, row) \
    for (int first = row_thread(), span = 0; KEPT > 0 ? span < 1 : first < row.pieces; first += SPAN * ROW_THREADS, ++span)

/// What is normalised.
FUNCTION float value_of(float x, float z) { return GATE == GATE_BEFORE ? x * silu(z) : x; }

/// What the normal value is multiplied by, besides the weight.
FUNCTION float factor_of(float z) { return GATE == GATE_AFTER ? silu(z) : 1.0f; }

FUNCTION float rounded(float normal)
{
    element nearest;
    store(&nearest, normal);
    return ROUNDED ? load(&nearest) : normal;
}

/// A row, in pieces that its threads take in turn.
struct Row
{
    long long start;                      // of its first element
    const float* weights;                 // of its group, or null for ones
    float shift;
    int pieces;

    METHOD Row(const NormArguments& p, long long index)
        : start(index * p.width), weights(p.weight == nullptr ? nullptr : p.weight + index % p.groups * p.width), shift(p.weight_shift),
          pieces((int)(p.width / PIECE))
    {
    }

    METHOD long long at(int piece) const { return start + (long long)piece * PIECE; }

    METHOD void write(element* tensor, int piece, const float (&values)[PIECE]) const
    {
        Piece made;
        made.set(values);
        *(Piece*)(tensor + at(piece)) = made;
    }

    METHOD Floats weight(int piece) const
    {
        Floats factors;
        if (weights != nullptr)
        {
            factors = *(const Floats*)(weights + (long long)piece * PIECE);
        }

#pragma unroll
        for (int j = 0; j < PIECE; ++j)
        {
            factors.of[j] = weights == nullptr ? 1.0f : factors.of[j] + shift;
        }

        return factors;
    }
};

/// Pieces of one tensor, ROW_THREADS apart; zeros behind the row.
struct Span
{
    Piece pieces[SPAN];

    METHOD void read(const Row& row, const element* tensor, int first)
    {
#pragma unroll
        for (int k = 0; k < SPAN; ++k)
        {
            const int piece = first + k * ROW_THREADS;
            pieces[k] = piece < row.pieces ? *(const Piece*)(tensor + row.at(piece)) : Piece{};
        }
    }
};

/// x and its gate.
struct Inputs
{
    Span x, z;

    METHOD void read(const NormArguments& p, const Row& row, int first)
    {
        x.read(row, p.x, first);
        if (GATE != NO_GATE)
        {
            z.read(row, p.z, first);
        }
    }

    METHOD float gate(int k, int j) const { return GATE == NO_GATE ? 0.0f : z.pieces[k][j]; }
    METHOD float value(int k, int j) const { return value_of(x.pieces[k][j], gate(k, j)); }
};

KERNEL(root_mean_square, NormArguments)
{
    const long long index = thread_index() / ROW_THREADS;
    if (index >= p.rows)
    {
        return;
    }

    const Row row(p, index);
    Inputs inputs;
    float sum = 0.0f;
    FOR_EACH_SPAN(first, row)
    {
        inputs.read(p, row, first);
#pragma unroll
        for (int k = 0; k < SPAN; ++k)
        {
#pragma unroll
            for (int j = 0; j < PIECE; ++j)
            {
                const float value = inputs.value(k, j);
                sum = fmaf(value, value, sum);
            }
        }
    }

    const float inverse = 1.0f / sqrtf(row_sum(sum) / (float)p.width + p.epsilon);
    FOR_EACH_SPAN(first, row)
    {
        if (KEPT == 0)
        {
            inputs.read(p, row, first);
        }

#pragma unroll
        for (int k = 0; k < SPAN; ++k)
        {
            const int piece = first + k * ROW_THREADS;
            if (piece < row.pieces)
            {
                const Floats weight = row.weight(piece);
                float y[PIECE];
#pragma unroll
                for (int j = 0; j < PIECE; ++j)
                {
                    y[j] = rounded(inputs.value(k, j) * inverse) * weight.of[j] * factor_of(inputs.gate(k, j));
                }

                row.write(p.y, piece, y);
            }
        }
    }

    if (p.inverse != nullptr && row_thread() == 0)
    {
        p.inverse[index] = inverse;
    }
}

// --- gradients ---------------------------------------------------------------------------------------------------------

/// The gradients of a row but the weight's, whose part of the row is added to the sums. With n = v r the normal value and g = w f dy, f the factor
/// after the norm: dv = r (g - n mean(g n)); and the gate's by the product rule.
FUNCTION void return_row(const NormArguments& p, long long index, float (&weight_gradient)[SPAN][PIECE])
{
    const Row row(p, index);
    const float inverse = p.inverse[index];
    Inputs inputs;
    Span upstream;
    float sum = 0.0f;
    FOR_EACH_SPAN(first, row)
    {
        inputs.read(p, row, first);
        upstream.read(row, p.y, first);
#pragma unroll
        for (int k = 0; k < SPAN; ++k)
        {
            const int piece = first + k * ROW_THREADS;
            if (piece < row.pieces)
            {
                const Floats weight = row.weight(piece);
#pragma unroll
                for (int j = 0; j < PIECE; ++j)
                {
                    sum = fmaf(upstream.pieces[k][j] * weight.of[j] * factor_of(inputs.gate(k, j)), inputs.value(k, j) * inverse, sum);
                }
            }
        }
    }

    const float mean = row_sum(sum) / (float)p.width;
    FOR_EACH_SPAN(first, row)
    {
        if (KEPT == 0)
        {
            inputs.read(p, row, first);
            upstream.read(row, p.y, first);
        }

#pragma unroll
        for (int k = 0; k < SPAN; ++k)
        {
            const int piece = first + k * ROW_THREADS;
            if (piece < row.pieces)
            {
                const Floats weight = row.weight(piece);
                float x_gradient[PIECE], z_gradient[PIECE];
#pragma unroll
                for (int j = 0; j < PIECE; ++j)
                {
                    const float z = inputs.gate(k, j), dy = upstream.pieces[k][j], normal = inputs.value(k, j) * inverse, factor = factor_of(z);
                    const float value_gradient = inverse * (dy * weight.of[j] * factor - normal * mean);
                    x_gradient[j] = value_of(value_gradient, z);
                    z_gradient[j] = (GATE == GATE_AFTER ? dy * weight.of[j] * normal : value_gradient * inputs.x.pieces[k][j]) * silu_slope(z);
                    weight_gradient[k][j] = fmaf(dy * factor, rounded(normal), weight_gradient[k][j]);
                }

                row.write(p.x_gradient, piece, x_gradient);
                if (GATE != NO_GATE)
                {
                    row.write(p.z_gradient, piece, z_gradient);
                }
            }
        }
    }
}

/// A row's threads take one group of a part of the tokens, and where they keep whole rows, the sums of its gradients of the weight as well.
KERNEL(root_mean_square_gradient, NormArguments)
{
    const long long worker = thread_index() / ROW_THREADS, part = worker / p.groups, group = worker % p.groups, tokens = p.rows / p.groups;
    if (part >= p.parts)
    {
        return;
    }

    float weight_gradient[SPAN][PIECE] = {};
#pragma unroll 1
    for (long long token = part * tokens / p.parts; token < (part + 1) * tokens / p.parts; ++token)
    {
        return_row(p, token * p.groups + group, weight_gradient);
    }

    if (KEPT > 0 && p.weight_gradient != nullptr)
    {
        float* target = p.weight_gradient + worker * p.width;
#pragma unroll
        for (int k = 0; k < SPAN; ++k)
        {
            const int piece = row_thread() + k * ROW_THREADS;
            if (piece < p.width / PIECE)
            {
#pragma unroll
                for (int j = 0; j < PIECE; ++j)
                {
                    target[(long long)piece * PIECE + j] = weight_gradient[k][j];
                }
            }
        }
    }
}

/// The weight's gradient where no thread keeps whole rows: one thread a part of the tokens and a channel.
KERNEL(root_mean_square_weight_gradient, NormArguments)
{
    const long long index = thread_index(), channels = p.groups * p.width;
    if (index >= p.parts * channels)
    {
        return;
    }

    const long long channel = index % channels, part = index / channels, tokens = p.rows / p.groups, group = channel / p.width;
    float sum = 0.0f;
    for (long long token = part * tokens / p.parts; token < (part + 1) * tokens / p.parts; ++token)
    {
        const long long at = token * channels + channel;
        const float z = GATE == NO_GATE ? 0.0f : load(p.z + at);
        const float normal = rounded(value_of(load(p.x + at), z) * p.inverse[token * p.groups + group]);
        sum = fmaf(load(p.y + at) * factor_of(z), normal, sum);
    }

    p.weight_gradient[index] = sum;
}
