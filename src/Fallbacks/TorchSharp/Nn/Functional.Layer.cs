using TorchSharp.Native;

namespace TorchSharp;

public static partial class torch
{
    public static partial class nn
    {
        public static partial class functional
        {
            private static readonly Op Linear = "linear", LayerNorm = "layer_norm", Convolve = "conv1d", ConvolvePadded = "conv1d.padding",
                Pad = "pad";

            public static Tensor linear(Tensor input, Tensor weights, Tensor? bias = null) => Linear.Call(input, weights, bias);

            public static Tensor layer_norm(Tensor input, long[] normalized_shape, Tensor? weight = null, Tensor? bias = null, double eps = 1e-05) =>
                LayerNorm.Call(input, normalized_shape, weight, bias, eps);

            public static Tensor conv1d(Tensor input, Tensor weight, Tensor? bias = null, long? stride = null, long? padding = null, long? dilation = null, long groups = 1) =>
                Convolve.Call(input, weight, bias, One(stride, 1), One(padding, 0), One(dilation, 1), groups);

            public static Tensor conv1d_padding(Tensor input, Tensor weight, Tensor? bias = null, long? stride = null, Padding padding = Padding.Valid, long? dilation = null, long groups = 1) =>
                ConvolvePadded.Call(input, weight, bias, One(stride, 1), padding == Padding.Same ? "same" : "valid", One(dilation, 1), groups);

            public static Tensor pad(Tensor input, long pad, PaddingModes mode = PaddingModes.Constant, double value = 0) =>
                functional.pad(input, [pad], mode, value);

            public static Tensor pad(Tensor input, (long, long) pad, PaddingModes mode = PaddingModes.Constant, double value = 0) =>
                functional.pad(input, [pad.Item1, pad.Item2], mode, value);

            public static Tensor pad(Tensor input, (long, long, long, long) pad, PaddingModes mode = PaddingModes.Constant, double value = 0) =>
                functional.pad(input, [pad.Item1, pad.Item2, pad.Item3, pad.Item4], mode, value);

            public static Tensor pad(Tensor input, long[] pad, PaddingModes mode = PaddingModes.Constant, double value = 0) =>
                functional.pad(input, pad.AsSpan(), mode, value);

            /// <summary>Amounts in pairs (before, after), last dimension first.</summary>
            public static Tensor pad(Tensor input, ReadOnlySpan<long> pad, PaddingModes mode = PaddingModes.Constant, double value = 0)
            {
                string name = mode is PaddingModes.Zeros or PaddingModes.Constant ? "constant" : mode.ToString().ToLowerInvariant();
                return Pad.Call(input, pad, name, value == 0 ? Arg.None : value);
            }

            private static long[] One(long? value, long otherwise) => [value ?? otherwise];
        }
    }
}
