#nullable disable
using System.Collections;
using System.Numerics;
using TorchSharp.Native;

namespace TorchSharp;

public static partial class torch
{
    /// <summary>The memory behind a tensor. It begins where the storage does, not where the tensor does.</summary>
    public abstract class Storage
    {
        protected Tensor _tensor;
        protected nint _tensor_data_ptr;

        protected Storage() { }

        protected Storage(Tensor tensor) : this(tensor, 0) { }

        protected Storage(Tensor tensor, nint data_ptr)
        {
            _tensor = tensor;
            _tensor_data_ptr = data_ptr;
            if (data_ptr == 0) this.data_ptr();
        }

        public abstract int element_size();

        public nint data_ptr()
        {
            if (_tensor_data_ptr == 0) _tensor_data_ptr = Shim.hy_storage_data(_tensor.Handle);
            return _tensor_data_ptr;
        }

        public ulong nbytes() => Shim.hy_storage_bytes(_tensor.Handle);
    }

    public sealed unsafe class Storage<T> : Storage, IDisposable, IEnumerable<T> where T : unmanaged
    {
        private Storage(Tensor tensor) : base(tensor) { }

        /// <summary>The storage of a tensor, or of a copy with elements of type T where it has others.</summary>
        internal static Storage<T> Of(Tensor tensor)
        {
            ScalarType? type =
                typeof(T) == typeof(byte) ? ScalarType.Byte :
                typeof(T) == typeof(bool) ? ScalarType.Bool :
                typeof(T) == typeof(int) ? ScalarType.Int32 :
                typeof(T) == typeof(long) ? ScalarType.Int64 :
                typeof(T) == typeof(float) ? ScalarType.Float32 :
                typeof(T) == typeof(double) ? ScalarType.Float64 :
                typeof(T) == typeof((float, float)) ? ScalarType.ComplexFloat32 :
                typeof(T) == typeof(Complex) ? ScalarType.ComplexFloat64 : null;
            return type is { } known ? new Storage<T>(tensor.to_type(known)) : throw new NotSupportedException();
        }

        public Device device => _tensor.device;

        public int Count => checked((int)(nbytes() / (ulong)sizeof(T)));

        public override int element_size() => sizeof(T);

        public T this[int index]
        {
            get => Elements[index];
            set => Elements[index] = value;
        }

        public T[] ToArray() => Elements.ToArray();

        public IList<T> tolist() => ToArray();

        public void fill_(T value) => Elements.Fill(value);

        public void copy_(IList<T> array) => CopyFrom(array, 0);

        public void CopyTo(IList<T> array, int arrayIndex)
        {
            var elements = Elements;
            for (var i = 0; i < elements.Length && i + arrayIndex < array.Count; i++) array[i + arrayIndex] = elements[i];
        }

        public void CopyFrom(IList<T> array, int arrayIndex)
        {
            var elements = Elements;
            for (var i = 0; i < elements.Length && i + arrayIndex < array.Count; i++) elements[i] = array[i + arrayIndex];
        }

        public Storage<T> cpu() => _tensor.cpu().storage<T>();

        public Storage<T> cuda(Device device = null) => _tensor.cuda(device).storage<T>();

        public IEnumerator<T> GetEnumerator() => ((IEnumerable<T>)ToArray()).GetEnumerator();

        IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

        public void Dispose() => _tensor_data_ptr = 0;

        private Span<T> Elements => new((void*)data_ptr(), Count);
    }
}
