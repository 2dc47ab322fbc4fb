using System.Text;
using System.Text.Json.Nodes;
using FsCheck;
using FsCheck.Fluent;
using Hybrid.Tests.Modeling;
using Hybrid.Tokenizers;
using Xunit;

namespace Hybrid.Tests.Tokenizers;

public class BpeTokenizerTests
{
    private static readonly BpeTokenizerOptions Plain = new() { AddSpecialTokens = false };

    public static TheoryData<string> Styles => new("gpt2", "llama3", "o200k");

    [Theory]
    [MemberData(nameof(Styles))]
    public void IdsAreThoseOfAnIndependentProgram(string style)
    {
        var tokenizer = TokenizerSamples.Load(style, Plain);
        foreach (var test in TokenizerSamples.Json(style + ".cases").AsArray())
        {
            var text = test!["text"]!.GetValue<string>();
            var expected = test["ids"]!.AsArray().Select(id => id!.GetValue<int>()).ToArray();
            Assert.True(expected.SequenceEqual(tokenizer.Encode(text)), $"{style}, '{text}'");
            Assert.Equal(text, tokenizer.Decode(expected));
        }
    }

    [Theory]
    [MemberData(nameof(Styles))]
    public void AnyTextComesBackWholeAndInPieces(string style)
    {
        var tokenizer = TokenizerSamples.Load(style, Plain);
        var characters = Gen.OneOf(
            Gen.Elements("a", "the", " ", "  ", "\n", "\r\n", "'s", "9", ".", "ü", "ß", "日", "本語", "😀", "👍🏽", "𠮷", "\u0000", "\ud800", "\udc00", "e\u0301"),
            Gen.Choose(0, 0xffff).Select(value => ((char)value).ToString()));
        var texts = Gen.ListOf(characters).Select(string.Concat);
        Check.One(Config.QuickThrowOnFailure.WithMaxTest(300), Prop.ForAll(texts.ToArbitrary(), text =>
        {
            var ids = tokenizer.Encode(text);
            var whole = Encoding.UTF8.GetString(Encoding.UTF8.GetBytes(text));
            Assert.Equal(whole, tokenizer.Decode(ids));
            Assert.All(ids, id => Assert.InRange(id, 0, tokenizer.VocabSize - 1));
            var pieces = Pieces(tokenizer, ids);
            Assert.Equal(whole, string.Concat(pieces));
            Assert.All(pieces, piece => Assert.True(ByteTokenizerTests.IsWhole(piece)));
        }));
    }

    [Fact]
    public void HalfASurrogatePairIsAReplacementCharacter()
    {
        var tokenizer = TokenizerSamples.Load("gpt2");
        Assert.Equal("a\ufffdb", tokenizer.Decode(tokenizer.Encode("a\ud83db")));
        Assert.Equal("\ufffd", tokenizer.Decode(tokenizer.Encode("\ude00")));
    }

    [Fact]
    public void ACharacterInSeveralTokensIsHeldBackUntilItIsComplete()
    {
        var tokenizer = TokenizerSamples.Load("gpt2");
        var ids = Encoding.UTF8.GetBytes("👍").Select(value => tokenizer.IdOf(ByteLetters(value))!.Value).ToArray();
        var stream = tokenizer.CreateStream();
        Assert.Equal(["", "", "", "👍"], ids.Select(stream.Append));
        Assert.Equal("", stream.Append(ids[0]));
        Assert.Equal("\ufffd", stream.Finish());
    }

    [Fact]
    public void SpecialTokensAreFoundAddedAndSkipped()
    {
        var tokenizer = TokenizerSamples.Load("llama3");
        var (begin, turn) = (tokenizer.SpecialTokens["<|begin_of_text|>"], tokenizer.SpecialTokens["<|eot_id|>"]);
        var ids = tokenizer.Encode("the<|eot_id|> state");
        var plain = TokenizerSamples.Load("llama3", Plain);
        Assert.Equal([begin, .. plain.Encode("the"), turn, .. plain.Encode(" state")], ids);
        Assert.Equal("the state", tokenizer.Decode(ids));

        var shown = TokenizerSamples.Load("llama3", new() { SkipSpecialTokens = false });
        Assert.Equal("<|begin_of_text|>the<|eot_id|> state", shown.Decode(ids));
        Assert.Equal(shown.Decode(ids), string.Concat(Pieces(shown, ids)));
    }

    [Fact]
    public void SpecialTokensOfOthersAreTextWhereTheyAreNotParsed()
    {
        var tokenizer = TokenizerSamples.Load("llama3", new() { ParseSpecialTokens = false });
        var ids = tokenizer.Encode("a<|eot_id|>b");
        Assert.DoesNotContain(tokenizer.SpecialTokens["<|eot_id|>"], ids);
        Assert.Equal("a<|eot_id|>b", tokenizer.Decode(ids));
    }

    [Fact]
    public void TheLongestAddedTokenWinsAndMayTakeWhiteSpaceAlong()
    {
        var tokenizer = TokenizerSamples.Changed("gpt2", json =>
        {
            var added = json["added_tokens"]!.AsArray();
            added.Add(Added(400, "<s>"));
            added.Add(Added(401, "<s><s>"));
            added.Add(Added(402, "[M]", strip: true));
            added.Add(Added(403, "word", singleWord: true));
        });
        var a = tokenizer.IdOf("a")!.Value;
        Assert.Equal([401, 400, a], tokenizer.Encode("<s><s><s>a"));
        Assert.Equal([a, 402, a], tokenizer.Encode("a  [M] \n a"));
        Assert.Equal([402, 402], tokenizer.Encode(" [M]  [M] "));
        Assert.Equal([a, tokenizer.IdOf(".")!.Value, 403, 400], tokenizer.Encode("a.word<s>"));
        Assert.DoesNotContain(403, tokenizer.Encode("words sword word9 word_"));
        Assert.Equal(404, tokenizer.VocabSize);
    }

    [Fact]
    public void AWordThatIsATokenIsThatTokenWhereMergesAreIgnored()
    {
        var tokenizer = TokenizerSamples.Load("llama3", Plain);
        Assert.Equal([tokenizer.IdOf("Ġstateless")!.Value], tokenizer.Encode(" stateless"));
        var merged = TokenizerSamples.Changed("llama3", json => json["model"]!["ignore_merges"] = false, Plain).Encode(" stateless");
        Assert.True(merged.Length > 1);
        Assert.Equal(" stateless", tokenizer.Decode(merged));
    }

    [Fact]
    public void MergesAsTextAndAsPairsAreTheSame()
    {
        var pairs = TokenizerSamples.Changed("gpt2", json => json["model"]!["merges"] = new JsonArray(
            [.. json["model"]!["merges"]!.AsArray().Select(merge => new JsonArray([.. merge!.GetValue<string>().Split(' ').Select(part => (JsonNode)part)]))]));
        Assert.Equal(TokenizerSamples.Load("gpt2").Encode("The state of it all"), pairs.Encode("The state of it all"));
    }

    [Fact]
    public void APrefixSpaceMakesTheFirstWordLikeTheOthers()
    {
        var tokenizer = TokenizerSamples.Changed("gpt2", json => json["pre_tokenizer"]!["add_prefix_space"] = true);
        Assert.Equal(TokenizerSamples.Load("gpt2").Encode(" the state"), tokenizer.Encode("the state"));
        Assert.Equal(tokenizer.Encode("the state"), tokenizer.Encode(" the state"));
    }

    [Fact]
    public void DigitsAreCutOneByOne()
    {
        var tokenizer = TokenizerSamples.Changed("gpt2", json => json["pre_tokenizer"] = new JsonObject
        {
            ["type"] = "Sequence",
            ["pretokenizers"] = new JsonArray(new JsonObject { ["type"] = "Digits", ["individual_digits"] = true }, json["pre_tokenizer"]!.DeepClone()),
        });
        string[] tokens = ["a", "1", "2", "Ġ", "3"];
        Assert.Equal(tokens.Select(token => tokenizer.IdOf(token)!.Value), tokenizer.Encode("a12 3"));
    }

    [Fact]
    public void TextIsComposedWhereTheFileSaysSo()
    {
        var tokenizer = TokenizerSamples.Changed("gpt2", json => json["normalizer"] = new JsonObject { ["type"] = "NFC" });
        Assert.Equal("Grüße, \u00e9", tokenizer.Decode(tokenizer.Encode("Grüße, e\u0301")));
        var without = TokenizerSamples.Load("gpt2");
        Assert.Equal("e\u0301", without.Decode(without.Encode("e\u0301")));
    }

    [Fact]
    public void AWordOfAHundredThousandCharactersTakesNoLongerThanItsParts()
    {
        var tokenizer = TokenizerSamples.Load("gpt2");
        var text = string.Concat(Enumerable.Repeat("thestate", 12_500));
        var watch = System.Diagnostics.Stopwatch.StartNew();
        var ids = tokenizer.Encode(text);
        Assert.Equal(text, tokenizer.Decode(ids));
        Assert.True(watch.Elapsed < TimeSpan.FromSeconds(20), $"took {watch.Elapsed}; a loop over all pairs at each merge takes minutes");
    }

    [Fact]
    public void AnIdThatIsNoTokenIsRefused()
    {
        var tokenizer = TokenizerSamples.Load("gpt2");
        Assert.Throws<ArgumentOutOfRangeException>(() => tokenizer.Decode([tokenizer.VocabSize]));
        Assert.Throws<ArgumentOutOfRangeException>(() => tokenizer.CreateStream().Append(-1));
    }

    [Fact]
    public void SeveralThreadsUseOneTokenizer()
    {
        var tokenizer = TokenizerSamples.Load("o200k");
        var texts = Enumerable.Range(0, 200).Select(i => $"The state of {i} things, and it's {i * i}").ToArray();
        var expected = texts.Select(TokenizerSamples.Load("o200k").Encode).ToArray();
        Parallel.For(0, 1000, i => Assert.Equal(expected[i % 200], tokenizer.Encode(texts[i % 200])));
    }

    private static JsonObject Added(int id, string content, bool strip = false, bool singleWord = false) => new()
    {
        ["id"] = id, ["content"] = content, ["lstrip"] = strip, ["rstrip"] = strip, ["single_word"] = singleWord, ["special"] = true,
    };

    private static string ByteLetters(byte value) => ByteAlphabet.Letter(value).ToString();

    private static List<string> Pieces(BpeTokenizer tokenizer, IEnumerable<int> ids)
    {
        var stream = tokenizer.CreateStream();
        return [.. ids.Select(stream.Append), stream.Finish()];
    }
}
