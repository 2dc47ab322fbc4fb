using TorchSharp.Native;

namespace TorchSharp;

public static partial class torch
{
    public static partial class nn
    {
        public static partial class functional
        {
            private static readonly Op Relu = "relu", ReluInPlace = "relu_", Silu = "silu", SiluInPlace = "silu_", Sigmoid = "sigmoid",
                SigmoidInPlace = "sigmoid_", Tanh = "tanh", TanhInPlace = "tanh_", Gelu = "gelu", GeluInPlace = "gelu_",
                Softplus = "softplus", Softmax = "softmax.int", LogSoftmax = "log_softmax.int", Dropout = "dropout",
                DropoutInPlace = "dropout_";

            public static Tensor relu(Tensor x, bool inplace = false) => (inplace ? ReluInPlace : Relu).Call(x);

            public static Tensor silu(Tensor x, bool inplace = false) => (inplace ? SiluInPlace : Silu).Call(x);

            public static Tensor sigmoid(Tensor x) => Sigmoid.Call(x);

            public static Tensor sigmoid(Tensor x, bool inplace) => (inplace ? SigmoidInPlace : Sigmoid).Call(x);

            public static Tensor tanh(Tensor x, bool inplace = false) => (inplace ? TanhInPlace : Tanh).Call(x);

            public static Tensor gelu(Tensor x) => gelu(x, Modules.GELU.Approximate.none);

            public static Tensor gelu(Tensor x, bool inplace) => gelu(x, Modules.GELU.Approximate.none, inplace);

            public static Tensor gelu(Tensor x, Modules.GELU.Approximate approximate, bool inplace = false) =>
                (inplace ? GeluInPlace : Gelu).Call(x, approximate.ToString());

            public static Tensor softplus(Tensor x, double beta = 1, double threshold = 20) => Softplus.Call(x, beta, threshold);

            public static Tensor softmax(Tensor input, long dim, ScalarType? dtype = null) => Softmax.Call(input, dim, dtype);

            public static Tensor log_softmax(Tensor x, long dim) => LogSoftmax.Call(x, dim);

            public static Tensor dropout(Tensor input, double p = 0.5, bool training = true, bool inplace = false) =>
                (inplace ? DropoutInPlace : Dropout).Call(input, p, training);
        }
    }
}
