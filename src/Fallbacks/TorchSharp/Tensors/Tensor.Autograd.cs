using TorchSharp.Native;

namespace TorchSharp;

public static partial class torch
{
    public partial class Tensor
    {
        public bool requires_grad
        {
            get => Shim.hy_tensor_requires_grad(Handle) != 0;
            set
            {
                Shim.Check(Shim.hy_tensor_set_requires_grad(Handle, Shim.Byte(value)));
                GC.KeepAlive(this);
            }
        }

        public Tensor requires_grad_(bool requires_grad = true)
        {
            this.requires_grad = requires_grad;
            return this;
        }

        public Tensor with_requires_grad(bool requires_grad = true) => requires_grad_(requires_grad);

        public bool is_leaf => Shim.hy_tensor_is_leaf(Handle) != 0;

        public void retain_grad()
        {
            Shim.Check(Shim.hy_tensor_retain_grad(Handle));
            GC.KeepAlive(this);
        }

        /// <summary>A new handle at each read.</summary>
        public Tensor? grad
        {
            get
            {
                var found = Shim.hy_tensor_grad(Handle);
                GC.KeepAlive(this);
                return found == 0 ? null : new Tensor(found);
            }
            set
            {
                Shim.Check(Shim.hy_tensor_set_grad(Handle, value is null ? 0 : value.Handle));
                GC.KeepAlive(this);
                GC.KeepAlive(value);
            }
        }

        public void backward() => autograd.backward(this);

        public void backward(
            IList<Tensor>? grad_tensors = null, bool retain_graph = false, bool create_graph = false, IList<Tensor>? inputs = null) =>
            autograd.backward([this], grad_tensors, retain_graph, create_graph, inputs);

        public Tensor detach() => Ops.detach.Call(this);

        public Tensor detach_() => Ops.detach_.Update(this);

        /// <summary>Lets this tensor be that storage, shape and type.</summary>
        public Tensor set_(Tensor source) => Ops.set__source_Tensor.Update(this, source);
    }
}
