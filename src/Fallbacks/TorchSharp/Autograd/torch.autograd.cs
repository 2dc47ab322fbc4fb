#nullable disable
using TorchSharp.Native;

namespace TorchSharp;

public static partial class torch
{
    public static unsafe partial class autograd
    {
        /// <summary>Gradients of outputs with respect to inputs; an input the outputs do not depend on gets an invalid tensor.</summary>
        public static IList<Tensor> grad(
            IList<Tensor> outputs, IList<Tensor> inputs, IList<Tensor> grad_outputs = null, bool retain_graph = false,
            bool create_graph = false, bool allow_unused = false)
        {
            var found = new nint[inputs.Count];
            fixed (nint* roots = Handles.Of(outputs), seeds = Gradients(grad_outputs), leaves = Handles.Of(inputs), results = found)
                Shim.Check(Shim.hy_grad(roots, seeds, outputs.Count, leaves, inputs.Count, Shim.Byte(retain_graph || create_graph),
                    Shim.Byte(create_graph), Shim.Byte(allow_unused), results));
            KeepAlive(outputs, inputs, grad_outputs);
            return found.Select(handle => new Tensor(handle)).ToList();
        }

        public static void backward(
            IList<Tensor> tensors, IList<Tensor> grad_tensors = null, bool? retain_graph = null, bool create_graph = false,
            IList<Tensor> inputs = null)
        {
            var leavesOnly = inputs ?? [];
            fixed (nint* roots = Handles.Of(tensors), seeds = Gradients(grad_tensors), leaves = Handles.Of(leavesOnly))
                Shim.Check(Shim.hy_backward(roots, seeds, tensors.Count, retain_graph is { } retain ? Shim.Byte(retain) : -1,
                    Shim.Byte(create_graph), leaves, leavesOnly.Count));
            KeepAlive(tensors, grad_tensors, leavesOnly);
        }

        public static void backward(
            Tensor tensor, IList<Tensor> grad_tensors = null, bool? retain_graph = null, bool create_graph = false,
            IList<Tensor> inputs = null) =>
            backward([tensor], grad_tensors, retain_graph, create_graph, inputs);

        public static void backward(
            Tensor tensor, Tensor grad_tensor, bool? retain_graph = null, bool create_graph = false, IList<Tensor> inputs = null) =>
            backward([tensor], [grad_tensor], retain_graph, create_graph, inputs);

        public static AnomalyMode detect_anomaly(bool check_nan = true) => new(true, check_nan);

        public static AnomalyMode set_detect_anomaly(bool mode, bool check_nan = true) => new(mode, check_nan);

        private static nint[] Gradients(IList<Tensor> tensors) => tensors is null || tensors.Count == 0 ? null : Handles.Of(tensors);

        private static void KeepAlive(object a, object b, object c)
        {
            GC.KeepAlive(a);
            GC.KeepAlive(b);
            GC.KeepAlive(c);
        }
    }
}

/// <summary>Switches anomaly detection until it is disposed.</summary>
public class AnomalyMode : IDisposable
{
    private readonly bool enabledBefore = IsEnabled;
    private readonly bool checkedBefore = ShouldCheckNaN;

    public AnomalyMode(bool enabled, bool check_nan = true) => Shim.hy_set_anomaly(Shim.Byte(enabled), Shim.Byte(check_nan));

    public static bool IsEnabled => Shim.hy_anomaly_enabled() != 0;

    public static bool ShouldCheckNaN => Shim.hy_anomaly_checks_nan() != 0;

    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    protected virtual void Dispose(bool disposing)
    {
        if (disposing) Shim.hy_set_anomaly(Shim.Byte(enabledBefore), Shim.Byte(checkedBefore));
    }
}
