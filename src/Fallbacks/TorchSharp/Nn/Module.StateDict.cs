using TorchSharp.Utils;

namespace TorchSharp;

public static partial class torch
{
    public static partial class nn
    {
        public partial class Module
        {
            /// <summary>Parameters first, then buffers; a tensor shared by two modules keeps both names.</summary>
            public virtual Dictionary<string, Tensor> state_dict(Dictionary<string, Tensor>? destination = null, string? prefix = null)
            {
                destination ??= [];
                string Key(string name) => string.IsNullOrEmpty(prefix) ? name : $"{prefix}.{name}";

                foreach (var (key, parameter) in named_parameters()) destination.TryAdd(Key(key), parameter);
                foreach (var (key, buffer) in named_buffers(include_nonpersistent: false)) destination.TryAdd(Key(key), buffer);
                foreach (var (key, module) in _internal_submodules) module.state_dict(destination, Key(key));
                return destination;
            }

            /// <summary>Copies what <paramref name="source"/> has into the tensors of this module, converting dtype and device.</summary>
            public virtual (IList<string> missing_keys, IList<string> unexpected_keyes) load_state_dict(
                Dictionary<string, Tensor> source, bool strict = true, IList<string>? skip = null)
            {
                skip ??= [];
                var destination = state_dict();
                var unexpected = source.Keys.Where(key => !skip.Contains(key) && !destination.ContainsKey(key)).ToList();
                var missing = destination.Keys.Where(key => !skip.Contains(key) && !source.ContainsKey(key)).ToList();
                if (strict && (missing.Count > 0 || unexpected.Count > 0))
                    throw new InvalidOperationException("The loaded state_dict is not identical to the target dictionary.");

                using var guard = no_grad();
                using var scope = NewDisposeScope();
                foreach (var (key, tensor) in source)
                    if (!skip.Contains(key) && destination.TryGetValue(key, out var target)) target.copy_(tensor);

                return (missing, unexpected);
            }

            public Module save(string location, IList<string>? skip = null)
            {
                using var stream = File.Create(location);
                return save(stream, skip);
            }

            public Module save(Stream stream, IList<string>? skip = null)
            {
                using var writer = new BinaryWriter(stream);
                return save(writer, skip);
            }

            public Module save(BinaryWriter writer, IList<string>? skip = null)
            {
                save_state_dict(writer, state_dict(), skip);
                return this;
            }

            /// <summary>The number of entries (LEB128), then name and tensor of each.</summary>
            public static void save_state_dict(BinaryWriter writer, Dictionary<string, Tensor> sd, IList<string>? skip = null)
            {
                var entries = skip is null ? [.. sd] : sd.Where(entry => !skip.Contains(entry.Key)).ToList();
                writer.Encode(entries.Count);
                foreach (var (key, tensor) in entries)
                {
                    writer.Write(key);
                    tensor.Save(writer);
                }
            }

            public virtual Module load(string location, bool strict = true, IList<string>? skip = null, Dictionary<string, bool>? loadedParameters = null)
            {
                if (!File.Exists(location)) throw new FileNotFoundException(location);
                using var stream = File.OpenRead(location);
                return load(stream, strict, skip, loadedParameters);
            }

            public Module load(Stream stream, bool strict = true, IList<string>? skip = null, Dictionary<string, bool>? loadedParameters = null)
            {
                using var reader = new BinaryReader(stream);
                return load(reader, strict, skip, loadedParameters);
            }

            public virtual Module load(BinaryReader reader, bool strict = true, IList<string>? skip = null, Dictionary<string, bool>? loadedParameters = null)
            {
                var (deviceType, deviceIndex) = (_deviceType, _deviceIndex);
                if (deviceType != DeviceType.CPU) _to(DeviceType.CPU, -1, false);
                try
                {
                    var target = state_dict();
                    long count = reader.Decode();
                    if (strict && count != target.Count)
                        throw new ArgumentException($"Mismatched state_dict sizes: expected {target.Count}, but found {count} entries.");

                    for (long i = 0; i < count; i++)
                    {
                        string key = reader.ReadString();
                        bool found = target.TryGetValue(key, out var tensor);
                        if (strict && !found)
                            throw new ArgumentException($"Mismatched module state names: the target modules does not have a submodule or buffer named '{key}'");

                        // A skipped tensor still has to be read past.
                        if (found && (skip is null || !skip.Contains(key))) tensor!.Load(reader);
                        else TensorExtensionMethods.Load(reader, skip: true);
                        loadedParameters?.Add(key, found);
                    }
                }
                finally
                {
                    if (deviceType != DeviceType.CPU) _to(deviceType, deviceIndex, false);
                }
                return this;
            }
        }
    }
}
