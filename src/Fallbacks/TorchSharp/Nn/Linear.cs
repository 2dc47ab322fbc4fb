using TorchSharp.Utils;
using static TorchSharp.torch;

namespace TorchSharp
{
    namespace Modules
    {
        /// <summary>y = x W^T + b. Its parameters outlive the dispose scope it is made in.</summary>
        public sealed class Linear : nn.Module<Tensor, Tensor>
        {
            [ComponentName(Name = nameof(bias))]
            private Parameter? _bias;

            [ComponentName(Name = nameof(weight))]
            private Parameter? _weight;

            internal Linear(Parameter weight, Parameter? bias) : base(nameof(Linear))
            {
                var shape = weight.shape;
                (out_features, in_features) = (shape[0], shape[1]);
                this.weight = weight;
                if (bias is not null) this.bias = bias;
            }

            internal Linear(long inputSize, long outputSize, bool hasBias, Device? device, ScalarType? dtype) : base(nameof(Linear))
            {
                (in_features, out_features) = (inputSize, outputSize);
                weight = nn.Parameter(empty(outputSize, inputSize, dtype, device));
                if (hasBias) bias = nn.Parameter(empty(outputSize, dtype, device));
                nn.init.Default(weight, _bias);
            }

            public long in_features { get; set; }

            public long out_features { get; set; }

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

            public override Tensor forward(Tensor tensor) => nn.functional.linear(tensor, _weight!, _bias);

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
            public static Modules.Linear Linear(long inputSize, long outputSize, bool hasBias = true, Device? device = null, ScalarType? dtype = null) =>
                new(inputSize, outputSize, hasBias, device, dtype);

            public static Modules.Linear Linear(Modules.Parameter weight, Modules.Parameter? bias = null) => new(weight, bias);
        }
    }
}
