using Tomlyn.Model;
using Tomlyn.Serialization;
using Tomlyn.Text;

namespace Tomlyn.Parsing;

// The grammar of TOML 1.1 above strings, numbers and dates.
internal sealed class DocumentReader
{
    private readonly TextCursor _cursor;
    private readonly TableBuilder _tables;

    public DocumentReader(string toml, string? sourceName, ITomlMetadataStore? store, bool validate)
    {
        _cursor = new TextCursor(toml, sourceName);
        _tables = new TableBuilder(_cursor, sourceName, store, validate);
    }

    public TomlTable ReadDocument()
    {
        TableBody body = _tables.Root;
        while (true)
        {
            _cursor.SkipBlanksCommentsAndLines();
            switch (_cursor.Current)
            {
                case TextCursor.End:
                    return _tables.Root.Table;
                case '[':
                    body = ReadHeader();
                    _cursor.ExpectEndOfLine("the table header");
                    break;
                default:
                    ReadKeyValue(body);
                    _cursor.ExpectEndOfLine("the value");
                    break;
            }
        }
    }

    // [a.b] or [[a.b]]
    private TableBody ReadHeader()
    {
        bool isArray = _cursor.TryTake("[[");
        if (!isArray)
        {
            _cursor.Advance();
        }

        List<KeyPart> path = ReadKey();
        _cursor.Expect(isArray ? "]]" : "]", "after the name of the table");
        return isArray ? _tables.OpenArrayElement(path) : _tables.OpenTable(path);
    }

    // a.b = value
    private void ReadKeyValue(TableBody body)
    {
        List<KeyPart> path = ReadKey();
        _cursor.Expect("=", $"after the key `{path[^1].Name}`");
        _cursor.SkipBlanks();
        TableBody parent = _tables.OpenParentOfKey(body, path);
        parent.Table[path[^1].Name] = ReadValue(parent.Depth + 1);
    }

    private List<KeyPart> ReadKey()
    {
        List<KeyPart> path = [];
        do
        {
            _cursor.SkipBlanks();
            path.Add(ReadKeyPart());
            _cursor.SkipBlanks();
        }
        while (_cursor.TryTake("."));

        return path;
    }

    private KeyPart ReadKeyPart()
    {
        TomlTextPosition start = _cursor.Position;
        if (_cursor.Current is '"' or '\'')
        {
            if (_cursor.LooksAt("\"\"\"") || _cursor.LooksAt("'''"))
            {
                throw _cursor.Error("a key may not be a multi-line string");
            }

            string quoted = StringLiteral.Read(_cursor);
            return new KeyPart(quoted, start, _cursor.LastPosition);
        }

        while (_cursor.Current is (>= 'a' and <= 'z') or (>= 'A' and <= 'Z') or (>= '0' and <= '9') or '_' or '-')
        {
            _cursor.Advance();
        }

        string name = _cursor.TextFrom(start);
        return name.Length > 0
            ? new KeyPart(name, start, _cursor.LastPosition)
            : throw _cursor.Error($"expected a key (letters, digits, `_`, `-`, or quoted); got {_cursor.DescribeCurrent()}");
    }

    private object ReadValue(int depth) => _cursor.Current switch
    {
        '"' or '\'' => StringLiteral.Read(_cursor),
        '[' => ReadArray(depth),
        '{' => ReadInlineTable(depth),
        _ => ScalarLiteral.Read(_cursor),
    };

    private TomlArray ReadArray(int depth)
    {
        TomlTextPosition start = _cursor.Position;
        _tables.CheckDepth(depth, start);
        _cursor.Advance();
        var array = new TomlArray();
        while (!TryClose("]", start, "array"))
        {
            array.Add(ReadValue(depth + 1));
            if (!TrySeparate("]", start, "array"))
            {
                break;
            }
        }

        return array;
    }

    private TomlTable ReadInlineTable(int depth)
    {
        TomlTextPosition start = _cursor.Position;
        _tables.CheckDepth(depth, start);
        _cursor.Advance();
        var body = new TableBody(new TomlTable(inline: true), depth);
        while (!TryClose("}", start, "inline table"))
        {
            ReadKeyValue(body);
            if (!TrySeparate("}", start, "inline table"))
            {
                break;
            }
        }

        return body.Table;
    }

    // True after a comma, false after the closing bracket.
    private bool TrySeparate(string closing, TomlTextPosition start, string what)
    {
        if (TryClose(closing, start, what))
        {
            return false;
        }

        _cursor.Expect(",", $"or `{closing}` in the {what}");
        return true;
    }

    private bool TryClose(string closing, TomlTextPosition start, string what)
    {
        _cursor.SkipBlanksCommentsAndLines();
        return _cursor.Current == TextCursor.End
            ? throw _cursor.Error(start, start, $"the {what} is not closed with `{closing}`")
            : _cursor.TryTake(closing);
    }
}
