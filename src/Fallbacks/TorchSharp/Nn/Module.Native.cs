using TorchSharp.Modules;
using TorchSharp.Native;

namespace TorchSharp;

public static partial class torch
{
    public static partial class nn
    {
        public partial class Module
        {
            // Some modules of TorchSharp live in native code. Their parameters there outlive the dispose scope the module
            // is made in, although the registered ones, second handles to the same tensors, do not; and to() changes
            // them in place instead of replacing them. (An array, so that registration by reflection passes it over.)
            private protected Tensor[] _native = [];

            private protected void RequireNotDisposed() => ObjectDisposedException.ThrowIf(_disposed, this);

            private protected void RegisterNative(string name, Tensor data)
            {
                var parameter = new Parameter(data);
                _native = [.. _native, parameter.alias().DetachFromDisposeScope()];
                register_parameter(name, parameter);
            }

            private void MoveNative(ScalarType? dtype, Device? device)
            {
                using var guard = no_grad();
                using var scope = NewDisposeScope();
                foreach (var parameter in _native)
                {
                    if (!WillCopy(parameter, dtype, device)) continue;
                    var grad = parameter.grad;
                    parameter.grad = null;
                    var moved = parameter.to(dtype ?? parameter.dtype, device ?? parameter.device);
                    Shim.Check(Shim.hy_tensor_set_data(parameter.Handle, moved.Handle));
                    if (grad is not null) parameter.grad = grad.to(parameter.dtype, parameter.device);
                }
            }
        }
    }
}
