using System.Collections;

namespace Tomlyn.Model;

// What [[name]] headers add up to; an array of inline tables is a TomlArray.
public sealed class TomlTableArray : TomlObject, IList<TomlTable>
{
    private readonly List<TomlTable> _items = [];

    public TomlTableArray()
        : base(ObjectKind.TableArray)
    {
    }

    public int Count => _items.Count;

    public bool IsReadOnly => false;

    public TomlTable this[int index]
    {
        get => _items[index];
        set => _items[index] = value;
    }

    public void Add(TomlTable item) => _items.Add(item);

    public void Insert(int index, TomlTable item) => _items.Insert(index, item);

    public bool Remove(TomlTable item) => _items.Remove(item);

    public void RemoveAt(int index) => _items.RemoveAt(index);

    public void Clear() => _items.Clear();

    public bool Contains(TomlTable item) => _items.Contains(item);

    public int IndexOf(TomlTable item) => _items.IndexOf(item);

    public void CopyTo(TomlTable[] array, int arrayIndex) => _items.CopyTo(array, arrayIndex);

    public List<TomlTable>.Enumerator GetEnumerator() => _items.GetEnumerator();

    IEnumerator<TomlTable> IEnumerable<TomlTable>.GetEnumerator() => GetEnumerator();

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();
}
