using Tomlyn.Model;
using Tomlyn.Serialization;
using Tomlyn.Syntax;
using Tomlyn.Text;

namespace Tomlyn.Parsing;

// One part of a dotted key and where it stands, quotes included.
internal readonly record struct KeyPart(string Name, TomlTextPosition Start, TomlTextPosition End);

// A table that keys are being added to. Depth: how many containers deep it is, itself counted.
internal sealed class TableBody(TomlTable table, int depth)
{
    public TomlTable Table => table;

    public int Depth => depth;

    // The dotted prefix of the key before: `a.b` after `a.b.c = 1`.
    public List<KeyPart> OpenPrefix { get; set; } = [];
}

// Finds or makes the tables that headers and dotted keys name, and applies TOML's rules on giving a name twice.
internal sealed class TableBuilder(TextCursor cursor, string? sourceName, ITomlMetadataStore? store, bool validate)
{
    private const int MaxDepth = 64;

    // What brought a table about decides who may still add to it. Inline tables are known by their kind.
    private enum Origin
    {
        PartOfHeader,
        Header,
        DottedKey,
    }

    private readonly ITomlMetadataStore _places = store ?? new TomlMetadataStore();
    private readonly Dictionary<TomlTable, Origin> _origins = [];
    private List<KeyPart> _openHeader = [];

    public TableBody Root { get; } = new(new TomlTable(), depth: 1);

    // [a.b]
    public TableBody OpenTable(List<KeyPart> path)
    {
        KeyPart key = path[^1];
        TableBody parent = OpenParentOfHeader(path, out object? existing);
        if (existing is not TomlTable { Kind: ObjectKind.Table } table || (validate && _origins[table] != Origin.PartOfHeader))
        {
            RefuseToReplace(existing, parent.Table, key);
            table = new TomlTable();
            parent.Table[key.Name] = table;
        }

        _origins[table] = Origin.Header;
        EndHeader(parent, path);
        CheckDepth(parent.Depth + 1, key.Start);
        return new TableBody(table, parent.Depth + 1);
    }

    // [[a.b]]
    public TableBody OpenArrayElement(List<KeyPart> path)
    {
        KeyPart key = path[^1];
        TableBody parent = OpenParentOfHeader(path, out object? existing);
        if (existing is not TomlTableArray array)
        {
            RefuseToReplace(existing, parent.Table, key);
            array = [];
            parent.Table[key.Name] = array;
        }

        var element = new TomlTable();
        _origins[element] = Origin.Header;
        array.Add(element);
        EndHeader(parent, path);
        CheckDepth(parent.Depth + 2, key.Start);
        return new TableBody(element, parent.Depth + 2);
    }

    // The table that `c` of `a.b.c = value` belongs to; `c` must be new in it.
    public TableBody OpenParentOfKey(TableBody body, List<KeyPart> path)
    {
        TableBody parent = Descend(body, path, body.OpenPrefix, Origin.DottedKey);
        body.OpenPrefix = path[..^1];
        KeyPart key = path[^1];
        if (validate && parent.Table.TryGetValue(key.Name, out object? existing))
        {
            RefuseToReplace(existing, parent.Table, key);
        }

        NotePlace(parent.Table, key);
        return parent;
    }

    public void CheckDepth(int depth, TomlTextPosition position)
    {
        if (depth > MaxDepth)
        {
            throw cursor.Error(position, position, $"the nesting exceeds the maximum depth of {MaxDepth}");
        }
    }

    private TableBody OpenParentOfHeader(List<KeyPart> path, out object? existing)
    {
        TableBody parent = Descend(Root, path, _openHeader, Origin.PartOfHeader);
        existing = parent.Table.TryGetValue(path[^1].Name, out object? found) ? found : null;
        return parent;
    }

    private void EndHeader(TableBody parent, List<KeyPart> path)
    {
        if (!IsOpen(_openHeader, path, path.Count))
        {
            NotePlace(parent.Table, path[^1]);
        }

        _openHeader = path;
    }

    // Follows all parts but the last.
    private TableBody Descend(TableBody from, List<KeyPart> path, List<KeyPart> open, Origin origin)
    {
        TomlTable table = from.Table;
        int depth = from.Depth;
        for (int i = 0; i < path.Count - 1; i++)
        {
            object? existing = table.TryGetValue(path[i].Name, out object? found) ? found : null;
            TomlTable next;
            if (existing is TomlTable { Kind: ObjectKind.Table } known && MayDescend(known, origin))
            {
                next = known;
                _origins[next] = origin == Origin.DottedKey ? origin : _origins[next];
            }
            else if (existing is TomlTableArray array && origin == Origin.PartOfHeader)
            {
                next = array[^1];
                depth++;
            }
            else
            {
                RefuseToReplace(existing, table, path[i]);
                next = new TomlTable();
                _origins[next] = origin;
                table[path[i].Name] = next;
            }

            if (!IsOpen(open, path, i + 1))
            {
                NotePlace(table, path[i]);
            }

            table = next;
            depth++;
        }

        CheckDepth(depth, path[^1].Start);
        return new TableBody(table, depth);
    }

    // A header may pass through any table; a dotted key may add to one that has no header of its own, and takes its place.
    private bool MayDescend(TomlTable table, Origin origin) =>
        !validate || origin == Origin.PartOfHeader || _origins[table] != Origin.Header;

    // A name is noted where the table it leads to is opened, not at each key that goes on in it.
    private static bool IsOpen(List<KeyPart> open, List<KeyPart> path, int count) =>
        open.Count >= count && path.Take(count).Select(p => p.Name).SequenceEqual(open.Take(count).Select(p => p.Name));

    private void NotePlace(TomlTable table, KeyPart key)
    {
        if (!_places.TryGetProperties(table, out TomlPropertiesMetadata? places))
        {
            places = new TomlPropertiesMetadata();
            _places.SetProperties(table, places);
        }

        var span = new SourceSpan(sourceName ?? "", ToLegacy(key.Start), ToLegacy(key.End));
        places.SetProperty(key.Name, new TomlPropertyMetadata { Span = span });

        static TextPosition ToLegacy(TomlTextPosition p) => new(p.Offset, p.Line, p.Column);
    }

    private void RefuseToReplace(object? existing, TomlTable table, KeyPart key)
    {
        bool isInline = existing is TomlTable { Kind: ObjectKind.InlineTable };
        if (existing is null || !(validate || isInline))
        {
            return;
        }

        string first = _places.TryGetProperties(table, out TomlPropertiesMetadata? places)
            && places.TryGetProperty(key.Name, out TomlPropertyMetadata? place) ? $" at {place.Span.Start}" : "";
        string kind = existing switch
        {
            TomlTable when isInline => "an inline table",
            TomlTable => "a table",
            TomlTableArray => "an array of tables",
            _ => "a value",
        };
        throw cursor.Error(key.Start, key.End, $"the key `{key.Name}` is already defined{first} as {kind}");
    }
}
