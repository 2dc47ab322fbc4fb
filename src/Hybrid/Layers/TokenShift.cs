using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Hybrid.Layers;

/// <summary>The token shift of RWKV: every token with the one before it, <c>x_t m + x_(t-1) (1 - m)</c> for a vector m in a layer's weights.</summary>
internal readonly struct TokenShift
{
    private readonly Tensor input;
    private readonly Tensor shifted;

    /// <param name="input">Input [B, T, D].</param>
    /// <param name="last">The token before the first [B, D]; null for zeros.</param>
    /// <param name="restarts">Bool [B, T], true at the first token of a packed sequence, which has a zero before it; null means none.</param>
    public TokenShift(Tensor input, Tensor? last, Tensor? restarts)
    {
        var shape = input.shape;
        var first = last?.to_type(input.dtype).unsqueeze(1) ?? zeros([shape[0], 1, shape[2]], dtype: input.dtype, device: input.device);
        this.input = input;
        shifted = cat([first, input.narrow(1, 0, shape[1] - 1)], 1);
        if (restarts is not null)
        {
            shifted = shifted.masked_fill(restarts.unsqueeze(-1), 0);
        }
    }

    /// <summary>The token before each token [B, T, D].</summary>
    public Tensor Previous => shifted;

    /// <summary>Mixes each token with the one before it.</summary>
    /// <param name="share">Share m of the token itself [1, 1, D].</param>
    /// <returns>[B, T, D].</returns>
    public Tensor Mix(Parameter share) => ((input * share) + (shifted * (1 - share))).to_type(input.dtype);

    /// <summary>The last real token of each row [B, D].</summary>
    /// <param name="lengths">Real tokens of each row; null where every row is full.</param>
    public Tensor Last(IReadOnlyList<long>? lengths)
    {
        if (lengths is null)
        {
            return input.select(1, input.size(1) - 1);
        }

        var last = tensor(lengths.Select(length => length - 1).ToArray(), dtype: ScalarType.Int64).to(input.device).view(-1, 1, 1);
        return input.gather(1, last.expand(input.size(0), 1, input.size(2))).squeeze(1);
    }

    /// <summary>Shares that rise over the channels: <c>(i / D)^power + offset</c>, [1, 1, D].</summary>
    /// <param name="width">Width D.</param>
    /// <param name="power">Exponent of the ramp.</param>
    /// <param name="offset">Added to it.</param>
    public static Parameter Ramp(long width, double power, double offset = 0)
    {
        using var scope = NewDisposeScope();
        return ModuleParameter.Own((arange(width, dtype: ScalarType.Float32) / width).pow(power).add(offset).view(1, 1, width));
    }
}
