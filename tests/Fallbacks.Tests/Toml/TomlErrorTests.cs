using Tomlyn;
using Tomlyn.Model;
using Tomlyn.Parsing;
using Xunit;

namespace Fallbacks.Tests.Toml;

/// <summary>Where errors are reported and what they say. Lines and columns count from 1, columns in code points.</summary>
public class TomlErrorTests
{
    [Theory]
    [InlineData("a = \n", 1, 5, "expected a value; got the end of the line")]
    [InlineData("a = 1 b = 2", 1, 7, "expected the end of the line after the value; got `b`")]
    [InlineData("x = 1\n[model\nd = 2", 2, 7, "expected `]` after the name of the table; got the end of the line")]
    [InlineData("[t]\n  key 5", 2, 7, "expected `=` after the key `key`; got `5`")]
    [InlineData("s = \"abc\n", 1, 5, "the string is not closed with \"")]
    [InlineData("s = '''\nabc\n", 1, 5, "the string is not closed with '''")]
    [InlineData("s = \"a\\qb\"", 1, 8, "expected one of b t n f r e \" \\ xHH uHHHH UHHHHHHHH after `\\`; got `q`")]
    [InlineData("s = \"\\ud800\"", 1, 7, "U+D800 is not a Unicode scalar value")]
    [InlineData("# one\n\nn = [\n  1,\n  2 3\n]\n", 5, 5, "expected `,` or `]` in the array; got `3`")]
    [InlineData("n = [1,\n2", 1, 5, "the array is not closed with `]`")]
    [InlineData("t = { a = 1,\n  b }", 2, 5, "expected `=` after the key `b`; got `}`")]
    [InlineData("n = 9223372036854775808", 1, 5, "the integer `9223372036854775808` does not fit into 64 bits")]
    [InlineData("n = 0x8000000000000000", 1, 5, "the integer `0x8000000000000000` does not fit into 64 bits")]
    [InlineData("n = 01", 1, 5, "`01` is not a number, date or time")]
    [InlineData("n = yes", 1, 5, "expected a value; got `yes` (strings need quotes, booleans are `true` and `false`)")]
    [InlineData("d = 2023-02-29", 1, 5, "`2023-02-29` is no date or time of the calendar")]
    [InlineData("a = 1 # b\u0001", 1, 10, "the control character U+0001 may not stand in a comment")]
    [InlineData("a = 1\r\nb = 2\rc = 3", 2, 6, "expected the end of the line after the value; got the control character U+000D")]
    [InlineData("k = \"\U0001F600\U0001F600\" x", 1, 10, "expected the end of the line after the value; got `x`")]
    [InlineData("k = \"\uFFFD\"", 1, 6, "the text holds a character that is not valid Unicode; is the file UTF-8?")]
    [InlineData("\uFEFF= 1", 1, 1, "expected a key (letters, digits, `_`, `-`, or quoted); got `=`")]
    public void BrokenGrammar_IsReportedByBoth(string toml, int line, int column, string message)
    {
        TomlException strict = Assert.Throws<TomlException>(() => SyntaxParser.ParseStrict(toml, "x.toml"));
        var options = new TomlSerializerOptions { SourceName = "x.toml" };
        TomlException loose = Assert.Throws<TomlException>(() => TomlSerializer.Deserialize<TomlTable>(toml, options));

        Assert.Equal($"x.toml({line},{column}) : error : {message}", strict.Message);
        Assert.Equal(strict.Message, loose.Message);
        Assert.Equal((line, column, "x.toml"), (strict.Line, strict.Column, strict.SourceName));
    }

    [Theory]
    [InlineData("a = 1\nb = 2\na = 3", 3, 1, "the key `a` is already defined at (1,1) as a value")]
    [InlineData("[m]\n[n]\n[ m ]", 3, 3, "the key `m` is already defined at (1,2) as a table")]
    [InlineData("[[m]]\n[m]", 2, 2, "the key `m` is already defined at (1,3) as an array of tables")]
    [InlineData("[a]\nb.c = 1\n[a.b]", 3, 4, "the key `b` is already defined at (2,1) as a table")]
    [InlineData("[a.b]\n[a]\nb.c = 1", 3, 1, "the key `b` is already defined at (1,4) as a table")]
    [InlineData("[a.b.c]\n[a]\nb.x = 1\n[a.b]", 4, 4, "the key `b` is already defined at (3,1) as a table")]
    [InlineData("a = [{}]\n[[a]]", 2, 3, "the key `a` is already defined at (1,1) as a value")]
    [InlineData("t = {\n  x = 1,\n  \"x\" = 2 }", 3, 3, "the key `x` is already defined at (2,3) as a value")]
    public void NameGivenTwice_IsReportedByParseStrictOnly(string toml, int line, int column, string message)
    {
        TomlException e = Assert.Throws<TomlException>(() => SyntaxParser.ParseStrict(toml, "x.toml"));
        Assert.Equal($"x.toml({line},{column}) : error : {message}", e.Message);

        Assert.NotNull(TomlSerializer.Deserialize<TomlTable>(toml));
        SyntaxParser.ParseStrict(toml, "x.toml", validate: false);
    }

    // A table that only came about on the way to another has no header of its own yet.
    [Theory]
    [InlineData("[a.b]\n[a]\nc = 1")]
    [InlineData("[a.b.c]\n[a]\nb.x = 1")]
    [InlineData("[a]\nb.c = 1\n[a.b.d]")]
    [InlineData("[[a]]\n[a.b]\n[[a]]\n[a.b]")]
    [InlineData("[[a]]\n[b]\n[[a]]")]
    public void NameThatMayBeGivenAgain_IsAccepted(string toml) => Assert.NotNull(SyntaxParser.ParseStrict(toml));

    [Fact]
    public void Deserialize_OfANameGivenTwice_TakesTheLastValueAndAllKeysOfATable()
    {
        TomlTable table = TomlSerializer.Deserialize<TomlTable>("a = 1\na = 2\n[t]\nx = 1\n[u]\n[t]\ny = 2")!;

        Assert.Equal(2L, table["a"]);
        Assert.Equal(["x", "y"], ((TomlTable)table["t"]).Keys);
    }

    [Theory]
    [InlineData("t = { a = 1 }\nt.b = 2", 2, 1)]
    [InlineData("t = { a = 1 }\n[t]\nb = 2", 2, 2)]
    [InlineData("t = { a = 1 }\n[t.u]\nb = 2", 2, 2)]
    public void InlineTable_CannotBeExtended(string toml, int line, int column)
    {
        foreach (Action read in new Action[]
        {
            () => SyntaxParser.ParseStrict(toml),
            () => TomlSerializer.Deserialize<TomlTable>(toml),
        })
        {
            TomlException e = Assert.Throws<TomlException>(read);
            Assert.Equal($"({line},{column}) : error : the key `t` is already defined at (1,1) as an inline table", e.Message);
        }
    }

    // The document itself is the first of the 64.
    [Theory]
    [InlineData("a = ", "[", "]", 63)]
    [InlineData("a = ", "{a=", "}", 62)]
    [InlineData("", "a.", "b=1", 63)]
    [InlineData("[", "a.", "b]", 62)]
    public void Nesting_IsLimitedTo64(string before, string open, string close, int allowed)
    {
        SyntaxParser.ParseStrict(Nested(allowed));

        TomlException e = Assert.Throws<TomlException>(() => SyntaxParser.ParseStrict(Nested(allowed + 1)));
        Assert.Contains("maximum depth of 64", e.Message, StringComparison.Ordinal);

        string Nested(int count)
        {
            string inner = open == "{a=" ? "{}" : "";
            string closing = open.EndsWith('.') ? close : string.Concat(Enumerable.Repeat(close, count));
            return before + string.Concat(Enumerable.Repeat(open, count)) + inner + closing;
        }
    }

    [Fact]
    public void Deserialize_OfAnotherType_SaysWhatItSupports()
    {
        NotSupportedException e = Assert.Throws<NotSupportedException>(() => TomlSerializer.Deserialize<List<int>>("a = 1"));
        Assert.Contains("Tomlyn.Model.TomlTable only; got System.Collections.Generic.List", e.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentNullException>(() => TomlSerializer.Deserialize<TomlTable>((string)null!));
        Assert.Throws<ArgumentNullException>(() => SyntaxParser.ParseStrict((string)null!));
    }
}
