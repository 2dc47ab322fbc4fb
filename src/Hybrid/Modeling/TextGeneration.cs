using System.Runtime.CompilerServices;

namespace Hybrid.Modeling;

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
        return Stream(model, TokenizerOf(model).Encode(prompt), options);

        static IEnumerable<string> Stream(CausalLanguageModel model, int[] prompt, GenerationOptions? options)
        {
            using var generator = new TextGenerator(model, options);
            foreach (var piece in generator.Generate(prompt))
            {
                yield return piece;
            }
        }
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
        using var generator = new TextGenerator(model, options);
        await foreach (var piece in generator.GenerateAsync(TokenizerOf(model).Encode(prompt), cancellationToken).ConfigureAwait(false))
        {
            yield return piece;
        }
    }

    /// <summary>Continues several texts in one batch, see <see cref="BatchGenerator"/>.</summary>
    /// <param name="model">A model with a tokenizer.</param>
    /// <param name="prompts">The texts to continue, of any lengths; none empty.</param>
    /// <param name="options">How to choose tokens; null means the defaults.</param>
    /// <param name="cancellationToken">Ends the generation between two tokens.</param>
    /// <returns>The new text of each prompt.</returns>
    public static string[] GenerateBatch(
        this CausalLanguageModel model, IReadOnlyList<string> prompts, GenerationOptions? options = null, CancellationToken cancellationToken = default)
    {
        var tokenizer = TokenizerOf(model);
        options ??= model.GenerationDefaults;
        options.Validate();
        using var generator = new BatchGenerator(model, [.. prompts.Select(tokenizer.Encode)], options with { StopStrings = [] });
        var streams = prompts.Select(_ => new SequenceText(tokenizer, options.StopStrings)).ToArray();
        var texts = new string[prompts.Count];
        Array.Fill(texts, "");
        foreach (var (row, token) in generator.Generate())
        {
            cancellationToken.ThrowIfCancellationRequested();
            texts[row] += streams[row].Append(token);
            if (streams[row].Stopped)
            {
                generator.Stop(row);
            }
        }

        return [.. texts.Zip(streams, (text, stream) => text + stream.Finish())];
    }

    /// <summary>How likely the model finds a text, each token given those before it; the first is given.</summary>
    /// <param name="model">A model with a tokenizer.</param>
    /// <param name="text">A text of at least two tokens and at most max_seq_len.</param>
    /// <returns>The score.</returns>
    public static TextScore Score(this CausalLanguageModel model, string text) => model.Score(TokenizerOf(model).Encode(text));

    /// <summary>How likely the model finds a sequence, each token given those before it; the first is given.</summary>
    /// <param name="model">The model; it is put into evaluation mode. The logits of all T tokens, T times V numbers, exist at once.</param>
    /// <param name="tokens">Token ids, at least two and at most max_seq_len.</param>
    /// <returns>The score.</returns>
    public static TextScore Score(this CausalLanguageModel model, IReadOnlyList<int> tokens) => TextScore.Of(model, tokens);

    /// <summary>The tokenizer of a model that has one.</summary>
    internal static ITokenizer TokenizerOf(CausalLanguageModel model) => model.Tokenizer
        ?? throw new InvalidOperationException(
            $"CausalLanguageModel: to generate text, set Tokenizer or pass token ids to a TokenGenerator. {model.TokenizerProblem ?? "The model has no tokenizer"}.");
}
