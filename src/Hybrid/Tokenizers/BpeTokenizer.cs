using System.Collections.Concurrent;
using System.Text;
using Hybrid.Modeling;

namespace Hybrid.Tokenizers;

/// <summary>
/// Byte-level byte pair encoding, read from a <c>tokenizer.json</c> as GPT-2, GPT-NeoX, Llama 3 and their kin have it. Any text comes back:
/// the 256 bytes of UTF-8 are the alphabet, so no character is unknown. (Half a surrogate pair is no text and becomes U+FFFD.)
/// </summary>
/// <remarks>
/// Kinds that are refused, with the reason: other models than BPE (WordPiece, Unigram), byte fallback (SentencePiece), drop-out of merges,
/// normalizers other than NFC. Several threads may use one tokenizer.
/// </remarks>
public sealed class BpeTokenizer : ITokenizer
{
    // Words repeat, and most are short; what is remembered stays within a few megabytes.
    private const int MostRemembered = 1 << 15;
    private const int LongestRemembered = 64;

    private readonly ConcurrentDictionary<string, int[]> remembered = new();
    private readonly BpeVocabulary vocabulary;
    private readonly BpeTokenizerOptions options;
    private readonly AddedTokens rawTokens;
    private readonly AddedTokens normalizedTokens;

    private BpeTokenizer(BpeVocabulary vocabulary, byte[] file, BpeTokenizerOptions options)
    {
        options.Validate();
        Source = file;
        this.vocabulary = vocabulary;
        this.options = options;
        var found = vocabulary.Added.Where(added => options.ParseSpecialTokens || !added.Token.Special).ToArray();
        rawTokens = new AddedTokens(found.Where(added => !added.Normalized).Select(added => added.Token));
        normalizedTokens = new AddedTokens(found.Where(added => added.Normalized).Select(added => added.Token));
    }

    /// <inheritdoc/>
    public int VocabSize => Math.Max(vocabulary.Size, options.PaddedVocabSize ?? 0);

    /// <summary>The special tokens: their names and ids.</summary>
    public IReadOnlyDictionary<string, int> SpecialTokens => vocabulary.SpecialTokens;

    /// <summary>The <c>tokenizer.json</c>, as it was read.</summary>
    internal byte[] Source { get; }

    /// <summary>Reads a tokenizer.</summary>
    /// <param name="path">A <c>tokenizer.json</c>.</param>
    /// <param name="options">How to treat special tokens; null means the defaults.</param>
    /// <returns>The tokenizer.</returns>
    /// <exception cref="InvalidDataException">The file is broken.</exception>
    /// <exception cref="NotSupportedException">The file describes a kind of tokenizer that this one is not; the message says which.</exception>
    public static BpeTokenizer Load(string path, BpeTokenizerOptions? options = null) =>
        Read(path, File.ReadAllBytes(path), null, options ?? new BpeTokenizerOptions());

    /// <summary>Makes a tokenizer of files that were read.</summary>
    /// <param name="path">The <c>tokenizer.json</c>, for messages.</param>
    /// <param name="file">What is in it.</param>
    /// <param name="configuration">Path and content of the <c>tokenizer_config.json</c> beside it; null means there is none.</param>
    /// <param name="options">How to treat special tokens.</param>
    internal static BpeTokenizer Read(string path, byte[] file, (string Path, byte[] Content)? configuration, BpeTokenizerOptions options) =>
        new(TokenizerFile.Read(path, file, configuration), file, options);

    /// <summary>The id of a token by its name in the file, special or not.</summary>
    /// <param name="token">The name; spaces and other bytes in the letters of the file, such as <c>Ġthe</c>.</param>
    /// <returns>The id; null where there is no such token.</returns>
    public int? IdOf(string token) => vocabulary.IdOf(token);

    /// <inheritdoc/>
    public int[] Encode(string text)
    {
        var ids = new List<int>();
        ids.AddRange(options.AddSpecialTokens ? vocabulary.Prefix : []);
        foreach (var (token, part) in rawTokens.Split(WithoutHalves(text)))
        {
            if (token is not null)
            {
                ids.Add(token.Id);
                continue;
            }

            foreach (var (normalizedToken, words) in normalizedTokens.Split(vocabulary.Normalize(part!)))
            {
                if (normalizedToken is not null)
                {
                    ids.Add(normalizedToken.Id);
                    continue;
                }

                foreach (var word in vocabulary.PreTokenizer.Split(words!))
                {
                    ids.AddRange(EncodeWord(word));
                }
            }
        }

        ids.AddRange(options.AddSpecialTokens ? vocabulary.Suffix : []);
        return [.. ids];
    }

    /// <inheritdoc/>
    public string Decode(IEnumerable<int> ids) => Encoding.UTF8.GetString([.. ids.SelectMany(BytesOf)]);

    /// <inheritdoc/>
    public ITokenStream CreateStream() => new Utf8TokenStream(BytesOf);

    private static string WithoutHalves(string text) =>
        text.AsSpan().ContainsAnyInRange('\ud800', '\udfff') ? Encoding.UTF8.GetString(Encoding.UTF8.GetBytes(text)) : text;

    private int[] EncodeWord(string word)
    {
        if (word.Length > LongestRemembered)
        {
            return Merge(word);
        }

        if (!remembered.TryGetValue(word, out var ids))
        {
            ids = Merge(word);
            if (remembered.Count < MostRemembered)
            {
                remembered.TryAdd(word, ids);
            }
        }

        return ids;
    }

    private int[] Merge(string word)
    {
        var bytes = Encoding.UTF8.GetBytes(word);
        if (vocabulary.IgnoresMerges && vocabulary.IdOf(ByteAlphabet.Letters(bytes)) is { } whole)
        {
            return [whole];
        }

        int[] ids = [.. bytes.Select(value => vocabulary.ByteIds[value])];
        return ids[..vocabulary.Merges.Apply(ids)];
    }

    private byte[] BytesOf(int id)
    {
        if (vocabulary.BytesOf(id) is not { } bytes)
        {
            if (id >= 0 && id < options.PaddedVocabSize)
            {
                return [];
            }

            throw new ArgumentOutOfRangeException(
                nameof(id), id, $"BpeTokenizer: an id must be that of a token, of which there are {vocabulary.Count} up to {VocabSize - 1}; got {id}.");
        }

        return options.SkipSpecialTokens && vocabulary.IsSpecial(id) ? [] : bytes;
    }
}
