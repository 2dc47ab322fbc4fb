using TorchSharp.Utils;
using static TorchSharp.torch;

namespace TorchSharp
{
    namespace Modules
    {
        /// <summary>(x - mean) / sqrt(var + eps) * w + b over the last dimensions. Its parameters outlive the dispose scope it is made in.</summary>
        public sealed class LayerNorm : nn.Module<Tensor, Tensor>
        {
            [ComponentName(Name = nameof(bias))]
            private Parameter? _bias;

            [ComponentName(Name = nameof(weight))]
            private Parameter? _weight;

            internal LayerNorm(long[] normalized_shape, double eps, bool elementwise_affine, bool bias, Device? device, ScalarType? dtype)
                : base(nameof(LayerNorm))
            {
                this.normalized_shape = normalized_shape;
                this.eps = eps;
                this.elementwise_affine = elementwise_affine;
                if (elementwise_affine)
                {
                    weight = nn.Parameter(empty(normalized_shape, dtype, device));
                    if (bias) this.bias = nn.Parameter(empty(normalized_shape, dtype, device));
                }
                reset_parameters();
            }

            public long[] normalized_shape { get; set; }

            public double eps { get; set; }

            public bool elementwise_affine { get; set; }

            public Parameter weight
            {
                get => _weight!;
                set
                {
                    if (value.Handle != _weight?.Handle) Hold(nameof(weight), ref _weight, value);
                }
            }

            public Parameter? bias
            {
                get => _bias;
                set => Hold(nameof(bias), ref _bias, value);
            }

            public void reset_parameters()
            {
                if (_weight is not null) nn.init.ones_(_weight);
                if (_bias is not null) nn.init.zeros_(_bias);
            }

            public override Tensor forward(Tensor tensor) => nn.functional.layer_norm(tensor, normalized_shape, _weight, _bias, eps);

            protected internal override nn.Module _to(Device device, ScalarType dtype, bool non_blocking) =>
                Move(ref _weight, ref _bias, dtype, device);

            protected internal override nn.Module _to(DeviceType deviceType, int deviceIndex, bool non_blocking) =>
                Move(ref _weight, ref _bias, null, new Device(deviceType, deviceIndex));

            protected internal override nn.Module _to(ScalarType dtype, bool non_blocking) => Move(ref _weight, ref _bias, dtype, null);

            protected override void Dispose(bool disposing)
            {
                if (disposing)
                {
                    _weight?.Dispose();
                    _bias?.Dispose();
                }
                base.Dispose(disposing);
            }
        }
    }

    public static partial class torch
    {
        public static partial class nn
        {
            public static Modules.LayerNorm LayerNorm(long[] normalized_shape, double eps = 1e-05, bool elementwise_affine = true, bool bias = true, Device? device = null, ScalarType? dtype = null) =>
                new(normalized_shape, eps, elementwise_affine, bias, device, dtype);

            public static Modules.LayerNorm LayerNorm(long normalized_shape, double eps = 1e-05, bool elementwise_affine = true, bool bias = true, Device? device = null, ScalarType? dtype = null) =>
                new([normalized_shape], eps, elementwise_affine, bias, device, dtype);
        }
    }
}
