using TorchSharp.Native;

namespace TorchSharp;

public static partial class torch
{
    public partial class Tensor
    {
        public unsafe long[] shape
        {
            get
            {
                var sizes = new long[Dimensions];
                fixed (long* target = sizes) Shim.hy_tensor_sizes(Handle, target, sizes.Length);
                return sizes;
            }
        }

        public long[] size() => shape;

        public unsafe long size(int dim)
        {
            var index = Wrap(dim);
            var sizes = stackalloc long[(int)Dimensions];
            Shim.hy_tensor_sizes(Handle, sizes, (int)Dimensions);
            return sizes[index];
        }

        public unsafe long[] stride()
        {
            var strides = new long[Dimensions];
            fixed (long* target = strides) Shim.hy_tensor_strides(Handle, target, strides.Length);
            return strides;
        }

        public long stride(int dim) => stride()[Wrap(dim)];

        public long Dimensions => Shim.hy_tensor_dim(Handle);
        public long dim() => Dimensions;
        public long ndim => Dimensions;

        public long NumberOfElements => Shim.hy_tensor_numel(Handle);
        public long numel() => NumberOfElements;

        public long ElementSize => Shim.hy_tensor_element_size(Handle);
        public long element_size() => ElementSize;

        public long storage_offset() => Shim.hy_tensor_storage_offset(Handle);

        public bool is_contiguous() => Shim.hy_tensor_is_contiguous(Handle) != 0;

        public ScalarType dtype => (ScalarType)Shim.hy_tensor_dtype(Handle);
        public bool is_integral() => torch.is_integral(dtype);
        public bool is_floating_point() => torch.is_floating_point(dtype);
        public bool is_complex() => torch.is_complex(dtype);

        public DeviceType device_type => (DeviceType)(byte)Shim.hy_tensor_device(Handle);
        public int device_index => (int)(Shim.hy_tensor_device(Handle) >> 32);
        public Device device => device_type == DeviceType.CPU ? CPU : new Device(device_type, device_index);
        public bool is_cuda => device_type == DeviceType.CUDA;
        public bool is_meta => device_type == DeviceType.META;
        public bool is_cpu() => device_type == DeviceType.CPU;
        public bool is_sparse => Shim.hy_tensor_is_sparse(Handle) != 0;

        private long Wrap(long dim)
        {
            var dimensions = Dimensions;
            if (dim < -dimensions || dim >= dimensions)
                throw new System.Runtime.InteropServices.ExternalException(
                    $"Dimension out of range (expected to be in range of [{-dimensions}, {dimensions - 1}], but got {dim})");
            return dim < 0 ? dim + dimensions : dim;
        }
    }
}
