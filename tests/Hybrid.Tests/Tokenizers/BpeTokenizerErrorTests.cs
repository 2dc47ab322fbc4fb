using System.Text.Json.Nodes;
using Xunit;

namespace Hybrid.Tests.Tokenizers;

public class BpeTokenizerErrorTests
{
    // Where in the file, the value put there, what the message says.
    public static TheoryData<string, string, string> Kinds => new()
    {
        { "model.type", "\"WordPiece\"", "model: the model 'WordPiece' is not supported" },
        { "model.type", "\"Unigram\"", "model: the model 'Unigram' is not supported" },
        { "model.byte_fallback", "true", "byte_fallback marks a SentencePiece model" },
        { "model.dropout", "0.1", "model.dropout: drop-out of merges" },
        { "model.end_of_word_suffix", "\"</w>\"", "model.end_of_word_suffix: tokens that are marked" },
        { "normalizer", """{"type":"Lowercase"}""", "normalizer: the normalizer 'Lowercase' is not supported" },
        { "normalizer", """{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"NFKC"}]}""", "normalizer.normalizers[1]: the normalizer 'NFKC'" },
        { "pre_tokenizer", "null", "the pre_tokenizer must be ByteLevel or end in it; found none" },
        { "pre_tokenizer", """{"type":"Metaspace"}""", "found 'Metaspace'" },
        { "pre_tokenizer", """{"type":"Sequence","pretokenizers":[{"type":"Whitespace"},{"type":"ByteLevel"}]}""", "the pre_tokenizer 'Whitespace' is not supported" },
        { "pre_tokenizer", Split("(?:", "Isolated"), "the pattern is not one that .NET knows" },
        { "pre_tokenizer", Split("a", "MergedWithNext"), "Split with behavior 'MergedWithNext' is not supported" },
        { "post_processor", """{"type":"BertProcessing"}""", "the post_processor 'BertProcessing' is not supported" },
        { "decoder", """{"type":"WordPiece"}""", "the decoder 'WordPiece' is not supported" },
        { "model.vocab", """{"a":0}""", "must have a token for each of the 256 bytes; it lacks 255, the first 0x00" },
    };

    public static TheoryData<string, string, string> Broken => new()
    {
        { "model", "null", "expected a field 'model'; found none" },
        { "model", "[]", "model: expected an object; found an array" },
        { "model.vocab", "[]", "model.vocab: expected an object; found an array" },
        { "model.vocab.a", "-1", "model.vocab.a: expected an id, 0..16777215; found -1" },
        { "model.vocab.a", "1e9", "model.vocab.a: expected an id" },
        { "model.vocab.a", "\"x\"", "found a string" },
        { "model.vocab.a", "0", "expected each token and each id once" },
        { "model.merges", "[\"a\"]", "model.merges[0]: expected a pair of tokens; found 1 parts" },
        { "model.merges", "[\"a b c\"]", "found 3 parts" },
        { "model.merges", "[[\"a\", 1]]", "model.merges[0][1]: expected a string; found 1" },
        { "model.merges", "[\"zz y\"]", "model.merges[0]: expected tokens of the vocabulary; found 'zz'" },
        { "model.merges", "[\"a q\"]", "found 'aq'" },
        { "added_tokens", """[{"id":0,"content":"<x>"}]""", "added_tokens[0]: expected a token with a text and an id of its own; found '<x>' with 0" },
        { "added_tokens", """[{"id":900,"content":""}]""", "found '' with 900" },
        { "added_tokens", """[{"id":900,"content":"a"}]""", "found 'a' with 900" },
        { "added_tokens", """[{"id":900,"content":"<x>"},{"id":900,"content":"<y>"}]""", "found '<y>' with 900" },
        { "added_tokens", """[{"content":"<x>"}]""", "added_tokens[0]: expected a field 'id'; found none" },
        { "added_tokens", """[{"id":900,"content":"<x>","special":1}]""", "expected true or false; found 1" },
        { "post_processor", """{"type":"TemplateProcessing","single":[],"special_tokens":{}}""", "expected the text once in 'single'; found it 0 times" },
        { "post_processor", Template(9999), "post_processor: expected ids of tokens; found 9999, which is none" },
    };

    [Theory]
    [MemberData(nameof(Kinds))]
    public void AKindThatIsNotSupportedIsRefusedWithTheReason(string place, string value, string said) =>
        Assert.Contains(said, Assert.Throws<NotSupportedException>(() => Load(place, value)).Message, StringComparison.Ordinal);

    [Theory]
    [MemberData(nameof(Broken))]
    public void ABrokenFileIsRefusedWithItsPlace(string place, string value, string said) =>
        Assert.Contains(said, Assert.Throws<InvalidDataException>(() => Load(place, value)).Message, StringComparison.Ordinal);

    [Theory]
    [InlineData("")]
    [InlineData("{")]
    [InlineData("{\"model\": \"\\ud800\"}")]
    public void TextThatIsNoJsonIsRefused(string text) =>
        Assert.Throws<InvalidDataException>(() => TokenizerSamples.FromText(text));

    private static void Load(string place, string value) => TokenizerSamples.Changed("gpt2", json =>
    {
        var names = place.Split('.');
        var owner = names[..^1].Aggregate(json, (node, name) => node[name]!);
        owner[names[^1]] = JsonNode.Parse(value);
    });

    private static string Split(string pattern, string behavior) => new JsonObject
    {
        ["type"] = "Sequence",
        ["pretokenizers"] = new JsonArray(
            new JsonObject { ["type"] = "Split", ["pattern"] = new JsonObject { ["Regex"] = pattern }, ["behavior"] = behavior },
            new JsonObject { ["type"] = "ByteLevel" }),
    }.ToJsonString();

    private static string Template(int id) =>
        """{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}},{"Sequence":{"id":"A"}}],"special_tokens":{"x":{"ids":[ID]}}}"""
            .Replace("ID", $"{id}", StringComparison.Ordinal);
}
