using System.Collections;

namespace Tomlyn.Model;

// Keeps its keys in the order in which they were added.
public sealed class TomlTable : TomlObject, IDictionary<string, object>
{
    private readonly OrderedDictionary<string, object> _items = [];

    public TomlTable()
        : this(inline: false)
    {
    }

    public TomlTable(bool inline)
        : base(inline ? ObjectKind.InlineTable : ObjectKind.Table)
    {
    }

    public int Count => _items.Count;

    public bool IsReadOnly => false;

    public ICollection<string> Keys => [.. _items.Keys];

    public ICollection<object> Values => [.. _items.Values];

    public object this[string key]
    {
        get => _items[key];
        set => _items[key] = value ?? throw new ArgumentNullException(nameof(value));
    }

    public void Add(string key, object value) => _items.Add(key, value ?? throw new ArgumentNullException(nameof(value)));

    public bool ContainsKey(string key) => _items.ContainsKey(key);

    public bool TryGetValue(string key, out object value) => _items.TryGetValue(key, out value!);

    public bool Remove(string key) => _items.Remove(key);

    public void Clear() => _items.Clear();

    public Enumerator GetEnumerator() => new(_items);

    void ICollection<KeyValuePair<string, object>>.Add(KeyValuePair<string, object> item) => Add(item.Key, item.Value);

    bool ICollection<KeyValuePair<string, object>>.Contains(KeyValuePair<string, object> item) => Pairs.Contains(item);

    bool ICollection<KeyValuePair<string, object>>.Remove(KeyValuePair<string, object> item) => Pairs.Remove(item);

    void ICollection<KeyValuePair<string, object>>.CopyTo(KeyValuePair<string, object>[] array, int arrayIndex) =>
        Pairs.CopyTo(array, arrayIndex);

    IEnumerator<KeyValuePair<string, object>> IEnumerable<KeyValuePair<string, object>>.GetEnumerator() => GetEnumerator();

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

    private ICollection<KeyValuePair<string, object>> Pairs => _items;

    public struct Enumerator : IEnumerator<KeyValuePair<string, object>>
    {
        private readonly OrderedDictionary<string, object> _items;
        private int _index = -1;

        internal Enumerator(OrderedDictionary<string, object> items) => _items = items;

        public KeyValuePair<string, object> Current => _items.GetAt(_index);

        object IEnumerator.Current => Current;

        public bool MoveNext() => ++_index < _items.Count;

        public void Reset() => _index = -1;

        public void Dispose()
        {
        }
    }
}
