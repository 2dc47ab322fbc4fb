using Hybrid.Kernels.Cpu;
using static TorchSharp.torch;

namespace Hybrid.Modeling;

/// <summary>
/// Continues one sequence token by token: one prefill over the prompt, then one step a token on the carried state. Dispose frees the state.
/// </summary>
public sealed class TokenGenerator : IDisposable
{
    private readonly CausalLanguageModel model;
    private readonly GenerationOptions options;
    private readonly PromptStateCache? promptCache;
    private readonly TokenSampler sampler;
    private readonly HashSet<int> seen = [];
    private readonly List<int> consumed = [];

    // Tokens of the sequence that the state has not consumed: the last one that was chosen, or a prompt that was not run.
    private int[] pending = [];

    // False while a forward pass runs: one that fails leaves some layers advanced and others not.
    private bool isWhole = true;
    private bool disposed;

    /// <param name="model">The model; it is put into evaluation mode.</param>
    /// <param name="options">How to choose tokens; null means the model's <see cref="CausalLanguageModel.GenerationDefaults"/>. No stop strings: tokens are no text.</param>
    /// <param name="promptCache">
    /// Where to look for the state of a prompt that begins alike, and to leave this one's; of the same model. Null computes each prompt.
    /// </param>
    public TokenGenerator(CausalLanguageModel model, GenerationOptions? options = null, PromptStateCache? promptCache = null)
    {
        this.model = model;
        this.options = options ?? model.GenerationDefaults;
        if (this.options.StopStrings.Count > 0)
        {
            throw new ArgumentException("TokenGenerator: stop strings need text; use a TextGenerator.", nameof(options));
        }

        if (promptCache is not null && !ReferenceEquals(promptCache.Model, model))
        {
            throw new ArgumentException("TokenGenerator: the prompt cache must be one of the same model; got that of another.", nameof(promptCache));
        }

        this.promptCache = promptCache is { Obstacle: null } ? promptCache : null;
        sampler = new TokenSampler(this.options);
        State = model.CreateState(1);
    }

    /// <summary>The state after the tokens so far, save the last one chosen; it stays the generator's own.</summary>
    public CompositeState State { get; private set; }

    /// <summary>Tokens of the first prompt whose state came from the prompt cache.</summary>
    public int ReusedTokens { get; private set; }

    /// <summary>Why the last text ended; null before it has, and where the caller ended it.</summary>
    public FinishReason? FinishReason { get; private set; }

    /// <summary>Continues a prompt. May be called again: the next prompt then follows what was generated.</summary>
    /// <param name="prompt">Token ids; at least one.</param>
    /// <returns>The new tokens, each as soon as it is chosen.</returns>
    /// <exception cref="ArgumentException">The prompt is empty, too long, or has ids outside the vocabulary.</exception>
    public IEnumerable<int> Generate(IReadOnlyList<int> prompt)
    {
        PromptCheck.Require(nameof(TokenGenerator), model, prompt, State.Position + pending.Length);
        return Continue(prompt);
    }

    /// <summary>Frees the state, or leaves it to the prompt cache.</summary>
    public void Dispose()
    {
        if (disposed)
        {
            return;
        }

        disposed = true;
        if (promptCache is not null && consumed.Count > 0 && isWhole)
        {
            promptCache.Add([.. consumed], State);
        }
        else
        {
            State.Dispose();
        }
    }

    private IEnumerable<int> Continue(IReadOnlyList<int> prompt)
    {
        FinishReason = null;
        pending = [.. pending, .. prompt];
        seen.UnionWith(prompt);
        if (promptCache is not null && consumed.Count == 0 && options.MaxNewTokens > 0)
        {
            StartFromCache(promptCache);
        }

        for (var count = 0; count < options.MaxNewTokens && State.Position + pending.Length < model.Options.MaxSeqLen; count++)
        {
            var token = Choose();
            if (options.StopTokens.Contains(token))
            {
                FinishReason = Modeling.FinishReason.StopToken;
                yield break;
            }

            seen.Add(token);
            pending = [token];
            FinishReason = count + 1 == options.MaxNewTokens ? Modeling.FinishReason.MaxNewTokens : null;
            yield return token;
        }

        FinishReason ??= options.MaxNewTokens == 0 ? Modeling.FinishReason.MaxNewTokens : Modeling.FinishReason.MaxSeqLen;
    }

    /// <summary>
    /// Brings the state to the last token of the prompt, and stores it there: the logits of that token are needed, so a state beyond it
    /// would be of no use to the same prompt.
    /// </summary>
    private void StartFromCache(PromptStateCache cache)
    {
        using var match = cache.Find(pending);
        if (match.TakeState() is { } state)
        {
            State.Dispose();
            State = state;
            ReusedTokens = match.Length;
            consumed.AddRange(pending[..match.Length]);
            pending = pending[match.Length..];
        }

        if (pending.Length > 1)
        {
            Advance(pending[..^1], sample: false);
            pending = pending[^1..];
            cache.Store(consumed, State);
        }
    }

    private int Choose()
    {
        var token = Advance(pending, sample: true);
        pending = [];
        return token;
    }

    /// <summary>One forward pass. Scopes and grad mode are per thread, so none is held while the caller has control.</summary>
    private int Advance(int[] tokens, bool sample)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        if (model.training)
        {
            model.eval();
        }

        var ids = tensor([.. tokens.Select(token => (long)token)], dtype: ScalarType.Int64, device: model.Device).unsqueeze(0);
        isWhole = false;
        var logits = model.NextTokenLogits(ids, new MixerContext { State = State });
        isWhole = true;
        consumed.AddRange(tokens);
        return sample ? sampler.Sample(TensorMemory.Floats(logits.to_type(ScalarType.Float32).cpu().contiguous()), seen) : -1;
    }
}
