using System.Text;
using Hybrid.Tokenizers;

namespace Hybrid.Modeling;

/// <summary>Turns text into token ids and back.</summary>
public interface ITokenizer
{
    /// <summary>Number of ids V; every id is 0..V-1.</summary>
    int VocabSize { get; }

    /// <summary>The ids of a text.</summary>
    /// <param name="text">Any text.</param>
    /// <returns>Its ids.</returns>
    int[] Encode(string text);

    /// <summary>The text of a whole sequence; what is no text becomes replacement characters.</summary>
    /// <param name="ids">Ids 0..V-1.</param>
    /// <returns>The text.</returns>
    string Decode(IEnumerable<int> ids);

    /// <summary>Starts decoding ids that arrive one by one.</summary>
    /// <returns>A decoder for one sequence.</returns>
    ITokenStream CreateStream();
}

/// <summary>Decodes a sequence id by id; it never emits part of a character.</summary>
public interface ITokenStream
{
    /// <summary>Adds an id.</summary>
    /// <param name="id">The next id.</param>
    /// <returns>The characters that are complete now; often none.</returns>
    string Append(int id);

    /// <summary>Ends the sequence.</summary>
    /// <returns>A replacement character for an unfinished one, or nothing.</returns>
    string Finish();
}

/// <summary>The tokenizer without a vocabulary file: the bytes of UTF-8 are the ids.</summary>
public sealed class ByteTokenizer : ITokenizer
{
    /// <summary>Number of ids.</summary>
    public const int Vocabulary = 256;

    /// <inheritdoc/>
    public int VocabSize => Vocabulary;

    /// <inheritdoc/>
    public int[] Encode(string text) => [.. Encoding.UTF8.GetBytes(text).Select(value => (int)value)];

    /// <inheritdoc/>
    public string Decode(IEnumerable<int> ids) => Encoding.UTF8.GetString([.. ids.Select(ToByte)]);

    /// <inheritdoc/>
    public ITokenStream CreateStream() => new Utf8TokenStream(id => [ToByte(id)]);

    private static byte ToByte(int id) =>
        id is >= 0 and < Vocabulary
            ? (byte)id
            : throw new ArgumentOutOfRangeException(nameof(id), id, $"ByteTokenizer: an id must be 0..{Vocabulary - 1}; got {id}.");
}
