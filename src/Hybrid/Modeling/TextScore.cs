using static TorchSharp.torch;

namespace Hybrid.Modeling;

/// <summary>How likely a model finds a text.</summary>
/// <param name="TokenLogLikelihoods"><c>log p(token t | tokens before t)</c> in nats, from the second token on.</param>
public sealed record TextScore(IReadOnlyList<double> TokenLogLikelihoods)
{
    /// <summary>Log-likelihood of the text after its first token, in nats; 0 or less.</summary>
    public double LogLikelihood { get; } = TokenLogLikelihoods.Sum();

    /// <summary>Perplexity a token: <c>exp(-log-likelihood / tokens)</c>; at least 1.</summary>
    public double Perplexity => Math.Exp(-LogLikelihood / TokenLogLikelihoods.Count);

    /// <summary>Computes the score of a sequence.</summary>
    internal static TextScore Of(CausalLanguageModel model, IReadOnlyList<int> tokens)
    {
        PromptCheck.Require(nameof(TextScore), model, tokens);
        if (tokens.Count < 2)
        {
            throw new ArgumentException("TextScore: the text must have at least two tokens; got one, before which there is nothing.", nameof(tokens));
        }

        using var scope = NewDisposeScope();
        using var guard = no_grad();
        if (model.training)
        {
            model.eval();
        }

        var ids = tensor([.. tokens.Select(token => (long)token)], dtype: ScalarType.Int64, device: model.Device);
        var logits = model.forward(ids.narrow(0, 0, tokens.Count - 1).unsqueeze(0), MixerContext.None)[0].to_type(ScalarType.Float32);
        var targets = ids.narrow(0, 1, tokens.Count - 1).unsqueeze(1);
        var logLikelihoods = logits.gather(1, targets).squeeze(1) - logits.logsumexp(1);
        return new TextScore([.. logLikelihoods.cpu().data<float>().ToArray().Select(value => (double)value)]);
    }
}
