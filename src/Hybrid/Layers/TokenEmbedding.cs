using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;

namespace Hybrid.Layers;

/// <summary>
/// Rows of a matrix by token id. It owns its weight wherever it is built, which TorchSharp's Embedding does not inside a dispose scope,
/// and the weight can serve as the output matrix of a tied head.
/// </summary>
public sealed class TokenEmbedding : nn.Module<Tensor, Tensor>
{
    [ComponentName(Name = "weight")]
    private readonly Parameter weight;

    /// <param name="vocabulary">Number of ids V; at least 1.</param>
    /// <param name="width">Width D; at least 1.</param>
    /// <param name="deviation">Standard deviation of the initial weights.</param>
    public TokenEmbedding(long vocabulary, long width, double deviation = 0.02)
        : base(nameof(TokenEmbedding))
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(vocabulary, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(width, 1);
        using var scope = NewDisposeScope();
        weight = ModuleParameter.Make(() => randn(vocabulary, width) * deviation, vocabulary, width);
        RegisterComponents();
    }

    /// <summary>The matrix [V, D].</summary>
    public Parameter Weight => weight;

    /// <summary>Looks ids up.</summary>
    /// <param name="input">Ids, int64, any shape, each 0..V-1.</param>
    /// <returns>[..., D].</returns>
    public override Tensor forward(Tensor input)
    {
        using var scope = NewDisposeScope();
        return weight.index_select(0, input.reshape(-1)).view([.. input.shape, weight.size(1)]).MoveToOuterDisposeScope();
    }
}
