using TorchSharp.Modules;
using TorchSharp.Utils;

namespace TorchSharp;

public static partial class torch
{
    public static partial class nn
    {
        /// <summary>A node of the module tree: owns parameters, buffers and sub-modules under ordered names.</summary>
        public partial class Module : IDisposable
        {
            protected OrderedDict<string, Module> _internal_submodules = new();
            protected OrderedDict<string, (Tensor, bool)> _internal_buffers = new();
            protected OrderedDict<string, Parameter> _internal_params = new();
            protected DeviceType _deviceType = DeviceType.CPU;
            protected int _deviceIndex = -1;
            protected string? name;

            private bool _componentsRegistered;
            private bool _training = true;
            private bool _disposed;

            protected Module(string name) => this.name = name;

            ~Module() => Dispose(false);

            public void Dispose()
            {
                Dispose(true);
                GC.SuppressFinalize(this);
            }

            protected virtual void Dispose(bool disposing)
            {
                if (!disposing || _disposed) return;
                _disposed = true;
                foreach (var (_, buffer) in named_buffers(false).ToList()) buffer.DetachFromDisposeScope().Dispose();
                foreach (var (_, parameter) in named_parameters(false).ToList()) parameter.DetachFromDisposeScope().Dispose();
                foreach (var (_, module) in named_modules().ToList()) module.Dispose();
                foreach (var parameter in _native) parameter.Dispose();
            }

            public virtual string GetName() => string.IsNullOrEmpty(name) ? GetType().Name : name;

            public virtual bool training => _training;

            public virtual void train(bool train = true)
            {
                _training = train;
                foreach (var (_, module) in named_children()) module.train(train);
            }

            public virtual void eval() => train(false);

            public virtual Module apply(Action<Module> fn)
            {
                foreach (var (_, module) in _internal_submodules) module.apply(fn);
                fn(this);
                return this;
            }

            public virtual void zero_grad(bool set_to_none = true)
            {
                using var scope = NewDisposeScope();
                foreach (var (_, parameter) in named_parameters())
                {
                    var grad = parameter.grad;
                    if (grad is null) continue;
                    if (set_to_none) parameter.grad = null;
                    else grad.zero_();
                }
            }

            public virtual IEnumerable<(string name, Parameter parameter)> named_parameters(bool recurse = true)
            {
                // Disposed parameters are passed over, and so are repeated ones; a second handle to one tensor is another parameter.
                var seen = new HashSet<Tensor>(ReferenceEqualityComparer.Instance);
                foreach (var entry in _internal_params)
                    if (!entry.Item2.IsInvalid && seen.Add(entry.Item2)) yield return entry;

                if (!recurse) yield break;
                foreach (var (prefix, module) in _internal_submodules)
                    foreach (var (suffix, parameter) in module.named_parameters(true))
                        if (!parameter.IsInvalid && seen.Add(parameter)) yield return ($"{prefix}.{suffix}", parameter);
            }

            // TorchSharp leaves non-persistent buffers out whatever the flag says, so they are neither listed nor moved.
            public virtual IEnumerable<(string name, Tensor buffer)> named_buffers(bool recurse = true, bool include_nonpersistent = true)
            {
                var seen = new HashSet<Tensor>(ReferenceEqualityComparer.Instance);
                foreach (var (key, (buffer, persistent)) in _internal_buffers)
                    if (persistent && !buffer.IsInvalid && seen.Add(buffer)) yield return (key, buffer);

                if (!recurse) yield break;
                foreach (var (prefix, module) in _internal_submodules)
                    foreach (var (suffix, buffer) in module.named_buffers(true, include_nonpersistent))
                        if (!buffer.IsInvalid && seen.Add(buffer)) yield return ($"{prefix}.{suffix}", buffer);
            }

            public virtual IEnumerable<(string name, Module module)> named_children() => _internal_submodules;

            // The children come first, then what is below each of them; the module itself is not among them.
            public virtual IEnumerable<(string name, Module module)> named_modules()
            {
                foreach (var entry in _internal_submodules) yield return entry;
                foreach (var (prefix, module) in _internal_submodules)
                    foreach (var (suffix, descendant) in module.named_modules())
                        yield return ($"{prefix}.{suffix}", descendant);
            }

            public virtual IEnumerable<Parameter> parameters(bool recurse = true) => named_parameters(recurse).Select(p => p.parameter);

            public virtual IEnumerable<Module> modules() => named_modules().Select(m => m.module);

            public virtual bool has_parameter(string target) =>
                _internal_params.ContainsKey(target) || ChildrenOnPath(target).Any(c => c.child.has_parameter(c.rest));

            public virtual bool has_buffer(string target) =>
                _internal_buffers.ContainsKey(target) || ChildrenOnPath(target).Any(c => c.child.has_buffer(c.rest));

            public virtual Parameter? get_parameter(string target) =>
                _internal_params.TryGetValue(target, out var parameter)
                    ? parameter
                    : ChildrenOnPath(target).Select(c => c.child.get_parameter(c.rest)).FirstOrDefault(p => p is not null);

            public virtual Tensor? get_buffer(string target) =>
                _internal_buffers.TryGetValue(target, out var buffer)
                    ? buffer.Item1
                    : ChildrenOnPath(target).Select(c => c.child.get_buffer(c.rest)).FirstOrDefault(b => b is not null);

            private IEnumerable<(Module child, string rest)> ChildrenOnPath(string target)
            {
                int dot = target.IndexOf('.', StringComparison.Ordinal);
                if (dot < 0) return [];
                string head = target[..dot], rest = target[(dot + 1)..];
                return named_children().Where(c => c.name == head).Select(c => (c.module, rest));
            }
        }
    }
}
