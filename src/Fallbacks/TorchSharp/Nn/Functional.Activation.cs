using TorchSharp.Native;

namespace TorchSharp;

public static partial class torch
{
    public static partial class nn
    {
        public static partial class functional
        {
            private static readonly Op Relu = "relu", ReluInPlace = "relu_", Silu = "silu", SiluInPlace = "silu_", Gelu = "gelu",
                Softplus = "softplus", Softmax = "softmax.int", LogSoftmax = "log_softmax.int", Dropout = "dropout",
                DropoutInPlace = "dropout_";

            public static Tensor relu(Tensor x, bool inplace = false) => (inplace ? ReluInPlace : Relu).Call(x);

            public static Tensor silu(Tensor x, bool inplace = false) => (inplace ? SiluInPlace : Silu).Call(x);

            public static Tensor gelu(Tensor x) => Gelu.Call(x);

            public static Tensor softplus(Tensor x, double beta = 1, double threshold = 20) => Softplus.Call(x, beta, threshold);

            public static Tensor softmax(Tensor input, long dim, ScalarType? dtype = null) => Softmax.Call(input, dim, dtype);

            public static Tensor log_softmax(Tensor x, long dim) => LogSoftmax.Call(x, dim);

            public static Tensor dropout(Tensor input, double p = 0.5, bool training = true, bool inplace = false) =>
                (inplace ? DropoutInPlace : Dropout).Call(input, p, training);
        }
    }
}
