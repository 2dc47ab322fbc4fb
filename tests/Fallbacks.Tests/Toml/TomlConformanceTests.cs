using System.Text;
using System.Text.Json;
using Tomlyn;
using Tomlyn.Model;
using Tomlyn.Parsing;
using Xunit;

namespace Fallbacks.Tests.Toml;

/// <summary>The toml-test suite, as far as it applies to TOML 1.1.</summary>
public class TomlConformanceTests
{
    private static readonly string Root = Path.Combine(AppContext.BaseDirectory, "Toml", "toml-test");

    public static TheoryData<string> ValidFiles => [.. FilesIn("valid/")];

    public static TheoryData<string> InvalidFiles => [.. FilesIn("invalid/")];

    [Theory]
    [MemberData(nameof(ValidFiles))]
    public void ValidDocument_EqualsItsJson(string file)
    {
        string toml = ReadText(file);
        using JsonDocument expected = JsonDocument.Parse(ReadText(Path.ChangeExtension(file, ".json")));

        SyntaxParser.ParseStrict(toml, file);
        TomlTable? table = TomlSerializer.Deserialize<TomlTable>(toml);

        Assert.Empty(TaggedJson.Differences(expected.RootElement, table));
    }

    [Theory]
    [MemberData(nameof(InvalidFiles))]
    public void InvalidDocument_IsRejectedInsideTheFile(string file)
    {
        string toml = ReadText(file);

        TomlException e = Assert.Throws<TomlException>(() => SyntaxParser.ParseStrict(toml, file));

        string[] lines = toml.Split('\n');
        Assert.InRange(e.Line ?? 0, 1, lines.Length);
        Assert.InRange(e.Column ?? 0, 1, lines[e.Line!.Value - 1].Length + 1);
        Assert.StartsWith($"{file}({e.Line},{e.Column}) : error : ", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void TheWholeSuiteIsHere()
    {
        Assert.Equal(220, ValidFiles.Count);
        Assert.Equal(492, InvalidFiles.Count);
    }

    // A comparison that finds nothing proves nothing unless it can find something.
    [Theory]
    [InlineData("a = 1", """{"a": {"type": "integer", "value": "2"}}""")]
    [InlineData("a = 1", """{"a": {"type": "float", "value": "1"}}""")]
    [InlineData("a = 1\nb = 2", """{"a": {"type": "integer", "value": "1"}}""")]
    [InlineData("", """{"a": {"type": "integer", "value": "1"}}""")]
    [InlineData("a = [1]", """{"a": []}""")]
    [InlineData("a = []", """{"a": {}}""")]
    [InlineData("a = 07:00:00", """{"a": {"type": "time-local", "value": "07:00:01"}}""")]
    public void TheComparisonFindsDifferences(string toml, string json)
    {
        using JsonDocument expected = JsonDocument.Parse(json);
        Assert.NotEmpty(TaggedJson.Differences(expected.RootElement, TomlSerializer.Deserialize<TomlTable>(toml)));
    }

    private static IEnumerable<string> FilesIn(string folder) =>
        File.ReadLines(Path.Combine(Root, "files-toml-1.1.0"))
            .Where(f => f.StartsWith(folder, StringComparison.Ordinal) && f.EndsWith(".toml", StringComparison.Ordinal));

    // Bytes that are no UTF-8 become U+FFFD, as with File.ReadAllText; the BOM stays for the parser to deal with.
    private static string ReadText(string file) => Encoding.UTF8.GetString(File.ReadAllBytes(Path.Combine(Root, file)));
}
