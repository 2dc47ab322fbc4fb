using System.Security.Cryptography;
using System.Text;
using Hybrid.Tokenizers;
using Xunit;

namespace Hybrid.Tests.Tokenizers;

/// <summary>Normalization form C against Python's unicodedata: random strings of what composes, decomposes and combines, and every character.</summary>
public class CanonicalCompositionTests
{
    [Fact]
    public void TextsAreThoseOfAnIndependentProgram()
    {
        foreach (var test in TokenizerSamples.Json("nfc.cases")["cases"]!.AsArray())
        {
            var (text, expected) = (test![0]!.GetValue<string>(), test[1]!.GetValue<string>());
            Assert.Equal(Codes(expected), Codes(CanonicalComposition.Apply(text)));
            Assert.Equal(Codes(expected), Codes(CanonicalComposition.Apply(expected)));
        }
    }

    /// <summary>Each character between a letter and a cedilla, which many characters compose with.</summary>
    [Fact]
    public void EveryCharacterIsThatOfAnIndependentProgram()
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        for (var character = 0; character <= 0x10ffff; character++)
        {
            if (Rune.TryCreate(character, out var rune))
            {
                hash.AppendData(Encoding.UTF8.GetBytes(CanonicalComposition.Apply($"e{rune}\u0327") + "\n"));
            }
        }

        Assert.Equal(TokenizerSamples.Json("nfc.cases")["sha256"]!.GetValue<string>(), Convert.ToHexStringLower(hash.GetHashAndReset()));
    }

    [Fact]
    public void TextThatStaysIsTheSameObject()
    {
        const string text = "Grüße, Привет, 日本語, 한국어, \ud83d\ude00";
        Assert.Same(text, CanonicalComposition.Apply(text));
    }

    private static string Codes(string text) => string.Join(' ', text.EnumerateRunes().Select(rune => $"{rune.Value:X4}"));
}
