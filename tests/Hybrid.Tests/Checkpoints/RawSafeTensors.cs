using System.Buffers.Binary;
using System.Text;
using System.Text.Json;

namespace Hybrid.Tests.Checkpoints;

/// <summary>The format, written and taken apart by hand: what the library's own reader and writer are held against.</summary>
internal static class RawSafeTensors
{
    /// <summary>A file of a header and data; the length before the header is right unless given.</summary>
    public static byte[] File(byte[] header, byte[] data, ulong? length = null)
    {
        var file = new byte[8 + header.Length + data.Length];
        BinaryPrimitives.WriteUInt64LittleEndian(file, length ?? (ulong)header.Length);
        header.CopyTo(file, 8);
        data.CopyTo(file, 8 + header.Length);
        return file;
    }

    public static byte[] File(string header, int dataLength) => File(Encoding.UTF8.GetBytes(header), new byte[dataLength]);

    /// <summary>Dtype, shape and bytes of a tensor.</summary>
    public static (string Type, long[] Shape, long Begin, byte[] Data) Tensor(byte[] file, string name)
    {
        var start = 8 + (int)BinaryPrimitives.ReadUInt64LittleEndian(file);
        using var header = JsonDocument.Parse(file.AsMemory(8, start - 8));
        var entry = header.RootElement.GetProperty(name);
        var shape = entry.GetProperty("shape").EnumerateArray().Select(size => size.GetInt64()).ToArray();
        var offsets = entry.GetProperty("data_offsets").EnumerateArray().Select(offset => offset.GetInt32()).ToArray();
        return (entry.GetProperty("dtype").GetString()!, shape, offsets[0], file[(start + offsets[0])..(start + offsets[1])]);
    }
}
