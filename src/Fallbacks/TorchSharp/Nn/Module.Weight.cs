using TorchSharp.Modules;

namespace TorchSharp;

public static partial class torch
{
    public static partial class nn
    {
        public partial class Module
        {
            // What Linear, convolutions and LayerNorm do with their weight and bias, which to() replaces.

            /// <summary>Frees what the field held and registers the new value, which outlives the dispose scope it was made in.</summary>
            private protected void Hold(string name, ref Parameter? field, Parameter? value)
            {
                field?.Dispose();
                value?.DetachFromDisposeScope();
                ConditionallyRegisterParameter(name, field = value);
            }

            private protected Module Move(ref Parameter? weight, ref Parameter? bias, ScalarType? dtype, Device? device)
            {
                if (weight is not null && ReplaceParameter(dtype, device, weight, out var w)) Hold(nameof(weight), ref weight, w);
                if (bias is not null && ReplaceParameter(dtype, device, bias, out var b)) Hold(nameof(bias), ref bias, b);
                return this;
            }
        }
    }
}
