using System.Text;
using Hybrid.Modeling;

namespace Hybrid.Tokenizers;

/// <summary>Decodes tokens that are bytes of UTF-8, and holds back those of a character that is not complete.</summary>
/// <param name="bytesOf">The bytes of an id.</param>
internal sealed class Utf8TokenStream(Func<int, byte[]> bytesOf) : ITokenStream
{
    private readonly Decoder decoder = Encoding.UTF8.GetDecoder();

    public string Append(int id) => Decode(bytesOf(id), flush: false);

    public string Finish() => Decode([], flush: true);

    private string Decode(byte[] bytes, bool flush)
    {
        var characters = new char[Encoding.UTF8.GetMaxCharCount(bytes.Length)];
        return new string(characters, 0, decoder.GetChars(bytes, characters, flush));
    }
}
