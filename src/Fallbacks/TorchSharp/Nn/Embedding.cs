using TorchSharp.Native;
using static TorchSharp.torch;

namespace TorchSharp
{
    namespace Modules
    {
        /// <summary>Rows of a weight [num_embeddings, embedding_dims] by index.</summary>
        public sealed class Embedding : nn.Module<Tensor, Tensor>
        {
            private static readonly Op Lookup = "embedding", Renormalise = "embedding_renorm_";
            private readonly long _paddingIndex;
            private readonly double? _maxNorm;
            private readonly double _normType;
            private readonly bool _scaleByFrequency;
            private readonly bool _sparse;

            internal Embedding(Tensor data, long? padding_idx, double? max_norm, double norm_type, bool scale_grad_by_freq, bool sparse)
                : base(nameof(Embedding))
            {
                _paddingIndex = padding_idx ?? -1;
                _maxNorm = max_norm;
                _normType = norm_type;
                _scaleByFrequency = scale_grad_by_freq;
                _sparse = sparse;
                RegisterNative(nameof(weight), data);
            }

            /// <summary>A new handle each time it is read, which belongs to the current dispose scope.</summary>
            [System.Diagnostics.CodeAnalysis.DisallowNull]
            public Parameter? weight
            {
                get => new(_native[0].alias(), _native[0].requires_grad);
                set
                {
                    _native[0].Dispose();
                    _native[0] = value.alias().DetachFromDisposeScope();
                    ConditionallyRegisterParameter(nameof(weight), value);
                }
            }

            public override Tensor forward(Tensor input)
            {
                RequireNotDisposed();
                if (_maxNorm is { } limit)
                {
                    using var guard = no_grad();
                    using var indices = input.contiguous();
                    using var changed = Renormalise.Call(_native[0], indices, limit, _normType);
                }
                return Lookup.Call(_native[0], input, _paddingIndex, _scaleByFrequency, _sparse);
            }
        }
    }

    public static partial class torch
    {
        public static partial class nn
        {
            public static Modules.Embedding Embedding(long num_embeddings, long embedding_dims, long? padding_idx = null, double? max_norm = null, double norm_type = 2.0, bool scale_grad_by_freq = false, bool sparse = false, Device? device = null, ScalarType? dtype = null)
            {
                using var scope = NewDisposeScope();
                // Drawn as float32 and then converted, so that a seed gives the same values for every type.
                var data = init.normal_(empty(num_embeddings, embedding_dims, ScalarType.Float32));
                if (padding_idx is { } row) data[row].zero_();
                data = data.to(dtype ?? get_default_dtype(), device ?? get_default_device()).MoveToOuterDisposeScope();
                return new(data, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse);
            }
        }
    }
}
