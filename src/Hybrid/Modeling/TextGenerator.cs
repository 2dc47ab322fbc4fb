using System.Runtime.CompilerServices;

namespace Hybrid.Modeling;

/// <summary>Continues one text piece by piece, and counts what it did. Dispose frees the state.</summary>
public sealed class TextGenerator : IDisposable
{
    private readonly ITokenizer tokenizer;
    private readonly TokenGenerator generator;
    private readonly IReadOnlyCollection<string> stopStrings;
    private bool stopped;

    /// <param name="model">A model with a tokenizer; it is put into evaluation mode.</param>
    /// <param name="options">How to choose tokens; null means the defaults.</param>
    /// <param name="promptCache">Where to look for the state of a prompt that begins alike; null computes each prompt.</param>
    /// <exception cref="InvalidOperationException">The model has no tokenizer.</exception>
    public TextGenerator(CausalLanguageModel model, GenerationOptions? options = null, PromptStateCache? promptCache = null)
    {
        tokenizer = TextGeneration.TokenizerOf(model);
        options ??= model.GenerationDefaults;
        options.Validate();
        stopStrings = options.StopStrings;
        generator = new TokenGenerator(model, options with { StopStrings = [] }, promptCache);
    }

    /// <summary>Tokens of the prompts so far.</summary>
    public int PromptTokens { get; private set; }

    /// <summary>Tokens of the first prompt whose state came from the prompt cache.</summary>
    public int ReusedTokens => generator.ReusedTokens;

    /// <summary>Tokens generated so far, those of a stop string counted.</summary>
    public int GeneratedTokens { get; private set; }

    /// <summary>Why the last text ended; null before it has, and where the caller ended it.</summary>
    public FinishReason? FinishReason => stopped ? Modeling.FinishReason.StopString : generator.FinishReason;

    /// <summary>Continues a text. May be called again: the next prompt then follows what was generated, a stop string included.</summary>
    /// <param name="prompt">The text to continue; not empty.</param>
    /// <returns>The new text, in pieces of whole characters.</returns>
    /// <exception cref="ArgumentException">The prompt is empty or too long, or an id of its tokens is outside the model's vocabulary.</exception>
    public IEnumerable<string> Generate(string prompt) => Generate(tokenizer.Encode(prompt));

    /// <summary>Continues a text that is encoded already.</summary>
    /// <param name="prompt">Token ids; at least one.</param>
    /// <returns>The new text, in pieces of whole characters.</returns>
    /// <exception cref="ArgumentException">The prompt is empty, too long, or has ids outside the vocabulary.</exception>
    public IEnumerable<string> Generate(IReadOnlyList<int> prompt) => PieceOfEachToken(prompt).Where(piece => piece.Length > 0);

    /// <summary>Continues a text without blocking the caller while a token is computed.</summary>
    /// <param name="prompt">Token ids; at least one.</param>
    /// <param name="cancellationToken">Ends the generation between two tokens.</param>
    /// <returns>The new text, in pieces of whole characters.</returns>
    public async IAsyncEnumerable<string> GenerateAsync(
        IReadOnlyList<int> prompt, [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        // One token a turn, so that a text whose characters are long in coming can be cancelled too.
        using var pieces = PieceOfEachToken(prompt).GetEnumerator();
        while (await Task.Run(pieces.MoveNext, cancellationToken).ConfigureAwait(false))
        {
            if (pieces.Current.Length > 0)
            {
                yield return pieces.Current;
            }
        }
    }

    /// <summary>Frees the state, or leaves it to the prompt cache.</summary>
    public void Dispose() => generator.Dispose();

    /// <summary>The text that each token makes certain, which may be none.</summary>
    private IEnumerable<string> PieceOfEachToken(IReadOnlyList<int> prompt)
    {
        var tokens = generator.Generate(prompt);
        PromptTokens += prompt.Count;
        stopped = false;
        return Pieces(tokens);
    }

    private IEnumerable<string> Pieces(IEnumerable<int> tokens)
    {
        var text = new SequenceText(tokenizer, stopStrings);
        foreach (var token in tokens)
        {
            GeneratedTokens++;
            var piece = text.Append(token);
            stopped = text.Stopped;
            yield return piece;
            if (stopped)
            {
                yield break;
            }
        }

        var rest = text.Finish();
        stopped = text.Stopped;
        yield return rest;
    }
}
