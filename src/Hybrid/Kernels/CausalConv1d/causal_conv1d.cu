// The causal depthwise convolution y_t = act(bias + sum_k w_k x_(t-(W-1)+k)) with its gradients. One thread takes a row, a channel and a
// stretch of time, over which it moves a window of W inputs in registers. Options: WIDTH (W), ELEMENT, CONV_BYTES.

struct ConvArguments
{
    Rows x;                               // [B, T, E]
    Rows history;                         // the W - 1 inputs before the first [B, W - 1, E], or none
    Rows y_gradient;                      // backwards: gradient of y [B, T, E]
    float* taps;                          // [E, W], oldest first
    float* bias;                          // [E] or null
    long long* sequences;                 // [B, T] of packed rows, where a tap does not reach into another sequence, or null
    element* y;                           // [B, T, E]; backwards the gradient of x
    element* history_gradient;            // [B, W - 1, E] or null
    float* taps_gradient;                 // parts to be added up: [stretches, B, W, E]
    float* bias_gradient;                 // [stretches, B, E] or null
    long long batch, time, channels;
    long long stretch_steps, stretches;
    int silu;                             // 1 for SiLU, 0 for nothing
    int unused;
};

static_assert(sizeof(ConvArguments) == CONV_BYTES, "ConvArguments differs from its C# counterpart");

/// The last W inputs of a row and channel, oldest first, as time moves on.
struct Window
{
    long long row, channel, stretch, start, end;
    float taps[WIDTH], inputs[WIDTH];

    /// Channels run fastest, then rows, then stretches. The window is full up to the step before the first.
    METHOD Window(const ConvArguments& p, long long index)
        : row(index / p.channels % p.batch), channel(index % p.channels), stretch(index / p.channels / p.batch), start(stretch * p.stretch_steps),
          end(start + p.stretch_steps < p.time ? start + p.stretch_steps : p.time)
    {
#pragma unroll
        for (int k = 0; k < WIDTH; ++k)
        {
            taps[k] = p.taps[channel * WIDTH + k];
            inputs[k] = input(p, start - WIDTH + k);
        }
    }

    /// The input at a step, which is in the history where it is negative; zero before both and after the end.
    METHOD float input(const ConvArguments& p, long long t) const
    {
        const long long before = t + WIDTH - 1;
        return t >= p.time || before < 0 ? 0.0f
            : t >= 0 ? load(p.x.at(row, t) + channel)
            : p.history.exists() ? load(p.history.at(row, before) + channel) : 0.0f;
    }

    METHOD void move_to(const ConvArguments& p, long long t)
    {
#pragma unroll
        for (int k = 0; k < WIDTH - 1; ++k)
        {
            inputs[k] = inputs[k + 1];
        }

        inputs[WIDTH - 1] = input(p, t);
    }

    /// True where the output at a step is made of an input up to W - 1 steps before: in packed rows, only of its own sequence.
    METHOD bool reaches(const ConvArguments& p, long long output, long long source) const
    {
        return p.sequences == nullptr || (source >= 0 && p.sequences[row * p.time + output] == p.sequences[row * p.time + source]);
    }

    /// The sum of the output at step t, to which the window has moved.
    METHOD float sum(const ConvArguments& p, long long t) const
    {
        float total = p.bias == nullptr ? 0.0f : p.bias[channel];
#pragma unroll
        for (int k = 0; k < WIDTH; ++k)
        {
            total = reaches(p, t, t - (WIDTH - 1) + k) ? fmaf(taps[k], inputs[k], total) : total;
        }

        return total;
    }
};

KERNEL(causal_conv1d, ConvArguments)
{
    const long long index = thread_index();
    if (index >= p.batch * p.channels * p.stretches)
    {
        return;
    }

    Window window(p, index);
    for (long long t = window.start; t < window.end; ++t)
    {
        window.move_to(p, t);
        const float sum = window.sum(p, t);
        store(p.y + (window.row * p.time + t) * p.channels + window.channel, p.silu ? silu(sum) : sum);
    }
}

/// With dp_t the gradient before the activation: d w_k += dp_t x_(t-(W-1)+k); and once dp_t is there, x_(t-(W-1)) gets all it gets:
/// sum_k w_k dp_(t-k). So a thread goes W - 1 steps beyond its stretch.
KERNEL(causal_conv1d_gradient, ConvArguments)
{
    const long long index = thread_index();
    if (index >= p.batch * p.channels * p.stretches)
    {
        return;
    }

    Window window(p, index);
    float recent[WIDTH], taps_gradient[WIDTH], bias_gradient = 0.0f;                    // recent[k] is dp_(t-k)
#pragma unroll
    for (int k = 0; k < WIDTH; ++k)
    {
        recent[k] = taps_gradient[k] = 0.0f;
    }

    for (long long t = window.start; t < window.end + WIDTH - 1; ++t)
    {
        window.move_to(p, t);
        float gradient = 0.0f;
        if (t < p.time)
        {
            gradient = load(p.y_gradient.at(window.row, t) + window.channel);
            gradient = p.silu ? gradient * silu_slope(window.sum(p, t)) : gradient;
        }

        if (t < window.end)
        {
            bias_gradient += gradient;
        }

#pragma unroll
        for (int k = WIDTH - 1; k > 0; --k)
        {
            recent[k] = recent[k - 1];
        }

        recent[0] = gradient;
        const long long source = t - (WIDTH - 1);
        float total = 0.0f;
#pragma unroll
        for (int k = 0; k < WIDTH; ++k)
        {
            const bool own = t < window.end && window.reaches(p, t, source + k);
            taps_gradient[k] = own ? fmaf(gradient, window.inputs[k], taps_gradient[k]) : taps_gradient[k];
            const long long output = t - k;
            const bool reached = output >= window.start && output < p.time && window.reaches(p, output, source);
            total = reached ? fmaf(window.taps[k], recent[k], total) : total;
        }

        if (source >= window.start)
        {
            store(p.y + (window.row * p.time + source) * p.channels + window.channel, total);
        }
        else if (source < 0 && window.start == 0 && p.history_gradient != nullptr)
        {
            store(p.history_gradient + (window.row * (WIDTH - 1) + t) * p.channels + window.channel, total);
        }
    }

    const long long slot = window.stretch * p.batch + window.row;
#pragma unroll
    for (int k = 0; k < WIDTH; ++k)
    {
        p.taps_gradient[(slot * WIDTH + k) * p.channels + window.channel] = taps_gradient[k];
    }

    if (p.bias_gradient != nullptr)
    {
        p.bias_gradient[slot * p.channels + window.channel] = bias_gradient;
    }
}
