using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;

namespace Hybrid.Layers;

/// <summary>
/// LayerNorm (Ba et al., arXiv 1607.06450) whose epsilon is larger in evaluation mode. RWKV-4 models are evaluated with the residual
/// stream halved after every n-th block, against overflow in half precision. Halving is exact and a norm takes it back, but for its
/// epsilon: <c>norm(x / s; eps) = norm(x; eps s^2)</c>.
/// </summary>
internal sealed class RescaledLayerNorm : nn.Module<Tensor, Tensor>
{
    private readonly long width;
    private readonly double epsilon;
    private readonly double evaluationEpsilon;

    [ComponentName(Name = "weight")]
    private readonly Parameter weight;

    [ComponentName(Name = "bias")]
    private readonly Parameter bias;

    /// <param name="width">Size of the last dimension.</param>
    /// <param name="epsilon">Added to the variance in training mode; positive.</param>
    /// <param name="halvings">How often the stream would have been halved before this norm; 0 or more.</param>
    public RescaledLayerNorm(long width, double epsilon, int halvings)
        : base(nameof(RescaledLayerNorm))
    {
        this.width = width;
        this.epsilon = epsilon;
        evaluationEpsilon = epsilon * Math.Pow(4, halvings);
        weight = ModuleParameter.Own(ones(width));
        bias = ModuleParameter.Own(zeros(width));
        RegisterComponents();
    }

    /// <summary>Normalises.</summary>
    /// <param name="input">[..., width].</param>
    /// <returns>The same shape and dtype.</returns>
    public override Tensor forward(Tensor input)
    {
        using var scope = NewDisposeScope();
        var normal = nn.functional.layer_norm(input.to_type(weight.dtype), [width], weight, bias, training ? epsilon : evaluationEpsilon);
        return normal.to_type(input.dtype).MoveToOuterDisposeScope();
    }
}
