namespace Hybrid.Tokenizers;

/// <summary>
/// The printable stand-ins for bytes in the vocabularies of byte-level BPE (Radford et al. 2019, GPT-2): a printable Latin-1 character is
/// itself, the other 68 bytes are U+0100 and up, in order.
/// </summary>
internal static class ByteAlphabet
{
    private static readonly char[] Characters = Build();
    private static readonly Dictionary<char, byte> Bytes = Characters.Select((letter, value) => (letter, value)).ToDictionary(e => e.letter, e => (byte)e.value);

    /// <summary>The stand-in of a byte.</summary>
    public static char Letter(byte value) => Characters[value];

    /// <summary>The stand-ins of bytes.</summary>
    public static string Letters(ReadOnlySpan<byte> bytes)
    {
        var letters = new char[bytes.Length];
        for (var i = 0; i < letters.Length; i++)
        {
            letters[i] = Characters[bytes[i]];
        }

        return new string(letters);
    }

    /// <summary>The bytes that a text stands for; null where one of its characters stands for none.</summary>
    public static byte[]? ToBytes(string letters)
    {
        var bytes = new byte[letters.Length];
        for (var i = 0; i < bytes.Length; i++)
        {
            if (!Bytes.TryGetValue(letters[i], out bytes[i]))
            {
                return null;
            }
        }

        return bytes;
    }

    private static char[] Build()
    {
        var next = (char)0x100;
        return [.. Enumerable.Range(0, 256).Select(value => value is (>= '!' and <= '~') or (>= 0xA1 and <= 0xAC) or (>= 0xAE and <= 0xFF) ? (char)value : next++)];
    }
}
