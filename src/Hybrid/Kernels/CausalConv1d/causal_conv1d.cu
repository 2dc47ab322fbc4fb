// The causal depthwise convolution y_t = act(bias + sum_k w_k x_(t-(W-1)+k)) with its gradients. One thread takes a row, CHANNELS neighbouring
// channels and a stretch of time, over which it moves a window of inputs in registers, AHEAD steps at a time: all are read before any is used.
// Options: WIDTH (W), CHANNELS (WORD where all steps begin at words, else 1), PACKED (1 for packed rows, where a tap does not reach into another
// sequence), SILU (1 for SiLU, 0 for no activation), ELEMENT, CONV_BYTES.

#define AHEAD (PACKED ? 4 : 8)               // packed rows compare sequences besides, for which registers would not suffice with 8

struct ConvArguments
{
    Rows x;                               // [B, T, E]
    Rows history;                         // the W - 1 inputs before the first [B, W - 1, E], or none
    Rows y_gradient;                      // backwards: gradient of y [B, T, E]
    float* taps;                          // [E, W], oldest first
    float* bias;                          // [E] or null
    long long* sequences;                 // [B, T] of packed rows
    element* y;                           // [B, T, E]; backwards the gradient of x
    element* history_gradient;            // [B, W - 1, E] or null
    float* taps_gradient;                 // parts to be added up: [stretches, B, W, E]
    float* bias_gradient;                 // [stretches, B, E] or null
    long long batch, time, channels;
    long long stretch_steps, stretches;   // stretch_steps is a multiple of AHEAD
};

static_assert(sizeof(ConvArguments) == CONV_BYTES, "ConvArguments differs from its C# counterpart");

/// A value of each channel of a thread.
struct Values
{
    float of[CHANNELS];
};

FUNCTION Values read(const element* source)
{
    Values values;
#if CHANNELS == 1
    values.of[0] = load(source);
#else
    const unsigned int word = *(const unsigned int*)source;
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c)
    {
        values.of[c] = from_word(word, c);
    }
#endif

    return values;
}

FUNCTION void write(element* target, const Values& values)
{
#if CHANNELS == 1
    store(target, values.of[0]);
#else
    *(unsigned int*)target = to_word(values.of);
#endif
}

FUNCTION void write_floats(float* target, const Values& values)
{
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c)
    {
        target[c] = values.of[c];
    }
}

FUNCTION Values multiply_add(const Values& a, const Values& b, const Values& sum)
{
    Values values;
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c)
    {
        values.of[c] = fmaf(a.of[c], b.of[c], sum.of[c]);
    }

    return values;
}

FUNCTION Values add(Values sum, const Values& values)
{
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c)
    {
        sum.of[c] += values.of[c];
    }

    return sum;
}

/// What comes out of the sums.
FUNCTION Values activated(Values values)
{
#if SILU
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c)
    {
        values.of[c] = silu(values.of[c]);
    }
#endif

    return values;
}

/// The gradient of the sums, from that of what comes out of them.
FUNCTION Values before_activation(Values gradient, const Values& sums)
{
#if SILU
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c)
    {
        gradient.of[c] *= silu_slope(sums.of[c]);
    }
#endif

    return gradient;
}

/// A thread's place, and the inputs that the outputs of AHEAD steps are made of, oldest first.
struct Window
{
    long long row, channel, stretch, start, end;
    Values taps[WIDTH], bias, inputs[WIDTH - 1 + AHEAD];

    /// Channels run fastest, then rows, then stretches. The window is full up to the step before the first.
    METHOD Window(const ConvArguments& p, long long index)
    {
        const long long groups = p.channels / CHANNELS, line = index / groups;
        channel = (index - line * groups) * CHANNELS;
        stretch = line / p.batch;
        row = line - stretch * p.batch;
        start = stretch * p.stretch_steps;
        end = start + p.stretch_steps < p.time ? start + p.stretch_steps : p.time;
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c)
        {
            bias.of[c] = p.bias == nullptr ? 0.0f : p.bias[channel + c];
#pragma unroll
            for (int k = 0; k < WIDTH; ++k)
            {
                taps[k].of[c] = p.taps[(channel + c) * WIDTH + k];
            }
        }

#pragma unroll
        for (int k = 0; k < WIDTH - 1; ++k)
        {
            inputs[k] = input(p, start - (WIDTH - 1) + k);
        }
    }

    /// The input at a step, which is in the history where it is negative; zero before that.
    METHOD Values input(const ConvArguments& p, long long t) const
    {
        const long long before = t + WIDTH - 1;
        return t >= 0 ? read(p.x.at(row, t) + channel) : before >= 0 && p.history.exists() ? read(p.history.at(row, before) + channel) : Values{};
    }

    /// Reads AHEAD steps of x; zeros from the end of time on.
    template <bool Whole>
    METHOD void read_inputs(const ConvArguments& p, long long t)
    {
        const element* source = p.x.at(row, t) + channel;
#pragma unroll
        for (int i = 0; i < AHEAD; ++i, source += p.x.step)
        {
            inputs[WIDTH - 1 + i] = Whole || t + i < p.time ? read(source) : Values{};
        }
    }

    /// What the outputs after these steps still need comes first.
    METHOD void move()
    {
#pragma unroll
        for (int k = 0; k < WIDTH - 1; ++k)
        {
            inputs[k] = inputs[k + AHEAD];
        }
    }

    /// True where the output at a step is made of an input up to W - 1 steps before: in packed rows, only of its own sequence.
    METHOD bool reaches(const ConvArguments& p, long long output, long long source) const
    {
        return !PACKED || (source >= 0 && p.sequences[row * p.time + output] == p.sequences[row * p.time + source]);
    }

    /// The sum of output i of the steps from t on, before the activation.
    METHOD Values sum(const ConvArguments& p, long long t, int i) const
    {
        Values total = bias;
#pragma unroll
        for (int k = 0; k < WIDTH; ++k)
        {
            if (reaches(p, t + i, t + i - (WIDTH - 1) + k))
            {
                total = multiply_add(taps[k], inputs[i + k], total);
            }
        }

        return total;
    }
};

/// AHEAD steps from t on; those up to the end where they are not whole.
template <bool Whole>
FUNCTION void put_out(const ConvArguments& p, Window& window, long long t)
{
    window.read_inputs<Whole>(p, t);
    element* target = p.y + (window.row * p.time + t) * p.channels + window.channel;
#pragma unroll
    for (int i = 0; i < AHEAD; ++i, target += p.channels)
    {
        if (Whole || t + i < window.end)
        {
            write(target, activated(window.sum(p, t, i)));
        }
    }

    window.move();
}

KERNEL(causal_conv1d, ConvArguments)
{
    const long long index = thread_index();
    if (index >= p.batch * (p.channels / CHANNELS) * p.stretches)
    {
        return;
    }

    Window window(p, index);
    long long t = window.start;
#pragma unroll 1
    for (; t + AHEAD <= window.end; t += AHEAD)
    {
        put_out<true>(p, window, t);
    }

    if (t < window.end)
    {
        put_out<false>(p, window, t);
    }
}

/// The sums of gradients of a stretch, and the gradients before the activation of the steps that its inputs reach, oldest first.
struct Gradients
{
    Values taps[WIDTH] = {}, bias = {}, sums[WIDTH - 1 + AHEAD] = {};

    METHOD void move()
    {
#pragma unroll
        for (int k = 0; k < WIDTH - 1; ++k)
        {
            sums[k] = sums[k + AHEAD];
        }
    }

    /// The gradient of input i, W - 1 steps before step t + i: of the outputs that it reaches. Those before the stretch and after the end of time are 0.
    METHOD Values input(const ConvArguments& p, const Window& window, long long t, int i) const
    {
        Values total = {};
#pragma unroll
        for (int k = 0; k < WIDTH; ++k)
        {
            const long long source = t + i - (WIDTH - 1), output = source + k;
            if (!PACKED || (output < p.time && window.reaches(p, output, source)))
            {
                total = multiply_add(window.taps[WIDTH - 1 - k], sums[i + k], total);
            }
        }

        return total;
    }
};

/// AHEAD steps from t on. With dp_t the gradient before the activation: d w_k += dp_t x_(t-(W-1)+k); and once dp_t is there, x_(t-(W-1)) gets all
/// it gets: sum_k w_k dp_(t-k). So a stretch goes W - 1 steps beyond its end, where the gradients of taps are another's, and has no inputs in its
/// first W - 1 steps; neither are whole.
template <bool Whole>
FUNCTION void return_gradients(const ConvArguments& p, Window& window, Gradients& gradients, long long t)
{
    window.read_inputs<Whole>(p, t);
    Values upstream[AHEAD];
    const element* source = p.y_gradient.at(window.row, t) + window.channel;
#pragma unroll
    for (int i = 0; i < AHEAD; ++i, source += p.y_gradient.step)
    {
        upstream[i] = Whole || t + i < p.time ? read(source) : Values{};
    }

    element* target = p.y + (window.row * p.time + t - (WIDTH - 1)) * p.channels + window.channel;
#pragma unroll
    for (int i = 0; i < AHEAD; ++i, target += p.channels)
    {
        const Values gradient = Whole || t + i < p.time ? before_activation(upstream[i], window.sum(p, t, i)) : Values{};
        gradients.sums[WIDTH - 1 + i] = gradient;
        if (Whole || t + i < window.end)
        {
            gradients.bias = add(gradients.bias, gradient);
#pragma unroll
            for (int k = 0; k < WIDTH; ++k)
            {
                if (window.reaches(p, t + i, t + i - (WIDTH - 1) + k))
                {
                    gradients.taps[k] = multiply_add(gradient, window.inputs[i + k], gradients.taps[k]);
                }
            }
        }

        const long long input = t + i - (WIDTH - 1);
        if (Whole || (input >= window.start && input < window.end))
        {
            write(target, gradients.input(p, window, t, i));
        }
        else if (input < 0 && window.start == 0 && p.history_gradient != nullptr)
        {
            write(p.history_gradient + (window.row * (WIDTH - 1) + t + i) * p.channels + window.channel, gradients.input(p, window, t, i));
        }
    }

    window.move();
    gradients.move();
}

KERNEL(causal_conv1d_gradient, ConvArguments)
{
    const long long index = thread_index();
    if (index >= p.batch * (p.channels / CHANNELS) * p.stretches)
    {
        return;
    }

    Window window(p, index);
    Gradients gradients;
#pragma unroll 1
    for (long long t = window.start; t < window.end + WIDTH - 1; t += AHEAD)
    {
        if (t >= window.start + WIDTH - 1 && t + AHEAD <= window.end)
        {
            return_gradients<true>(p, window, gradients, t);
        }
        else
        {
            return_gradients<false>(p, window, gradients, t);
        }
    }

    const long long slot = window.stretch * p.batch + window.row;
#pragma unroll
    for (int k = 0; k < WIDTH; ++k)
    {
        write_floats(p.taps_gradient + (slot * WIDTH + k) * p.channels + window.channel, gradients.taps[k]);
    }

    if (p.bias_gradient != nullptr)
    {
        write_floats(p.bias_gradient + slot * p.channels + window.channel, gradients.bias);
    }
}
