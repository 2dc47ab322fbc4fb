using System.Collections;
using System.Diagnostics.CodeAnalysis;
using static TorchSharp.torch;

namespace TorchSharp
{
    namespace Modules
    {
        /// <summary>Modules under names, in order of insertion, registered as they stand when the dictionary itself is.</summary>
        public class ModuleDict<T> : nn.Module, IDictionary<string, T>, IList<(string, T)> where T : nn.Module
        {
            private readonly List<(string, T)> _list = [];
            private readonly Dictionary<string, T> _dict = [];
            private bool _registered;

            public ModuleDict() : base(nameof(ModuleDict<T>))
            {
            }

            protected override void RegisterComponents()
            {
                if (_registered) return;
                foreach (var (key, module) in _list) register_module(key, module);
                _registered = true;
            }

            public (string, T) this[int index]
            {
                get => _list[index];
                set
                {
                    _list[index] = value;
                    _dict[value.Item1] = value.Item2;
                }
            }

            public T this[string key]
            {
                get => _dict[key];
                set
                {
                    _dict[key] = value;
                    _list[_list.FindIndex(entry => entry.Item1 == key)] = (key, value);
                }
            }

            public int Count => _dict.Count;

            public bool IsReadOnly => false;

            public ICollection<string> Keys => _list.Select(entry => entry.Item1).ToList();

            public ICollection<T> Values => _list.Select(entry => entry.Item2).ToList();

            public IEnumerable<string> keys() => _dict.Keys;

            public IEnumerable<T> values() => _dict.Values;

            public IEnumerator<(string, T)> items() => _list.GetEnumerator();

            public void Add((string, T) item) => Add(item.Item1, item.Item2);

            public void Add(KeyValuePair<string, T> item) => Add(item.Key, item.Value);

            public void Add(string key, T value)
            {
                _dict.Add(key, value);
                _list.Add((key, value));
            }

            public void Insert(int index, (string, T) item)
            {
                _dict.Add(item.Item1, item.Item2);
                _list.Insert(index, item);
            }

            public bool Remove((string, T) item)
            {
                _dict.Remove(item.Item1);
                return _list.Remove(item);
            }

            public bool Remove(KeyValuePair<string, T> item) => Remove((item.Key, item.Value));

            public bool Remove(string key)
            {
                var value = _dict[key];
                return _dict.Remove(key) && _list.Remove((key, value));
            }

            public void RemoveAt(int index)
            {
                if (index >= _list.Count) throw new IndexOutOfRangeException();
                _dict.Remove(_list[index].Item1);
                _list.RemoveAt(index);
            }

            public void Clear()
            {
                _dict.Clear();
                _list.Clear();
            }

            public void clear() => Clear();

            public bool Contains((string, T) item) => _list.Contains(item);

            public bool Contains(KeyValuePair<string, T> item) => _dict.ContainsKey(item.Key);

            public bool ContainsKey(string key) => _dict.ContainsKey(key);

            public bool TryGetValue(string key, [MaybeNullWhen(false)] out T value) => _dict.TryGetValue(key, out value);

            public int IndexOf((string, T) item) => _list.IndexOf(item);

            public void CopyTo((string, T)[] array, int arrayIndex) => _list.CopyTo(array, arrayIndex);

            public void CopyTo(KeyValuePair<string, T>[] array, int arrayIndex) => throw new NotImplementedException();

            public IEnumerator<(string, T)> GetEnumerator() => _list.GetEnumerator();

            IEnumerator<KeyValuePair<string, T>> IEnumerable<KeyValuePair<string, T>>.GetEnumerator() => throw new NotImplementedException();

            IEnumerator IEnumerable.GetEnumerator() => ((IEnumerable<KeyValuePair<string, T>>)this).GetEnumerator();
        }
    }

    public static partial class torch
    {
        public static partial class nn
        {
            public static Modules.ModuleDict<Module> ModuleDict(params (string, Module)[] modules) => ModuleDict<Module>(modules);

            public static Modules.ModuleDict<T> ModuleDict<T>(params (string, T)[] modules) where T : Module
            {
                var result = new Modules.ModuleDict<T>();
                foreach (var entry in modules) result.Add(entry);
                return result;
            }
        }
    }
}
