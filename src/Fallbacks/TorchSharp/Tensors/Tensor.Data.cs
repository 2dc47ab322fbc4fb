using System.Numerics;
using TorchSharp.Native;

namespace TorchSharp;

public static partial class torch
{
    public unsafe partial class Tensor
    {
        /// <summary>The memory of a contiguous CPU tensor.</summary>
        public Span<byte> bytes
        {
            get
            {
                if (!is_contiguous()) throw new InvalidOperationException("Bytes() called on non-contiguous tensor.");
                var total = NumberOfElements * ElementSize;
                if (total > int.MaxValue) throw new ArgumentException("Span only supports up to int.MaxValue elements.");
                if (device_type != DeviceType.CPU)
                    throw new InvalidOperationException(
                        "Reading data from non-CPU memory is not supported. Move or copy the tensor to the cpu before reading.");
                return new Span<byte>(DataPointer, (int)total);
            }
            set
            {
                var target = bytes;
                if (target.Length != value.Length) throw new ArgumentException("Mismatched data sizes in SetBytes().");
                value.CopyTo(target);
            }
        }

        internal void* DataPointer
        {
            get
            {
                var pointer = Shim.hy_tensor_data(Handle);
                if (pointer is null && NumberOfElements > 0) Shim.Throw();
                GC.KeepAlive(this);
                return pointer;
            }
        }

        public Storage<T> storage<T>() where T : unmanaged => Storage<T>.Of(this);

        /// <summary>The elements, from a copy where they are not in the memory of the CPU.</summary>
        public Utils.TensorAccessor<T> data<T>() where T : unmanaged
        {
            if (ElementType(dtype) != typeof(T)) throw new ArgumentException($"{typeof(T).Name} is not compatible with {dtype}");
            return new Utils.TensorAccessor<T>(device_type == DeviceType.CPU ? this : cpu());
        }

        public T item<T>() where T : unmanaged
        {
            if (NumberOfElements != 1) throw new ArgumentException("Number of elements in the tensor must be 1");
            return data<T>().First();
        }

        public Scalar ToScalar()
        {
            double real, imaginary;
            long integer;
            Shim.Check(Shim.hy_tensor_item(Handle, &real, &imaginary, &integer));
            GC.KeepAlive(this);
            var type = dtype;
            return torch.is_complex(type) ? new Scalar(new Complex(real, imaginary))
                : torch.is_floating_point(type) ? new Scalar(real)
                : type == ScalarType.Bool ? new Scalar(integer != 0)
                : new Scalar(integer);
        }

        /// <summary>The .NET type of elements.</summary>
        private static Type? ElementType(ScalarType type) => type switch
        {
            ScalarType.Byte => typeof(byte),
            ScalarType.Int8 => typeof(sbyte),
            ScalarType.Int16 => typeof(short),
            ScalarType.Int32 => typeof(int),
            ScalarType.Int64 => typeof(long),
            ScalarType.Bool => typeof(bool),
            ScalarType.Float16 => typeof(Half),
            ScalarType.BFloat16 => typeof(BFloat16),
            ScalarType.Float32 => typeof(float),
            ScalarType.Float64 => typeof(double),
            ScalarType.ComplexFloat32 => typeof((float, float)),
            ScalarType.ComplexFloat64 => typeof(Complex),
            _ => null,
        };

        public override string ToString() =>
            IsInvalid ? "invalid tensor" : $"[{string.Join('x', shape)}], type = {dtype}, device = {device}";
    }
}
