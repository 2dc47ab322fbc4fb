using Hybrid.Layers;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Hybrid;

/// <summary>A layer of matrices beside parameters that stay float32 in mixed precision, which converts the former itself.</summary>
internal interface IMixedPrecisionLayer
{
    void ConvertMatrices(ScalarType dtype);
}

/// <summary>
/// Mixed precision (Micikevicius et al., arXiv 1710.03740): matrices and activations in half precision, where nearly all time and memory
/// goes, and float32 for what rounding would spoil.
/// </summary>
/// <remarks>
/// <para>In half precision: the weights and biases of linear layers, short convolutions, embeddings, experts and GRUs, the gates' matrices
/// of the RG-LRU, and the activations, that is a layer's input and output, keys and values, and the window of a convolution.</para>
/// <para>In float32: the weights of norms, and every parameter that a mixer or layer holds besides: decay rates (A_log), skips (D), step-size
/// biases, shares of token shifts; recurrent states; the arithmetic of norms, softmax, scans and of a language model's loss.</para>
/// <para>A mixer of one's own takes part where its matrices are TorchSharp's layers; a bias among
/// <see cref="SequenceMixer.ParametersWithoutWeightDecay"/> stays float32. Its forward pass returns the dtype of its input.</para>
/// <para>Training needs float32 copies of the matrices, since an update is often smaller than half the distance to the next bfloat16 number:
/// <see cref="Training.MasterWeights"/>, which <see cref="Training.LanguageModelTrainer"/> makes by itself.</para>
/// </remarks>
public static class MixedPrecision
{
    /// <summary>Converts a module in place. Make optimizers afterwards: the converted parameters are new ones, without gradients.</summary>
    /// <typeparam name="T">The module's type.</typeparam>
    /// <param name="module">A mixer, a backbone, any module made of the library's layers, in float32 or converted already.</param>
    /// <param name="dtype">BFloat16 (default), or Float16, which torch computes on GPUs alone and trains with a <see cref="Training.LossScaler"/>.</param>
    /// <returns>The module.</returns>
    /// <exception cref="ArgumentException"><paramref name="dtype"/> is not one of these, or a parameter is float64.</exception>
    public static T ToMixedPrecision<T>(this T module, ScalarType dtype = ScalarType.BFloat16)
        where T : nn.Module
    {
        ArgumentNullException.ThrowIfNull(module);
        if (!IsHalf(dtype))
        {
            throw new ArgumentException($"MixedPrecision: dtype must be BFloat16 or Float16; got {dtype}.", nameof(dtype));
        }

        if (module.named_parameters().FirstOrDefault(entry => entry.parameter.dtype == ScalarType.Float64) is { parameter: not null } wide)
        {
            throw new ArgumentException($"MixedPrecision: expected weights of at most 32 bits; got Float64 for {wide.name}.", nameof(module));
        }

        var layers = module.modules().Prepend(module).ToArray();
        var kept = layers.OfType<SequenceMixer>().SelectMany(mixer => mixer.ParametersWithoutWeightDecay)
            .Select(parameter => parameter.Handle).ToHashSet();
        foreach (var layer in layers)
        {
            Convert(layer, dtype, kept);
        }

        return module;
    }

    /// <summary>True for the dtypes of less than 32 bits that a model can have.</summary>
    internal static bool IsHalf(ScalarType dtype) => dtype is ScalarType.BFloat16 or ScalarType.Float16;

    /// <summary>A parameter in a dtype, which belongs to its module alone; the one given where it has it already.</summary>
    internal static Parameter Converted(Parameter parameter, ScalarType dtype)
    {
        if (parameter.dtype == dtype)
        {
            return parameter;
        }

        using var guard = no_grad();
        using var scope = NewDisposeScope();
        var converted = new Parameter(parameter.to_type(dtype), parameter.requires_grad);
        converted.DetachFromDisposeScope();
        return converted;
    }

    private static void Convert(nn.Module layer, ScalarType dtype, HashSet<IntPtr> kept)
    {
        switch (layer)
        {
            case Linear linear:
                linear.weight = Converted(linear.weight, dtype);
                if (linear.bias is { } bias && bias.dtype != dtype && !kept.Contains(bias.Handle))
                {
                    linear.bias = Converted(bias, dtype);
                }

                break;
            case TokenEmbedding or ShortConvolution or ExpertBank or Embedding or Convolution or GRU:
                layer.to(dtype);
                layer.parameters(recurse: false).ToList().ForEach(parameter => parameter.grad = null);
                break;
            case IMixedPrecisionLayer mixed:
                mixed.ConvertMatrices(dtype);
                break;
        }
    }
}
