using System.Globalization;
using Tomlyn;
using Tomlyn.Model;
using Xunit;

namespace Fallbacks.Tests.Toml;

/// <summary>The untyped model: which .NET types values come as, and the collections.</summary>
public class TomlModelTests
{
    [Theory]
    [InlineData("\"x\"", typeof(string))]
    [InlineData("1", typeof(long))]
    [InlineData("1.0", typeof(double))]
    [InlineData("true", typeof(bool))]
    [InlineData("07:32", typeof(TomlDateTime))]
    [InlineData("[]", typeof(TomlArray))]
    [InlineData("[{}, {}]", typeof(TomlArray))]
    [InlineData("{}", typeof(TomlTable))]
    public void Values_ComeAs(string value, Type type) => Assert.IsType(type, Read($"v = {value}")["v"]);

    [Fact]
    public void Kinds_TellInlineTablesFromOthers()
    {
        TomlTable root = Read("i = { d.x = 1 }\nd.x = 1\n[t]\n[[a]]\nl = [1]");

        Assert.Equal(ObjectKind.Table, root.Kind);
        Assert.Equal(ObjectKind.InlineTable, ((TomlTable)root["i"]).Kind);
        Assert.Equal(ObjectKind.Table, ((TomlTable)((TomlTable)root["i"])["d"]).Kind);
        Assert.Equal(ObjectKind.Table, ((TomlTable)root["d"]).Kind);
        Assert.Equal(ObjectKind.Table, ((TomlTable)root["t"]).Kind);
        Assert.Equal(ObjectKind.TableArray, ((TomlTableArray)root["a"]).Kind);
        Assert.Equal(ObjectKind.Array, ((TomlArray)((TomlTableArray)root["a"])[0]["l"]).Kind);
    }

    [Theory]
    [InlineData("1979-05-27T07:32:00Z", TomlDateTimeKind.OffsetDateTimeByZ, 0, "1979-05-27T07:32:00Z")]
    [InlineData("1979-05-27 00:32:00.5-07:00", TomlDateTimeKind.OffsetDateTimeByNumber, 1, "1979-05-27T00:32:00.5-07:00")]
    [InlineData("1979-05-27t07:32", TomlDateTimeKind.LocalDateTime, 0, "1979-05-27T07:32:00")]
    [InlineData("1979-05-27", TomlDateTimeKind.LocalDate, 0, "1979-05-27")]
    [InlineData("07:32:00.123456789", TomlDateTimeKind.LocalTime, 7, "07:32:00.1234567")]
    public void DateTimes_KeepKindAndPrecision(string value, TomlDateTimeKind kind, int precision, string text)
    {
        var time = (TomlDateTime)Read($"v = {value}")["v"];

        Assert.Equal((kind, precision), (time.Kind, time.SecondPrecision));
        Assert.Equal(text, time.ToString());
        Assert.Equal(text, ((IConvertible)time).ToString(CultureInfo.InvariantCulture));
    }

    [Fact]
    public void DateTimes_ConvertToDotNetTypes()
    {
        var time = (TomlDateTime)Read("v = 1979-05-27T00:32:00-07:00")["v"];
        var clock = new DateTime(1979, 5, 27, 0, 32, 0, DateTimeKind.Unspecified);

        Assert.Equal(new DateTimeOffset(clock, TimeSpan.FromHours(-7)), Convert.ChangeType(time, typeof(DateTimeOffset), null));
        Assert.Equal(clock, Convert.ToDateTime(time, null));
        Assert.Equal(new DateOnly(1979, 5, 27), Convert.ChangeType(time, typeof(DateOnly), null));
        Assert.Equal(new TimeOnly(0, 32), Convert.ChangeType(time, typeof(TimeOnly), null));
        Assert.Throws<InvalidCastException>(() => Convert.ChangeType(time, typeof(Guid), null));
    }

    [Fact]
    public void Table_KeepsTheOrderOfItsKeys()
    {
        TomlTable table = Read("z = 1\na = 2\nm = 3");
        table["a"] = 20L;
        table.Add("b", 4L);

        Assert.Equal(["z", "a", "m", "b"], table.Keys);
        Assert.Equal([1L, 20L, 3L, 4L], table.Values);
        Assert.Equal(["z=1", "a=20", "m=3", "b=4"], table.Select(pair => $"{pair.Key}={pair.Value}"));

        Assert.True(table.Remove("a"));
        Assert.False(table.Remove("a"));
        List<string> keys = [];
        foreach (KeyValuePair<string, object> pair in table)
        {
            keys.Add(pair.Key);
        }

        Assert.Equal(["z", "m", "b"], keys);
        Assert.Equal(3, table.Count);
    }

    [Fact]
    public void Table_LooksUpByExactKey()
    {
        TomlTable table = Read("Key = 1");

        Assert.True(table.ContainsKey("Key"));
        Assert.False(table.ContainsKey("key"));
        Assert.True(table.TryGetValue("Key", out object? value));
        Assert.Equal(1L, value);
        Assert.False(table.TryGetValue("key", out value));
        Assert.Null(value);
        Assert.Throws<KeyNotFoundException>(() => table["key"]);
        Assert.Throws<ArgumentException>(() => table.Add("Key", 2L));
        Assert.Throws<ArgumentNullException>(() => table.Add("other", null!));
    }

    [Fact]
    public void Table_IsACollectionOfPairs()
    {
        IDictionary<string, object> table = Read("a = 'x'");
        var pair = new KeyValuePair<string, object>("b", "y");
        table.Add(pair);
        var copy = new KeyValuePair<string, object>[3];
        table.CopyTo(copy, 1);

        Assert.Contains(pair, table);
        Assert.Equal("b", copy[2].Key);
        Assert.True(table.Remove(pair));
        Assert.Single(table);
        table.Clear();
        Assert.Empty(table);
        Assert.False(table.IsReadOnly);
    }

    [Fact]
    public void Array_IsAList()
    {
        var array = (TomlArray)Read("v = [3, 'x', [1]]")["v"];

        Assert.Equal(3, array.Count);
        Assert.Equal(1, array.IndexOf("x"));
        Assert.Contains(3L, array);
        array.Insert(0, true);
        array.Add(2.5);
        array.RemoveAt(3);
        array[1] = 4L;
        Assert.True(array.Remove("x"));
        Assert.Equal([true, 4L, 2.5], array);
        var copy = new object?[4];
        array.CopyTo(copy, 1);
        Assert.Equal([null, true, 4L, 2.5], copy);
        array.Clear();
        Assert.Empty(array);
        Assert.False(array.IsReadOnly);
    }

    [Fact]
    public void TableArray_IsAListOfTables()
    {
        var array = (TomlTableArray)Read("[[v]]\na = 1\n[other]\n[[v]]\na = 2")["v"];
        TomlTable first = array[0];
        var extra = new TomlTable();

        Assert.Equal([1L, 2L], array.Select(t => t["a"]));
        array.Insert(0, extra);
        Assert.Equal((0, 1), (array.IndexOf(extra), array.IndexOf(first)));
        array[0] = first;
        array.Add(extra);
        Assert.Contains(extra, array);
        var copy = new TomlTable[4];
        array.CopyTo(copy, 0);
        Assert.Same(extra, copy[3]);
        array.RemoveAt(0);
        Assert.True(array.Remove(extra));
        Assert.Equal([1L, 2L], array.Select(t => t["a"]));
        array.Clear();
        Assert.Empty(array);
        Assert.False(array.IsReadOnly);
    }

    private static TomlTable Read(string toml) => TomlSerializer.Deserialize<TomlTable>(toml)!;
}
