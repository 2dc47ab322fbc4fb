using TorchSharp.Modules;

namespace TorchSharp;

public static partial class torch
{
    public static partial class nn
    {
        public partial class Module
        {
            protected internal virtual Module _to(Device device, ScalarType dtype, bool non_blocking)
            {
                RequireParameterType(dtype);
                if (device.type != DeviceType.CUDA) device = new Device(device.type, -1);
                RequireDevice(device.type);
                _toEpilog(device, dtype, non_blocking);
                return this;
            }

            protected internal virtual Module _to(DeviceType deviceType, int deviceIndex, bool non_blocking)
            {
                if (deviceType != DeviceType.CUDA) deviceIndex = -1;
                RequireDevice(deviceType);
                if (deviceType != _deviceType || deviceIndex != _deviceIndex) _toEpilog(deviceType, deviceIndex, non_blocking);
                return this;
            }

            protected internal virtual Module _to(ScalarType dtype, bool non_blocking)
            {
                RequireParameterType(dtype);
                _toEpilog(dtype, non_blocking);
                return this;
            }

            protected void _toEpilog(ScalarType dtype, bool non_blocking) => _toEpilog(dtype, null, non_blocking);

            protected void _toEpilog(Device device, ScalarType dtype, bool non_blocking) => _toEpilog(dtype, device, non_blocking);

            protected void _toEpilog(DeviceType deviceType, int deviceIndex, bool non_blocking) =>
                _toEpilog(null, new Device(deviceType, deviceIndex), non_blocking);

            /// <summary>Replaces what has to change, in the registry and in the property or field that holds it.</summary>
            protected virtual void _toEpilog(ScalarType? dtype, Device? device, bool non_blocking)
            {
                if (dtype is null && device is null) throw new ArgumentNullException($"{nameof(dtype)} and {nameof(device)} are both null,");

                MoveNative(dtype, device);
                foreach (var (_, child) in named_children())
                {
                    if (device is null) child._to(dtype!.Value, non_blocking);
                    else if (dtype is null) child._to(device.type, device.index, non_blocking);
                    else child._to(device, dtype.Value, non_blocking);
                }

                // As there, two properties of one name, or two fields of one component name, are an error.
                var properties = GetType().GetProperties().ToDictionary(p => p.Name);
                var fields = FieldsOf(GetType()).ToDictionary(f => f.ComponentName());

                foreach (var (key, parameter) in named_parameters(false).ToList())
                {
                    if (!ReplaceParameter(dtype, device, parameter, out var moved)) continue;
                    if (properties.TryGetValue(key, out var property))
                    {
                        property.SetValue(this, moved);
                        continue;
                    }
                    parameter.Dispose();
                    ConditionallyRegisterParameter(key, moved);
                    if (fields.TryGetValue(key, out var field)) field.SetValue(this, moved);
                }

                foreach (var (key, buffer) in named_buffers(false).ToList())
                {
                    if (!ReplaceBuffer(dtype, device, buffer, out var moved)) continue;
                    if (properties.TryGetValue(key, out var property))
                    {
                        property.SetValue(this, moved);
                        continue;
                    }
                    ConditionallyRegisterBuffer(key, moved!);
                    if (fields.TryGetValue(key, out var field)) field.SetValue(this, moved);
                }

                if (device is not null) (_deviceType, _deviceIndex) = (device.type, device.index);
            }

            protected static bool ReplaceParameter(ScalarType? dtype, Device? device, Parameter param, out Parameter? p)
            {
                p = null;
                using var grad = param.grad;
                if (!WillCopy(param, dtype, device) && (grad is null || !WillCopy(grad, dtype, device))) return false;

                var target = CanTake(param, dtype) ? dtype!.Value : param.dtype;
                using var _ = no_grad();
                p = new Parameter(param.to(target, device ?? param.device, copy: !WillCopy(param, target, device)), param.requires_grad);
                p.DetachFromDisposeScope();
                if (grad is not null)
                {
                    using var moved = grad.to(target, device ?? param.device);
                    p.grad = moved;
                }
                return true;
            }

            protected static bool ReplaceBuffer(ScalarType? dtype, Device? device, Tensor buffer, out Tensor? result)
            {
                result = null;
                if (!WillCopy(buffer, dtype, device)) return false;

                var target = CanTake(buffer, dtype) ? dtype!.Value : buffer.dtype;
                result = buffer.to(target, device ?? buffer.device, disposeAfter: true).DetachFromDisposeScope();
                return true;
            }

            private static bool WillCopy(Tensor tensor, ScalarType? dtype, Device? device)
            {
                if (dtype is { } type && type != tensor.dtype) return true;
                if (device is null || (device.type == tensor.device_type && device.type != DeviceType.CUDA)) return false;
                return device.type != tensor.device_type || (device.index >= 0 && device.index != tensor.device_index);
            }

            private static bool CanTake(Tensor tensor, ScalarType? dtype) =>
                dtype is not null && (is_floating_point(tensor.dtype) || is_complex(tensor.dtype));

            private static void RequireParameterType(ScalarType dtype)
            {
                if (!is_floating_point(dtype) && !is_complex(dtype))
                    throw new ArgumentException($"nn.Module.to only accepts floating point or complex types, but got desired dtype={dtype}");
            }

            private static void RequireDevice(DeviceType deviceType)
            {
                if (deviceType == DeviceType.CUDA && !cuda.is_available()) throw new InvalidOperationException("CUDA is not available.");
            }
        }
    }
}
