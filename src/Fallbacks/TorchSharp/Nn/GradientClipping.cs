using TorchSharp.Modules;
using TorchSharp.Native;

namespace TorchSharp;

public static partial class torch
{
    public static partial class nn
    {
        public static partial class utils
        {
            private static readonly Op VectorNorm = "linalg_vector_norm";

            /// <summary>Scales all gradients by max_norm / (norm + 1e-6) where that is below one.</summary>
            /// <returns>The norm of all gradients together, before clipping.</returns>
            public static double clip_grad_norm_(IEnumerable<Parameter> tensors, double max_norm, double norm_type = 2.0)
            {
                using var guard = no_grad();
                using var scope = NewDisposeScope();
                var gradients = tensors.Select(parameter => parameter.grad).OfType<Tensor>().ToList();
                if (gradients.Count == 0) return 0;

                var device = gradients[0].device;
                var norms = gradients.Select(gradient => VectorNorm.Call(gradient, norm_type).to(device)).ToList();
                double total = VectorNorm.Call(stack(norms), norm_type).to(ScalarType.Float64).item<double>();
                // Not a number stays one: a broken gradient must not be made to look clipped.
                double scale = max_norm / (total + 1e-6);
                if (!(scale >= 1))
                    foreach (var gradient in gradients) gradient.mul_(scale);
                return total;
            }
        }
    }
}
