using System.Text;
using Hybrid.Modeling;
using Xunit;

namespace Hybrid.Tests.Modeling;

public class ByteTokenizerTests
{
    private readonly ByteTokenizer tokenizer = new();

    public static TheoryData<string> Texts => new(
        "", "plain", "Grüße", "日本語テキスト", "😀", "a😀b👍🏽c", "👩‍👩‍👧‍👦", "\u0000\u007f\u0080\u07ff\u0800\uffff", "\U00010000\U0010ffff", "line\r\nline\ttab");

    [Theory]
    [MemberData(nameof(Texts))]
    public void TextsSurviveTheRoundTrip(string text)
    {
        var ids = tokenizer.Encode(text);
        Assert.Equal(Encoding.UTF8.GetBytes(text), ids.Select(id => (byte)id));
        Assert.Equal(text, tokenizer.Decode(ids));
        Assert.Equal(text, string.Concat(Pieces(ids)));
    }

    [Theory]
    [MemberData(nameof(Texts))]
    public void AStreamEmitsEachCharacterWithItsLastByte(string text)
    {
        var stream = tokenizer.CreateStream();
        foreach (var rune in text.EnumerateRunes())
        {
            var bytes = Encoding.UTF8.GetBytes(rune.ToString());
            Assert.All(bytes[..^1], value => Assert.Empty(stream.Append(value)));
            Assert.Equal(rune.ToString(), stream.Append(bytes[^1]));
        }

        Assert.Empty(stream.Finish());
    }

    // A replacement character for each longest piece that starts a character but does not end one (Unicode 15, table 3-8).
    [Theory]
    [InlineData(new byte[] { 0x41, 0xff, 0x42 }, "A\ufffdB")]
    [InlineData(new byte[] { 0x80, 0x80 }, "\ufffd\ufffd")]
    [InlineData(new byte[] { 0xf0, 0x9f, 0x98, 0x41 }, "\ufffdA")]
    [InlineData(new byte[] { 0xf0, 0x9f, 0x98 }, "\ufffd")]
    [InlineData(new byte[] { 0xc3 }, "\ufffd")]
    [InlineData(new byte[] { 0xc0, 0xaf }, "\ufffd\ufffd")]
    [InlineData(new byte[] { 0xed, 0xa0, 0x80 }, "\ufffd\ufffd\ufffd")]
    [InlineData(new byte[] { 0xe4, 0xf0, 0x9f, 0x98, 0x80 }, "\ufffd\U0001f600")]
    public void BytesThatAreNoUtf8BecomeReplacementCharacters(byte[] bytes, string text)
    {
        var ids = bytes.Select(value => (int)value).ToArray();
        Assert.Equal(text, tokenizer.Decode(ids));
        Assert.Equal(text, string.Concat(Pieces(ids)));
    }

    [Fact]
    public void RandomBytesNeverSplitACharacter()
    {
        var random = new Random(1);
        for (var trial = 0; trial < 300; trial++)
        {
            // Bytes above 127 half of the time, so that starts and continuations of characters meet in every way.
            var ids = Enumerable.Range(0, 40).Select(_ => random.Next(2) == 0 ? random.Next(128, 256) : random.Next(256)).ToArray();
            var pieces = Pieces(ids);
            Assert.Equal(tokenizer.Decode(ids), string.Concat(pieces));
            Assert.All(pieces, piece => Assert.True(IsWhole(piece), $"trial {trial}: half a character"));
        }
    }

    [Fact]
    public void AStreamStartsAfreshAfterItsEnd()
    {
        var stream = tokenizer.CreateStream();
        Assert.Empty(stream.Append(0xf0));
        Assert.Equal("\ufffd", stream.Finish());
        Assert.Equal("A", stream.Append('A'));
        Assert.Empty(stream.Finish());
    }

    [Fact]
    public void StreamsAreIndependent()
    {
        var (first, second) = (tokenizer.CreateStream(), tokenizer.CreateStream());
        Assert.Empty(first.Append(0xc3));
        Assert.Equal("x", second.Append('x'));
        Assert.Equal("ü", first.Append(0xbc));
    }

    [Theory]
    [InlineData(256)]
    [InlineData(-1)]
    public void AnIdThatIsNoByteIsRefused(int id)
    {
        Assert.Equal(256, tokenizer.VocabSize);
        var error = Assert.Throws<ArgumentOutOfRangeException>(() => tokenizer.Decode([id]));
        Assert.StartsWith($"ByteTokenizer: an id must be 0..255; got {id}.", error.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => tokenizer.CreateStream().Append(id));
    }

    /// <summary>True where no surrogate stands without its other half.</summary>
    internal static bool IsWhole(string text)
    {
        for (var i = 0; i < text.Length; i++)
        {
            if (char.IsHighSurrogate(text[i]) && i + 1 < text.Length && char.IsLowSurrogate(text[i + 1]))
            {
                i++;
            }
            else if (char.IsSurrogate(text[i]))
            {
                return false;
            }
        }

        return true;
    }

    private List<string> Pieces(int[] ids)
    {
        var stream = tokenizer.CreateStream();
        return [.. ids.Select(stream.Append).ToArray(), stream.Finish()];
    }
}
