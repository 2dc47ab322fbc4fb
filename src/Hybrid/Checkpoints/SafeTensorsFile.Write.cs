using System.Buffers;
using System.Buffers.Binary;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using Hybrid.Kernels.Cpu;
using static TorchSharp.torch;

namespace Hybrid.Checkpoints;

/// <content>Writing.</content>
public sealed partial class SafeTensorsFile
{
    // Half a surrogate pair is an error; the JSON writer would put another character in its place, and two names might become one.
    private static readonly UTF8Encoding Utf8 = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);

    /// <summary>
    /// Writes a file by way of a temporary one beside it, which is flushed to disk and renamed: on an error nothing is left behind, and a
    /// file that was there before stays. Tensors are stored by falling alignment, then by name.
    /// </summary>
    /// <param name="path">The file to write or to replace.</param>
    /// <param name="tensors">Names and tensors, of any shape and device.</param>
    /// <param name="metadata">Free text to store along; null for none.</param>
    /// <exception cref="ArgumentException">A name comes twice or is no text, or the format lacks a dtype.</exception>
    public static void Write(
        string path, IEnumerable<(string Name, Tensor Tensor)> tensors, IReadOnlyDictionary<string, string>? metadata = null)
    {
        var entries = tensors.Select(entry => Describe(path, entry.Name, entry.Tensor)).ToArray();
        var twice = entries.GroupBy(entry => entry.Name).FirstOrDefault(group => group.Count() > 1);
        if (twice is not null)
        {
            throw new ArgumentException(
                $"{path}: each tensor needs a name of its own; got '{twice.Key}' {twice.Count()} times.", nameof(tensors));
        }

        entries =
        [
            .. entries.OrderByDescending(entry => SafeTensorsType.Rank(entry.Type)).ThenBy(entry => entry.Name, StringComparer.Ordinal),
        ];
        var header = Header(entries, metadata ?? new Dictionary<string, string>());
        if (header.Length - PrefixLength > MaxHeaderLength)
        {
            throw new ArgumentException(
                $"{path}: the header may have {MaxHeaderLength} bytes; it would have {header.Length}.", nameof(tensors));
        }

        AtomicFile.Write(path, header.Length + entries.Sum(entry => entry.ByteSize), stream =>
        {
            stream.Write(header);
            foreach (var entry in entries)
            {
                WriteData(stream, entry);
            }
        });
    }

    private static Source Describe(string path, string name, Tensor tensor)
    {
        if (name == SafeTensorsHeaderReader.MetadataKey)
        {
            throw new ArgumentException($"{path}: a tensor cannot be named '{name}', which the format keeps for itself.", nameof(tensor));
        }

        var type = tensor.dtype;
        if (!SafeTensorsType.Has(type))
        {
            throw new ArgumentException(
                $"{path}: tensor '{name}' must have a dtype of {SafeTensorsType.Names}; got {type}.", nameof(tensor));
        }

        var shape = tensor.shape;
        return new Source(name, tensor, type, shape, shape.Aggregate(1L, (product, size) => product * size) * SafeTensorsType.Size(type));
    }

    private static byte[] Header(IReadOnlyList<Source> entries, IReadOnlyDictionary<string, string> metadata)
    {
        var buffer = new ArrayBufferWriter<byte>();
        using (var json = new Utf8JsonWriter(buffer, new JsonWriterOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
        {
            json.WriteStartObject();
            if (metadata.Count > 0)
            {
                WriteMetadata(json, metadata);
            }

            var begin = 0L;
            foreach (var entry in entries)
            {
                WriteEntry(json, entry, begin);
                begin += entry.ByteSize;
            }

            json.WriteEndObject();
        }

        // Spaces fill the header up, so that the data begins at a multiple of the largest element size.
        var padded = (buffer.WrittenCount + PrefixLength - 1) / PrefixLength * PrefixLength;
        var header = new byte[PrefixLength + padded];
        header.AsSpan().Fill((byte)' ');
        BinaryPrimitives.WriteInt64LittleEndian(header, padded);
        buffer.WrittenSpan.CopyTo(header.AsSpan(PrefixLength));
        return header;
    }

    private static void WriteMetadata(Utf8JsonWriter json, IReadOnlyDictionary<string, string> metadata)
    {
        json.WriteStartObject(SafeTensorsHeaderReader.MetadataKey);
        foreach (var (key, text) in metadata)
        {
            json.WriteString(Utf8.GetBytes(key), Utf8.GetBytes(text));
        }

        json.WriteEndObject();
    }

    private static void WriteEntry(Utf8JsonWriter json, Source entry, long begin)
    {
        json.WriteStartObject(Utf8.GetBytes(entry.Name));
        json.WriteString("dtype", SafeTensorsType.Name(entry.Type));
        json.WriteStartArray("shape");
        foreach (var size in entry.Shape)
        {
            json.WriteNumberValue(size);
        }

        json.WriteEndArray();
        json.WriteStartArray("data_offsets");
        json.WriteNumberValue(begin);
        json.WriteNumberValue(begin + entry.ByteSize);
        json.WriteEndArray();
        json.WriteEndObject();
    }

    // One tensor at a time, and without a copy where it is contiguous on the CPU.
    private static unsafe void WriteData(FileStream stream, Source entry)
    {
        if (entry.ByteSize == 0)
        {
            return;
        }

        using var guard = no_grad();
        using var scope = NewDisposeScope();
        var tensor = entry.Tensor;
        tensor = tensor.device_type == TorchSharp.DeviceType.CPU ? tensor : tensor.cpu();
        tensor = tensor.is_contiguous() ? tensor : tensor.contiguous();
        var address = TensorMemory.Address(tensor);
        const int most = 1 << 30;
        for (var done = 0L; done < entry.ByteSize; done += most)
        {
            stream.Write(new ReadOnlySpan<byte>(address + done, (int)Math.Min(most, entry.ByteSize - done)));
        }

        GC.KeepAlive(tensor);
    }

    private sealed record Source(string Name, Tensor Tensor, ScalarType Type, long[] Shape, long ByteSize);
}
