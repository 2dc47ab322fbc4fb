using System.Runtime.CompilerServices;
using TorchSharp.Native;

namespace TorchSharp;

public static partial class torch
{
    public partial class Tensor
    {
        [IndexerName("TensorItems")]
        public Tensor this[params TensorIndex[] indices] { get => index(indices); set => Put(value, indices, false); }

        [IndexerName("TensorItems")]
        public Tensor this[params Tensor[] indices] { get => index(indices); set => Put(value, Indices(indices), false); }

        [IndexerName("TensorItems")]
        public Tensor this[params long[] indices] { get => Select(indices); set => Store(value, indices); }

        [IndexerName("TensorItems")]
        public Tensor this[long i1] { get => select(0, i1); set => Store(value, [i1]); }

        [IndexerName("TensorItems")]
        public Tensor this[long i1, long i2] { get => Select([i1, i2]); set => Store(value, [i1, i2]); }

        [IndexerName("TensorItems")]
        public Tensor this[long i1, long i2, long i3] { get => Select([i1, i2, i3]); set => Store(value, [i1, i2, i3]); }

        [IndexerName("TensorItems")]
        public Tensor this[long i1, long i2, long i3, long i4] { get => Select([i1, i2, i3, i4]); set => Store(value, [i1, i2, i3, i4]); }

        [IndexerName("TensorItems")]
        public Tensor this[long i1, long i2, long i3, long i4, long i5]
        {
            get => Select([i1, i2, i3, i4, i5]);
            set => Store(value, [i1, i2, i3, i4, i5]);
        }

        [IndexerName("TensorItems")]
        public Tensor this[long i1, long i2, long i3, long i4, long i5, long i6]
        {
            get => Select([i1, i2, i3, i4, i5, i6]);
            set => Store(value, [i1, i2, i3, i4, i5, i6]);
        }

        public Tensor index(params Tensor[] indices) => index(Indices(indices));

        public Tensor index(params TensorIndex[] indices)
        {
            var view = Slice(indices, out var tensors);
            if (tensors.Count == 0) return view;
            var result = Ops.index_Tensor.Call(view, Arg.OptionalTensors([.. tensors]));
            view.Dispose();
            return result;
        }

        public Tensor index_put_(Tensor value, params TensorIndex[] indices) => index_put_(value, indices, false);

        public Tensor index_put_(Tensor value, TensorIndex[] indices, bool accumulate = false)
        {
            Put(value, indices, accumulate);
            return this;
        }

        public Tensor index_put_(Tensor value, params Tensor[] indices) => index_put_(value, indices, false);

        public Tensor index_put_(Tensor value, Tensor[] indices, bool accumulate = false) =>
            index_put_(value, Indices(indices), accumulate);

        public Tensor index_put_(Scalar value, params TensorIndex[] indices)
        {
            using var filled = full([], value, dtype, device);
            return index_put_(filled, indices);
        }

        public Tensor index_put_(Scalar value, params Tensor[] indices) => index_put_(value, Indices(indices));

        private static TensorIndex[] Indices(Tensor[] tensors) => Array.ConvertAll(tensors, TensorIndex.Tensor);

        private Tensor Select(ReadOnlySpan<long> indices)
        {
            var view = alias();
            foreach (var position in indices) view = Replace(view, view.select(0, position));
            return view;
        }

        private void Store(Tensor value, ReadOnlySpan<long> indices)
        {
            using var view = Select(indices);
            view.copy_(value);
        }

        private void Put(Tensor value, TensorIndex[] indices, bool accumulate)
        {
            using var view = Slice(indices, out var tensors);
            var trimmed = WithoutLeadingOnes(value);
            if (tensors.Count > 0) Ops.index_put_.Update(view, Arg.OptionalTensors([.. tensors]), trimmed, accumulate);
            else if (accumulate) view.add_(trimmed);
            else view.copy_(trimmed);
            if (!ReferenceEquals(trimmed, value)) trimmed.Dispose();
        }

        /// <summary>A value may have more dimensions than its place as long as the first ones are 1.</summary>
        private static Tensor WithoutLeadingOnes(Tensor value)
        {
            var sizes = value.shape;
            var ones = sizes.TakeWhile(size => size == 1).Count();
            return ones == 0 ? value : value.view(sizes[ones..]);
        }

        /// <summary>
        /// Applies numbers, slices, None and Ellipsis as views, and collects tensors at the dimension of the view that they index.
        /// </summary>
        private Tensor Slice(TensorIndex[] indices, out List<Tensor?> tensors)
        {
            tensors = [];
            var view = alias();
            var consumed = indices.Sum(index => index.Consumes);
            if (consumed > Dimensions)
                throw new System.Runtime.InteropServices.ExternalException($"too many indices for tensor of dimension {Dimensions}");

            long at = 0;
            foreach (var index in indices)
            {
                switch (index.Kind)
                {
                    case TensorIndex.Sort.Single:
                        view = Replace(view, view.select(at, index.First!.Value));
                        break;
                    case TensorIndex.Sort.Slice:
                        if (!index.IsWhole) view = Replace(view, Ops.slice_Tensor.Call(view, at, index.First, index.Stop, index.Step ?? 1));
                        at++;
                        break;
                    case TensorIndex.Sort.Ellipsis:
                        at += Dimensions - consumed;
                        break;
                    case TensorIndex.Sort.None:
                        view = Replace(view, view.unsqueeze(at));
                        at++;
                        break;
                    case TensorIndex.Sort.Bool:
                        view = Replace(view, view.unsqueeze(at));
                        Record(tensors, zeros([index.First!.Value], ScalarType.Int64, device), at++);
                        break;
                    case TensorIndex.Sort.Tensor when index.IsNumber:
                        view = Replace(view, view.select(at, index.Indexer!.ToInt64()));
                        break;
                    default:
                        Record(tensors, index.Indexer!, at++);
                        break;
                }
            }
            return view;
        }

        private static void Record(List<Tensor?> tensors, Tensor index, long at)
        {
            while (tensors.Count < at) tensors.Add(null);
            tensors.Add(index);
        }

        private static Tensor Replace(Tensor old, Tensor replacement)
        {
            old.Dispose();
            return replacement;
        }
    }

    /// <summary>What may stand between the brackets of a tensor.</summary>
    public struct TensorIndex
    {
        internal enum Sort
        {
            None,
            Single,
            Slice,
            Ellipsis,
            Bool,
            Tensor,
        }

        internal Sort Kind { get; private init; }
        internal long? First { get; private init; }
        internal long? Stop { get; private init; }
        internal long? Step { get; private init; }
        internal torch.Tensor? Indexer { get; private init; }

        public static TensorIndex None = new() { Kind = Sort.None };
        public static TensorIndex Null = new() { Kind = Sort.None };
        public static TensorIndex Ellipsis = new() { Kind = Sort.Ellipsis };
        public static TensorIndex Colon = new() { Kind = Sort.Slice };

        public static TensorIndex Slice(long? start = null, long? stop = null, long? step = null) =>
            new() { Kind = Sort.Slice, First = start, Stop = stop, Step = step };

        public static TensorIndex Slice((int? start, int? end) range) => Slice(range.start, range.end);

        public static TensorIndex Slice(Range range) =>
            Slice(Position(range.Start), range.End is { IsFromEnd: true, Value: 0 } ? null : Position(range.End));

        public static TensorIndex Bool(bool value) => new() { Kind = Sort.Bool, First = value ? 1 : 0 };

        public static TensorIndex Single(long? index) =>
            new() { Kind = Sort.Single, First = index ?? throw new ArgumentNullException(nameof(index)) };

        public static TensorIndex Tensor(torch.Tensor tensor) => new() { Kind = Sort.Tensor, Indexer = tensor };

        public static implicit operator TensorIndex(long value) => Single(value);
        public static implicit operator TensorIndex(Index index) => Single(Position(index));
        public static implicit operator TensorIndex(Range range) => Slice(range);
        public static implicit operator TensorIndex((int? start, int? end) range) => Slice(range);

        /// <summary>Whether it takes its dimension as it is.</summary>
        internal readonly bool IsWhole => First is null or 0 && Stop is null && Step is null or 1;

        /// <summary>Whether it is a tensor that holds one number, which selects as a plain number does.</summary>
        internal readonly bool IsNumber => Indexer is { Dimensions: 0 } && Indexer.is_integral() && Indexer.dtype != ScalarType.Bool;

        /// <summary>How many dimensions of the tensor it stands for.</summary>
        internal readonly long Consumes => Kind switch
        {
            Sort.Single or Sort.Slice => 1,
            Sort.Tensor when Indexer!.dtype is ScalarType.Bool or ScalarType.Byte => Indexer.Dimensions,
            Sort.Tensor => 1,
            _ => 0,
        };

        private static long Position(Index index) => index.IsFromEnd ? -(long)index.Value : index.Value;
    }
}
