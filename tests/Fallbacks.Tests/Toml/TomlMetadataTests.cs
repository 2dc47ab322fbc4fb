using Tomlyn;
using Tomlyn.Model;
using Tomlyn.Serialization;
using Tomlyn.Syntax;
using Xunit;

namespace Fallbacks.Tests.Toml;

/// <summary>The places of keys, which a metadata store given in the options receives for every table.</summary>
public class TomlMetadataTests
{
    private readonly TomlMetadataStore _store = new();

    [Fact]
    public void EveryKey_HasTheSpanOfItsOwnPart()
    {
        TomlTable root = Read(
            """
            top = 1
            [model]
              d_model = 256
              "quoted key" = 'x'
            [model.mixer]
            a.b.c = 1
            """);
        var model = (TomlTable)root["model"];
        var mixer = (TomlTable)model["mixer"];
        var a = (TomlTable)mixer["a"];

        AssertSpan(root, "top", "x.toml(1,1)-(1,3)", "top");
        AssertSpan(root, "model", "x.toml(2,2)-(2,6)", "model");
        AssertSpan(model, "d_model", "x.toml(3,3)-(3,9)", "d_model");
        AssertSpan(model, "quoted key", "x.toml(4,3)-(4,14)", "\"quoted key\"");
        AssertSpan(model, "mixer", "x.toml(5,8)-(5,12)", "mixer");
        AssertSpan(mixer, "a", "x.toml(6,1)-(6,1)", "a");
        AssertSpan(a, "b", "x.toml(6,3)-(6,3)", "b");
        AssertSpan((TomlTable)a["b"], "c", "x.toml(6,5)-(6,5)", "c");
    }

    [Fact]
    public void TablesInArrays_HaveTheirOwn()
    {
        TomlTable root = Read("[[s]]\nx = 1\n[[s]]\n x = 2\n[o]\ni = [{ y = 1 },\n{ y = 2 }]");
        var s = (TomlTableArray)root["s"];
        var i = (TomlArray)((TomlTable)root["o"])["i"];

        AssertSpan(root, "s", "x.toml(1,3)-(1,3)", "s");
        AssertSpan(s[0], "x", "x.toml(2,1)-(2,1)", "x");
        AssertSpan(s[1], "x", "x.toml(4,2)-(4,2)", "x");
        AssertSpan((TomlTable)i[0]!, "y", "x.toml(6,8)-(6,8)", "y");
        AssertSpan((TomlTable)i[1]!, "y", "x.toml(7,3)-(7,3)", "y");
    }

    // A name is noted where its table is opened; keys or headers that go on in it leave that alone, later ones do not.
    [Fact]
    public void ATableOpenedAgain_HasItsLastPlace()
    {
        TomlTable root = Read("[a.x]\n[a.y]\n[b]\n[a.z]\n[d]\nk.p = 1\nk.q = 2\nl = 3\nk.r = 4");

        AssertSpan(root, "a", "x.toml(4,2)-(4,2)", "a");
        AssertSpan((TomlTable)root["d"], "k", "x.toml(9,1)-(9,1)", "k");

        root = Read("[a.x]\n[a.y]\n[a]\n[d]\nk.p = 1\nk.q = 2");

        AssertSpan(root, "a", "x.toml(1,2)-(1,2)", "a");
        AssertSpan((TomlTable)root["d"], "k", "x.toml(5,1)-(5,1)", "k");
    }

    [Fact]
    public void TablesWithoutKeys_AreNotInTheStore()
    {
        TomlTable root = Read("[t]");
        Assert.False(_store.TryGetProperties(root["t"], out _));
        Assert.True(_store.TryGetProperties(root, out TomlPropertiesMetadata? metadata));
        Assert.True(metadata.ContainsProperty("t"));
        Assert.False(metadata.ContainsProperty("u"));
        Assert.False(metadata.TryGetProperty("u", out _));
    }

    [Fact]
    public void Positions_CountFromZero_TheirTextFromOne()
    {
        TomlTable root = Read("a = \"\U0001F600\"\n\"\U0001F600b\" = 2");
        Assert.True(_store.TryGetProperties(root, out TomlPropertiesMetadata? metadata));
        Assert.True(metadata.TryGetProperty("\U0001F600b", out TomlPropertyMetadata? key));

        // Offsets are UTF-16 units (the face is two), columns code points.
        Assert.Equal(new TextPosition(offset: 9, line: 1, column: 0), key.Span.Start);
        Assert.Equal(new TextPosition(offset: 13, line: 1, column: 3), key.Span.End);
        Assert.Equal((9, 5), (key.Span.Offset, key.Span.Length));
        Assert.Equal("x.toml(2,1)", key.Span.ToStringSimple());
    }

    [Fact]
    public void Store_ForgetsWhatIsSetToNull()
    {
        var table = new TomlTable();
        var metadata = new TomlPropertiesMetadata();
        _store.SetProperties(table, metadata);
        Assert.True(_store.TryGetProperties(table, out TomlPropertiesMetadata? found));
        Assert.Same(metadata, found);

        _store.SetProperties(table, null);
        Assert.False(_store.TryGetProperties(table, out _));
    }

    private string _toml = "";

    private TomlTable Read(string toml)
    {
        _toml = toml;
        return TomlSerializer.Deserialize<TomlTable>(toml, new TomlSerializerOptions { SourceName = "x.toml", MetadataStore = _store })!;
    }

    private void AssertSpan(TomlTable table, string key, string span, string text)
    {
        Assert.True(_store.TryGetProperties(table, out TomlPropertiesMetadata? metadata));
        Assert.True(metadata.TryGetProperty(key, out TomlPropertyMetadata? property), key);
        Assert.Equal(span, property.Span.ToString());
        Assert.Equal(text, _toml.Substring(property.Span.Offset, property.Span.Length));
    }
}
