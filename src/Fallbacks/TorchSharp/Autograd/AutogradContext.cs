#nullable disable
using System.Runtime.InteropServices;
using TorchSharp.Native;

namespace TorchSharp;

public static partial class torch
{
    public static partial class autograd
    {
        /// <summary>What a custom function carries from forward to backward; lives as long as its node in the graph.</summary>
        public unsafe class AutogradContext : IDisposable
        {
            private readonly string function;
            private readonly bool[] isTensor;
            private readonly Func<AutogradContext, List<Tensor>, List<Tensor>> run;
            private readonly Dictionary<string, object> data = [];
            private List<Tensor> toSave = [];
            private List<Tensor> dirty = [];
            private List<Tensor> nonDifferentiable = [];
            private Tensor[] likeOutputs = [];
            private nint node;

            static AutogradContext() => Shim.hy_function_callbacks(&Backward, &Release);

            internal AutogradContext(string function, bool[] isTensor, Func<AutogradContext, List<Tensor>, List<Tensor>> run)
            {
                this.function = function;
                this.isTensor = isTensor;
                this.run = run;
            }

            public bool MaterializeGrads { get; private set; } = true;

            /// <summary>
            /// Whether an output without gradient gets zeros in backward, or an invalid tensor. The zeros need the scope of the forward: where
            /// it has ended the backward fails, as it does in TorchSharp.
            /// </summary>
            public void set_materialize_grads(bool value) => MaterializeGrads = value;

            public void save_for_backward(List<Tensor> tensors) => toSave = tensors;

            /// <summary>The saved tensors as fresh handles; null where null was saved.</summary>
            public List<Tensor> get_saved_variables()
            {
                if (node == 0) return [];
                var handles = new nint[Shim.hy_function_saved_count(node)];
                fixed (nint* results = handles) Shim.Check(Shim.hy_function_saved(node, results));
                return handles.Select(handle => handle == 0 ? null : new Tensor(handle)).ToList();
            }

            public void save_data(string key, object value) => data[key] = value;

            public object get_data(string key) => data.GetValueOrDefault(key);

            /// <summary>Inputs that forward changed in place; they must be among its outputs.</summary>
            public void mark_dirty(List<Tensor> tensors) => dirty = [.. tensors];

            public void mark_non_differentiable(List<Tensor> tensors) => nonDifferentiable = [.. tensors];

            public void Dispose()
            {
                Dispose(true);
                GC.SuppressFinalize(this);
            }

            protected virtual void Dispose(bool disposing) { }

            /// <summary>Puts a node with this context behind the outputs of a forward that has run.</summary>
            internal List<Tensor> Attach(List<Tensor> inputs, List<Tensor> outputs)
            {
                var wrapped = new nint[outputs.Count];
                fixed (nint* results = wrapped, ins = Native(inputs), outs = Native(outputs))
                fixed (nint* saves = Native(toSave), changed = Native(dirty), constant = Native(nonDifferentiable))
                {
                    var call = new FunctionCall
                    {
                        Managed = GCHandle.ToIntPtr(GCHandle.Alloc(this)),
                        Inputs = ins, InputCount = inputs.Count,
                        Outputs = outs, OutputCount = outputs.Count,
                        Saved = saves, SavedCount = toSave.Count,
                        Dirty = changed, DirtyCount = dirty.Count,
                        NonDifferentiable = constant, NonDifferentiableCount = nonDifferentiable.Count,
                    };
                    Shim.Check(Shim.hy_function_apply(&call, results));
                }
                GC.KeepAlive(inputs);
                GC.KeepAlive(outputs);
                GC.KeepAlive(toSave);
                (toSave, dirty, nonDifferentiable) = ([], [], []);
                var attached = wrapped.Select(handle => new Tensor(handle)).ToList();
                if (MaterializeGrads) likeOutputs = attached.Select(tensor => tensor.IsInvalid ? null : tensor.empty_like()).ToArray();
                return attached;
            }

            private static nint[] Native(List<Tensor> tensors) =>
                tensors.Select(tensor => tensor is null || tensor.IsInvalid ? 0 : tensor.Handle).ToArray();

            [UnmanagedCallersOnly]
            private static long Backward(nint state, nint node, nint* received, int count, nint* gradients)
            {
                try
                {
                    var context = (AutogradContext)GCHandle.FromIntPtr(state).Target;
                    context.node = node;
                    var incoming = new List<Tensor>(count);
                    for (var i = 0; i < count; i++)
                        incoming.Add(context.MaterializeGrads && received[i] == 0 && context.likeOutputs[i] is { } like ? zeros_like(like) : new Tensor(received[i]));
                    context.Fill(context.run(context, incoming), gradients);
                    return 0;
                }
                catch (Exception exception)
                {
                    return ManagedFailures.Keep(exception);
                }
            }

            /// <summary>Checks what a backward returned and hands over the gradients of the tensor arguments.</summary>
            private void Fill(List<Tensor> returned, nint* gradients)
            {
                static bool Defined(Tensor tensor) => tensor is not null && !tensor.IsInvalid;

                if (returned.Count < isTensor.Length || returned.Skip(isTensor.Length).Any(Defined))
                    throw new InvalidOperationException(
                        $"{function}: backward must return one gradient per argument of apply ({isTensor.Length}, null for none); " +
                        $"got {returned.Count}.");
                var slot = 0;
                for (var i = 0; i < isTensor.Length; i++)
                {
                    if (isTensor[i]) gradients[slot++] = Defined(returned[i]) ? Shim.hy_tensor_alias(returned[i].Handle) : 0;
                    else if (Defined(returned[i]))
                        throw new InvalidOperationException(
                            $"{function}: backward returned a gradient for argument {i}, which is no tensor.");
                }
                GC.KeepAlive(returned);
            }

            [UnmanagedCallersOnly]
            private static void Release(nint state)
            {
                var handle = GCHandle.FromIntPtr(state);
                ((AutogradContext)handle.Target).node = 0;
                handle.Free();
            }
        }
    }
}
