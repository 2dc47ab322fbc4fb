using System.Runtime.CompilerServices;
using static TorchSharp.torch;

namespace Hybrid.Modeling;

/// <summary>
/// Continues one sequence token by token: one prefill over the prompt, then one step a token on the carried state. Dispose frees the state.
/// </summary>
public sealed class TokenGenerator : IDisposable
{
    private readonly CausalLanguageModel model;
    private readonly GenerationOptions options;
    private readonly TokenSampler sampler;
    private readonly HashSet<int> seen = [];

    // Tokens of the sequence that the state has not consumed: the last one that was chosen, or a prompt that was not run.
    private long[] pending = [];

    /// <param name="model">The model; it is put into evaluation mode.</param>
    /// <param name="options">How to choose tokens; null means the model's <see cref="CausalLanguageModel.GenerationDefaults"/>.</param>
    public TokenGenerator(CausalLanguageModel model, GenerationOptions? options = null)
    {
        this.model = model;
        this.options = options ?? model.GenerationDefaults;
        sampler = new TokenSampler(this.options);
        State = model.CreateState(1);
    }

    /// <summary>The state after the tokens so far, save the last one chosen; it stays the generator's own.</summary>
    public CompositeState State { get; }

    /// <summary>Continues a prompt. May be called again: the next prompt then follows what was generated.</summary>
    /// <param name="prompt">Token ids; at least one.</param>
    /// <returns>The new tokens, each as soon as it is chosen.</returns>
    /// <exception cref="ArgumentException">The prompt is empty, too long, or has ids outside the vocabulary.</exception>
    public IEnumerable<int> Generate(IReadOnlyList<int> prompt)
    {
        Validate(prompt);
        return Continue(prompt);
    }

    /// <summary>Frees the state.</summary>
    public void Dispose() => State.Dispose();

    private IEnumerable<int> Continue(IReadOnlyList<int> prompt)
    {
        pending = [.. pending, .. prompt];
        seen.UnionWith(prompt);
        for (var count = 0; count < options.MaxNewTokens && State.Position + pending.Length < model.Options.MaxSeqLen; count++)
        {
            var token = Step(pending);
            pending = [];
            if (options.StopTokens.Contains(token))
            {
                yield break;
            }

            seen.Add(token);
            pending = [token];
            yield return token;
        }
    }

    /// <summary>One forward pass. Scopes and grad mode are per thread, so none is held while the caller has control.</summary>
    private int Step(long[] tokens)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        if (model.training)
        {
            model.eval();
        }

        var ids = tensor(tokens, dtype: ScalarType.Int64, device: model.Device).unsqueeze(0);
        var logits = model.NextTokenLogits(ids, new MixerContext { State = State });
        return sampler.Sample(logits.to_type(ScalarType.Float32).cpu().data<float>().ToArray(), seen);
    }

    private void Validate(IReadOnlyList<int> prompt)
    {
        if (prompt.Count == 0)
        {
            throw new ArgumentException("TokenGenerator: the prompt must have at least one token; got none.", nameof(prompt));
        }

        var total = State.Position + pending.Length + prompt.Count;
        if (total > model.Options.MaxSeqLen)
        {
            throw new ArgumentException(
                $"TokenGenerator: the sequence would have {total} tokens; max_seq_len is {model.Options.MaxSeqLen}.", nameof(prompt));
        }

        foreach (var token in prompt)
        {
            if (token < 0 || token >= model.Options.VocabSize)
            {
                throw new ArgumentException($"TokenGenerator: a token must be 0..{model.Options.VocabSize - 1}; got {token}.", nameof(prompt));
            }
        }
    }
}

/// <summary>Text in, text out.</summary>
public static class TextGeneration
{
    /// <summary>Continues a text, piece by piece, each piece whole characters.</summary>
    /// <param name="model">A model with a tokenizer.</param>
    /// <param name="prompt">The text to continue; not empty.</param>
    /// <param name="options">How to choose tokens; null means the defaults.</param>
    /// <returns>The new text, in pieces.</returns>
    public static IEnumerable<string> Generate(this CausalLanguageModel model, string prompt, GenerationOptions? options = null)
    {
        var tokenizer = model.Tokenizer
            ?? throw new InvalidOperationException("CausalLanguageModel: to generate text, set Tokenizer or pass token ids to a TokenGenerator.");
        return Stream(model, tokenizer, tokenizer.Encode(prompt), options);
    }

    /// <summary>Continues a text without blocking the caller while a token is computed.</summary>
    /// <param name="model">A model with a tokenizer.</param>
    /// <param name="prompt">The text to continue; not empty.</param>
    /// <param name="options">How to choose tokens; null means the defaults.</param>
    /// <param name="cancellationToken">Ends the generation between two tokens.</param>
    /// <returns>The new text, in pieces.</returns>
    public static async IAsyncEnumerable<string> GenerateAsync(
        this CausalLanguageModel model,
        string prompt,
        GenerationOptions? options = null,
        [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        using var pieces = model.Generate(prompt, options).GetEnumerator();
        while (await Task.Run(pieces.MoveNext, cancellationToken).ConfigureAwait(false))
        {
            yield return pieces.Current;
        }
    }

    private static IEnumerable<string> Stream(CausalLanguageModel model, ITokenizer tokenizer, int[] prompt, GenerationOptions? options)
    {
        using var generator = new TokenGenerator(model, options);
        var stream = tokenizer.CreateStream();
        foreach (var token in generator.Generate(prompt))
        {
            if (stream.Append(token) is { Length: > 0 } piece)
            {
                yield return piece;
            }
        }

        if (stream.Finish() is { Length: > 0 } rest)
        {
            yield return rest;
        }
    }
}
