using TorchSharp.Utils;

namespace TorchSharp
{
    /// <summary>TorchSharp's own format of a tensor: LEB128 type, rank and sizes, then the little-endian elements.</summary>
    public static partial class TensorExtensionMethods
    {
        private const string SameOrigin = "Make sure that the model you are loading into is exactly the same as the origin.";

        public static void Save(this torch.Tensor tensor, BinaryWriter writer)
        {
            writer.Encode((int)tensor.dtype);
            var shape = tensor.shape;
            writer.Encode(shape.Length);
            foreach (var size in shape) writer.Encode(size);
            tensor.WriteBytesToStream(writer.BaseStream);
        }

        public static void Save(this torch.Tensor tensor, Stream stream)
        {
            using var writer = new BinaryWriter(stream, System.Text.Encoding.UTF8, leaveOpen: true);
            tensor.Save(writer);
        }

        public static void Save(this torch.Tensor tensor, string location)
        {
            using var stream = File.Create(location);
            tensor.Save(stream);
        }

        /// <summary>Reads into an existing tensor of the same type and shape; with <paramref name="skip"/> only past it.</summary>
        public static void Load(this torch.Tensor tensor, BinaryReader reader, bool skip = false)
        {
            var (type, shape) = ReadHeader(reader);
            if (type != tensor.dtype)
                throw new ArgumentException("Mismatched tensor data types while loading. " + SameOrigin);
            if (!skip && !shape.AsSpan().SequenceEqual(tensor.shape))
                throw new ArgumentException("Mismatched tensor shape while loading. " + SameOrigin);
            if (skip) SkipElements(reader, type, shape);
            else tensor.ReadBytesFromStream(reader.BaseStream);
        }

        /// <summary>Reads into a tensor, or into a new one where there is none.</summary>
        public static void Load(ref torch.Tensor? tensor, BinaryReader reader, bool skip = false)
        {
            if (tensor is null) tensor = Load(reader, skip);
            else tensor.Load(reader, skip);
        }

        public static torch.Tensor Load(BinaryReader reader, bool skip = false)
        {
            var (type, shape) = ReadHeader(reader);
            if (skip)
            {
                SkipElements(reader, type, shape);
                return null!;
            }
            var tensor = torch.empty(shape, type);
            tensor.ReadBytesFromStream(reader.BaseStream);
            return tensor;
        }

        private static (torch.ScalarType Type, long[] Shape) ReadHeader(BinaryReader reader)
        {
            var type = (torch.ScalarType)reader.Decode();
            var shape = new long[reader.Decode()];
            for (var i = 0; i < shape.Length; i++) shape[i] = reader.Decode();
            return (type, shape);
        }

        private static void SkipElements(BinaryReader reader, torch.ScalarType type, long[] shape) =>
            reader.BaseStream.Seek(shape.TotalSize() * type.ElementSize(), SeekOrigin.Current);
    }

    public static partial class torch
    {
        public unsafe partial class Tensor
        {
            public static Tensor Load(BinaryReader reader) => TensorExtensionMethods.Load(reader);

            /// <summary>Writes the elements of a contiguous tensor.</summary>
            public void WriteBytesToStream(Stream stream, int bufferSize = 1024)
            {
                if (!is_contiguous()) throw new InvalidOperationException("Bytes() called on non-contiguous tensor.");
                using var _ = NewDisposeScope();
                ForEachPiece(detach().cpu(), piece => stream.Write(piece));
            }

            /// <summary>Replaces the elements by what the stream holds next.</summary>
            public void ReadBytesFromStream(Stream stream, int bufferSize = 1024)
            {
                using var _ = NewDisposeScope();
                var target = detach();
                var direct = target.is_contiguous() && target.is_cpu();
                var buffer = direct ? target : empty(shape, dtype);
                ForEachPiece(buffer, stream.ReadExactly);
                if (!direct) target.copy_(buffer);
            }

            private delegate void Piece(Span<byte> bytes);

            /// <summary>The memory of a contiguous CPU tensor in spans, which reach 2 GB at most.</summary>
            private static void ForEachPiece(Tensor tensor, Piece use)
            {
                const long largest = 1 << 30;
                var start = (byte*)tensor.DataPointer;
                var total = tensor.NumberOfElements * tensor.ElementSize;
                for (long done = 0; done < total; done += largest) use(new Span<byte>(start + done, (int)Math.Min(largest, total - done)));
                GC.KeepAlive(tensor);
            }
        }
    }
}

namespace TorchSharp.Utils
{
    /// <summary>Unsigned LEB128.</summary>
    internal static class LEB128
    {
        public static void Encode(this BinaryWriter writer, long value) => writer.Write7BitEncodedInt64(value);

        public static long Decode(this BinaryReader reader) => reader.Read7BitEncodedInt64();
    }
}
