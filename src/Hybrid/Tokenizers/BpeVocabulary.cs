using System.Text;

namespace Hybrid.Tokenizers;

/// <summary>What a tokenizer file says: tokens, merges, how texts are cut.</summary>
internal sealed class BpeVocabulary
{
    private readonly Dictionary<string, int> ids;
    private readonly byte[]?[] bytes;
    private readonly HashSet<int> special;

    /// <param name="tokens">Tokens of the model by name, and their ids; every byte is among them.</param>
    /// <param name="added">The added tokens.</param>
    public BpeVocabulary(IReadOnlyDictionary<string, int> tokens, IReadOnlyList<(AddedToken Token, bool Normalized)> added)
    {
        Added = added;
        ids = new Dictionary<string, int>(tokens);
        var size = tokens.Values.Concat(added.Select(entry => entry.Token.Id)).Max() + 1;
        bytes = new byte[size][];
        foreach (var (name, id) in tokens)
        {
            bytes[id] = ByteAlphabet.ToBytes(name) ?? Encoding.UTF8.GetBytes(name);
        }

        foreach (var (token, _) in added)
        {
            ids[token.Content] = token.Id;
            bytes[token.Id] = Encoding.UTF8.GetBytes(token.Content);
        }

        special = [.. added.Where(entry => entry.Token.Special).Select(entry => entry.Token.Id)];
        SpecialTokens = added.Where(entry => entry.Token.Special).ToDictionary(entry => entry.Token.Content, entry => entry.Token.Id);
        ByteIds = [.. Enumerable.Range(0, 256).Select(value => tokens[ByteAlphabet.Letter((byte)value).ToString()])];
        Count = bytes.Count(entry => entry is not null);
    }

    /// <summary>The added tokens, and whether they are looked for in the normalized text.</summary>
    public IReadOnlyList<(AddedToken Token, bool Normalized)> Added { get; }

    /// <summary>The special tokens by name.</summary>
    public IReadOnlyDictionary<string, int> SpecialTokens { get; }

    /// <summary>The id of each byte.</summary>
    public IReadOnlyList<int> ByteIds { get; }

    /// <summary>The largest id plus one.</summary>
    public int Size => bytes.Length;

    /// <summary>Number of tokens; smaller than <see cref="Size"/> where ids were left out.</summary>
    public int Count { get; }

    /// <summary>The merges.</summary>
    public required BpeMerges Merges { get; init; }

    /// <summary>How texts are cut into words.</summary>
    public required PreTokenizer PreTokenizer { get; init; }

    /// <summary>A word that is a token is that token, whatever the merges say.</summary>
    public required bool IgnoresMerges { get; init; }

    /// <summary>Composes characters (Unicode normalization form C) first.</summary>
    public required bool Composes { get; init; }

    /// <summary>Ids before every text.</summary>
    public required IReadOnlyList<int> Prefix { get; init; }

    /// <summary>Ids after every text.</summary>
    public required IReadOnlyList<int> Suffix { get; init; }

    /// <summary>The id of a token; null where there is none of this name.</summary>
    public int? IdOf(string token) => ids.TryGetValue(token, out var id) ? id : null;

    /// <summary>The bytes of a token; null where there is none of this id.</summary>
    public byte[]? BytesOf(int id) => id >= 0 && id < bytes.Length ? bytes[id] : null;

    /// <summary>True for special tokens.</summary>
    public bool IsSpecial(int id) => special.Contains(id);

    /// <summary>The text as the normalizer leaves it.</summary>
    public string Normalize(string text) => Composes ? CanonicalComposition.Apply(text) : text;
}
