#nullable disable
using System.Runtime.InteropServices;
using TorchSharp.Native;
using static TorchSharp.torch;

namespace TorchSharp
{
    namespace Modules
    {
        /// <summary>
        /// Layers of r = s(W_ir x + W_hr h), z = s(W_iz x + W_hz h), n = tanh(W_in x + r (W_hn h)), h &lt;- (1 - z) n + z h, with
        /// biases on every product.
        /// </summary>
        public sealed class GRU : nn.Module<Tensor, Tensor, (Tensor, Tensor)>
        {
            private static readonly Op Run = "gru.input";
            private readonly long _inputSize;
            private readonly long _hiddenSize;
            private readonly long _layers;
            private readonly long _directions;
            private readonly bool _bias;
            private readonly bool _batchFirst;
            private readonly double _dropout;

            internal GRU(long inputSize, long hiddenSize, long numLayers, bool bias, bool batchFirst, double dropout, bool bidirectional, Device device, ScalarType? dtype)
                : base(nameof(GRU))
            {
                (_inputSize, _hiddenSize, _layers, _directions) = (inputSize, hiddenSize, numLayers, bidirectional ? 2 : 1);
                (_bias, _batchFirst, _dropout) = (bias, batchFirst, dropout);

                for (long layer = 0; layer < numLayers; layer++)
                    for (long direction = 0; direction < _directions; direction++)
                    {
                        string suffix = direction == 0 ? $"l{layer}" : $"l{layer}_reverse";
                        long width = layer == 0 ? inputSize : hiddenSize * _directions;
                        Register($"weight_ih_{suffix}", [3 * hiddenSize, width], device, dtype);
                        Register($"weight_hh_{suffix}", [3 * hiddenSize, hiddenSize], device, dtype);
                        if (!bias) continue;
                        Register($"bias_ih_{suffix}", [3 * hiddenSize], device, dtype);
                        Register($"bias_hh_{suffix}", [3 * hiddenSize], device, dtype);
                    }
            }

            /// <param name="input">[T, B, input], or [B, T, input] where batchFirst.</param>
            /// <param name="h0">[layers * directions, B, hidden]; zeros where null.</param>
            /// <returns>The last layer's outputs, and the final states shaped as h0.</returns>
            public override (Tensor, Tensor) forward(Tensor input, Tensor h0 = null)
            {
                RequireNotDisposed();
                var shape = input.shape;
                if (shape.Length != 3) throw new ExternalException($"input must have 3 dimensions, got {shape.Length}");
                if (shape[2] != _inputSize)
                    throw new ExternalException($"input.size(-1) must be equal to input_size. Expected {_inputSize}, got {shape[2]}");

                long[] expected = [_layers * _directions, shape[_batchFirst ? 0 : 1], _hiddenSize];
                if (h0 is not null && !h0.shape.SequenceEqual(expected))
                    throw new ExternalException($"Expected hidden size [{string.Join(", ", expected)}], got [{string.Join(", ", h0.shape)}]");

                h0 ??= zeros(expected, input.dtype, input.device);
                return Run.Calls(input, h0, _native, _bias, _layers, _dropout, training, _directions == 2, _batchFirst).Pair;
            }

            public new (Tensor, Tensor) call(Tensor input, Tensor h0 = null) => base.call(input, h0);

            // Uniform within 1 / sqrt(hidden), drawn as float32 and then converted.
            private void Register(string name, long[] size, Device device, ScalarType? dtype)
            {
                double bound = 1 / Math.Sqrt(_hiddenSize);
                using var drawn = nn.init.uniform_(empty(size, ScalarType.Float32), -bound, bound);
                RegisterNative(name, drawn.to(dtype ?? get_default_dtype(), device ?? get_default_device(), copy: true));
            }
        }
    }

    public static partial class torch
    {
        public static partial class nn
        {
            public static Modules.GRU GRU(long inputSize, long hiddenSize, long numLayers = 1, bool bias = true, bool batchFirst = false, double dropout = 0.0, bool bidirectional = false, Device device = null, ScalarType? dtype = null) =>
                new(inputSize, hiddenSize, numLayers, bias, batchFirst, dropout, bidirectional, device, dtype);
        }
    }
}
