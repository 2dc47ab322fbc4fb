#nullable disable
using System.Collections;

namespace TorchSharp.Utils;

/// <summary>A dictionary that keeps the order of insertion and can be read by position.</summary>
public class OrderedDict<TKey, TValue> : IDictionary<TKey, TValue>, IList<(TKey, TValue)>
{
    private readonly List<(TKey Key, TValue Value)> list = [];
    private readonly Dictionary<TKey, TValue> byKey = [];

    public int Count => list.Count;
    public bool IsReadOnly => false;
    public ICollection<TKey> Keys => list.Select(entry => entry.Key).ToList();
    public ICollection<TValue> Values => list.Select(entry => entry.Value).ToList();

    public IEnumerable<TKey> keys() => list.Select(entry => entry.Key);
    public IEnumerable<TValue> values() => list.Select(entry => entry.Value);
    public IEnumerator<(TKey, TValue)> items() => list.GetEnumerator();

    public TValue this[TKey key]
    {
        get => byKey[key];
        set
        {
            byKey[key] = value;
            var index = IndexOf(key);
            if (index < 0) list.Add((key, value));
            else list[index] = (key, value);
        }
    }

    public (TKey, TValue) this[int index]
    {
        get => list[index];
        set
        {
            byKey.Remove(list[index].Key);
            byKey[value.Item1] = value.Item2;
            list[index] = value;
        }
    }

    public void Add(TKey key, TValue value)
    {
        byKey.Add(key, value);
        list.Add((key, value));
    }

    public void Add((TKey, TValue) item) => Add(item.Item1, item.Item2);

    public void Add(KeyValuePair<TKey, TValue> item) => Add(item.Key, item.Value);

    public void Insert(int index, (TKey, TValue) item)
    {
        byKey.Add(item.Item1, item.Item2);
        list.Insert(index, item);
    }

    public bool Remove(TKey key)
    {
        if (!byKey.Remove(key)) return false;
        list.RemoveAt(IndexOf(key));
        return true;
    }

    public bool Remove((TKey, TValue) item) => Contains(item) && Remove(item.Item1);

    public bool Remove(KeyValuePair<TKey, TValue> item) => Remove((item.Key, item.Value));

    public void RemoveAt(int index) => Remove(list[index].Key);

    public void Clear()
    {
        list.Clear();
        byKey.Clear();
    }

    public void clear() => Clear();

    public bool ContainsKey(TKey key) => byKey.ContainsKey(key);

    public bool TryGetValue(TKey key, out TValue value) => byKey.TryGetValue(key, out value);

    public bool Contains((TKey, TValue) item) => list.Contains(item);

    public bool Contains(KeyValuePair<TKey, TValue> item) => list.Contains((item.Key, item.Value));

    public int IndexOf((TKey, TValue) item) => list.IndexOf(item);

    public void CopyTo((TKey, TValue)[] array, int arrayIndex) => list.CopyTo(array, arrayIndex);

    public void CopyTo(KeyValuePair<TKey, TValue>[] array, int arrayIndex)
    {
        foreach (var (key, value) in list) array[arrayIndex++] = KeyValuePair.Create(key, value);
    }

    public IEnumerator<(TKey, TValue)> GetEnumerator() => list.GetEnumerator();

    IEnumerator<KeyValuePair<TKey, TValue>> IEnumerable<KeyValuePair<TKey, TValue>>.GetEnumerator() =>
        list.Select(entry => KeyValuePair.Create(entry.Key, entry.Value)).GetEnumerator();

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

    private int IndexOf(TKey key) => list.FindIndex(entry => EqualityComparer<TKey>.Default.Equals(entry.Key, key));
}
