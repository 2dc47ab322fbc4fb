#nullable disable
namespace TorchSharp;

public static partial class torch
{
    public static partial class nn
    {
        /// <summary>Fills a tensor in place, outside autograd. As in TorchSharp a given generator is ignored.</summary>
        public static partial class init
        {
            public static Tensor zeros_(Tensor tensor) => Fill(tensor, t => t.zero_());

            public static Tensor ones_(Tensor tensor) => Fill(tensor, t => t.fill_(1));

            public static Tensor uniform_(Tensor tensor, double low = 0, double high = 1.0, Generator generator = null) =>
                Fill(tensor, t => t.uniform_(low, high));

            public static Tensor normal_(Tensor tensor, double mean = 0.0, double std = 1.0, Generator generator = null) =>
                Fill(tensor, t => t.normal_(mean, std));

            /// <summary>PyTorch's default of Linear and Conv: both weight and bias uniform within 1 / sqrt(fan in).</summary>
            internal static void Default(Tensor weight, Tensor bias)
            {
                long fanIn = weight.shape.Skip(1).Aggregate(1L, (product, size) => product * size);
                double bound = fanIn > 0 ? 1 / Math.Sqrt(fanIn) : 0;
                uniform_(weight, -bound, bound);
                if (bias is not null) uniform_(bias, -bound, bound);
            }

            private static Tensor Fill(Tensor tensor, Action<Tensor> fill)
            {
                using var guard = no_grad();
                using var scope = NewDisposeScope();
                fill(tensor);
                return tensor;
            }
        }
    }
}
