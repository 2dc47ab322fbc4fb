using System.Runtime.CompilerServices;
using static TorchSharp.torch;

namespace TorchSharp
{
    namespace Modules
    {
        /// <summary>
        /// A chain of modules. It keeps them in a list of its own, not among the registered sub-modules, and owns them.
        /// Its own <c>training</c> flag does not follow train() and eval(); those of its modules do.
        /// </summary>
        public class Sequential : nn.Module<Tensor, Tensor>
        {
            private readonly List<(string Name, nn.IModule<Tensor, Tensor> Module)> _modules = [];

            internal Sequential() : base(nameof(Sequential))
            {
            }

            protected Sequential(params (string name, nn.Module<Tensor, Tensor> submodule)[] modules) : this()
            {
                foreach (var (name, module) in modules) append(name, module);
            }

            protected Sequential(params nn.Module<Tensor, Tensor>[] modules) : this()
            {
                foreach (var module in modules) append(module);
            }

            public Sequential append(nn.IModule<Tensor, Tensor> module) => append(_modules.Count.ToString(System.Globalization.CultureInfo.InvariantCulture), module);

            public Sequential append(string name, nn.IModule<Tensor, Tensor> module)
            {
                _modules.Add((name, module));
                return this;
            }

            // The input stays the caller's; what passes between the modules is freed at once.
            public override Tensor forward(Tensor tensor)
            {
                if (_modules.Count == 0) return tensor.alias();
                var current = _modules[0].Module.call(tensor);
                foreach (var (_, module) in _modules.Skip(1))
                {
                    var next = module.call(current);
                    current.Dispose();
                    current = next;
                }
                return current;
            }

            public int Count => _modules.Count;

            [IndexerName("SequentialItems")]
            public nn.IModule<Tensor, Tensor> this[int index] => _modules[index].Module;

            [IndexerName("SequentialItems")]
            public Sequential this[(int? start, int? end) index] => Slice(index.start ?? 0, index.end ?? _modules.Count);

            [IndexerName("SequentialItems")]
            public Sequential this[Range index] => Slice(index.Start.GetOffset(_modules.Count), index.End.GetOffset(_modules.Count));

            private Sequential Slice(int start, int end)
            {
                if (start < 0 || start > _modules.Count) throw new IndexOutOfRangeException($"{start} is not a valid index.");
                if (end < 0 || end > _modules.Count) throw new IndexOutOfRangeException($"{end} is not a valid index.");
                var result = new Sequential();
                for (int i = start; i < end; i++) result._modules.Add(_modules[i]);
                return result;
            }

            private IEnumerable<(string name, nn.Module module)> Children => _modules.Select(m => (m.Name, (nn.Module)m.Module));

            public override IEnumerable<(string name, nn.Module module)> named_children() => Children;

            public override IEnumerable<(string name, nn.Module module)> named_modules() =>
                Children.Concat(Children.SelectMany(c => c.module.named_modules().Select(m => ($"{c.name}.{m.name}", m.module))));

            public override IEnumerable<(string name, Parameter parameter)> named_parameters(bool recurse = true)
            {
                if (!recurse) yield break;
                var seen = new HashSet<Tensor>(ReferenceEqualityComparer.Instance);
                foreach (var (prefix, module) in Children)
                    foreach (var (suffix, parameter) in module.named_parameters(true))
                        if (seen.Add(parameter)) yield return ($"{prefix}.{suffix}", parameter);
            }

            public override IEnumerable<(string name, Tensor buffer)> named_buffers(bool recurse = true, bool include_persistent = true) =>
                recurse
                    ? Children.SelectMany(c => c.module.named_buffers(true).Select(b => ($"{c.name}.{b.name}", b.buffer)))
                    : [];

            public override nn.Module apply(Action<nn.Module> fn)
            {
                foreach (var (_, module) in Children) module.apply(fn);
                fn(this);
                return this;
            }

            public override void train(bool on = true)
            {
                foreach (var (_, module) in Children) module.train(on);
            }

            public override void eval()
            {
                foreach (var (_, module) in Children) module.eval();
            }

            protected internal override nn.Module _to(ScalarType dtype, bool non_blocking)
            {
                foreach (var (_, module) in Children) module._to(dtype, non_blocking);
                return this;
            }

            protected internal override nn.Module _to(Device device, ScalarType dtype, bool non_blocking)
            {
                foreach (var (_, module) in Children) module._to(device, dtype, non_blocking);
                return this;
            }

            protected internal override nn.Module _to(DeviceType deviceType, int deviceIndex, bool non_blocking)
            {
                foreach (var (_, module) in Children) module._to(deviceType, deviceIndex, non_blocking);
                return this;
            }

            protected override void Dispose(bool disposing)
            {
                if (disposing)
                    foreach (var (_, module) in Children) module.Dispose();
                base.Dispose(disposing);
            }
        }
    }

    public static partial class torch
    {
        public static partial class nn
        {
            public static Modules.Sequential Sequential() => new();

            public static Modules.Sequential Sequential(params (string name, Module<Tensor, Tensor> submodule)[] modules) =>
                Sequential((IEnumerable<(string name, Module<Tensor, Tensor> submodule)>)modules);

            public static Modules.Sequential Sequential(params Module<Tensor, Tensor>[] modules) =>
                Sequential((IEnumerable<Module<Tensor, Tensor>>)modules);

            public static Modules.Sequential Sequential(IEnumerable<(string name, Module<Tensor, Tensor> submodule)> modules)
            {
                var result = Sequential();
                foreach (var (name, module) in modules) result.append(name, module);
                return result;
            }

            public static Modules.Sequential Sequential(IEnumerable<Module<Tensor, Tensor>> modules)
            {
                var result = Sequential();
                foreach (var module in modules) result.append(module);
                return result;
            }
        }
    }
}
