using Hybrid.Mixers;
using Hybrid.Modeling;
using Hybrid.Tests.Tokenizers;
using Hybrid.Tokenizers;
using Xunit;

namespace Hybrid.Tests.Checkpoints;

/// <summary>The tokenizer files of a model folder: read with the model, kept with it, saved with it.</summary>
public sealed class HuggingFaceTokenizerTests : IDisposable
{
    private const int Vocabulary = 500;
    private const string Unigram = """{"model": {"type": "Unigram", "vocab": []}}""";
    private readonly TemporaryFolder parent = new();

    private string Target => parent.File("model");

    [Fact]
    public async Task AFolderIsAllThatTextNeeds()
    {
        SaveModel();
        AddTokenizer("gpt2");
        using var model = CausalLanguageModel.FromPretrained(Target);
        var tokenizer = Assert.IsType<BpeTokenizer>(model.Tokenizer);
        Assert.Null(model.TokenizerProblem);
        Assert.Equal(TokenizerSamples.Load("gpt2").Encode("the state"), tokenizer.Encode("the state"));

        var options = new GenerationOptions { MaxNewTokens = 30, Seed = 5 };
        using var generator = new TokenGenerator(model, options);
        var expected = tokenizer.Decode(generator.Generate(tokenizer.Encode("the state")));
        var text = "";
        await foreach (var piece in model.GenerateAsync("the state", options))
        {
            text += piece;
        }

        Assert.NotEmpty(expected);
        Assert.Equal(expected, text);
    }

    [Fact]
    public void IdsBeyondTheTokensOfTheFileDecodeToNothing()
    {
        SaveModel();
        AddTokenizer("gpt2");
        using var model = CausalLanguageModel.FromPretrained(Target);
        var tokenizer = model.Tokenizer!;
        Assert.Equal(Vocabulary, tokenizer.VocabSize);
        Assert.Equal("the", tokenizer.Decode([Vocabulary - 1, .. tokenizer.Encode("the"), Vocabulary - 1]));
        Assert.Throws<ArgumentOutOfRangeException>(() => tokenizer.Decode([Vocabulary]));
    }

    [Theory]
    [InlineData("tokenizer.json", Unigram, "the model 'Unigram' is not supported")]
    [InlineData("tokenizer.json", "{", "a tokenizer must be JSON")]
    [InlineData("tokenizer.model", "sentences", "there is no tokenizer.json, but tokenizer.model, which this library does not read")]
    [InlineData(null, null, "there is no tokenizer.json")]
    public void AModelWhoseTokenizerCannotBeReadLoadsAndSaysWhyWhereTextIsWanted(string? file, string? content, string reason)
    {
        SaveModel();
        if (file is not null)
        {
            File.WriteAllText(InTarget(file), content);
        }

        using var model = CausalLanguageModel.FromPretrained(Target);
        Assert.Null(model.Tokenizer);
        Assert.Contains(reason, model.TokenizerProblem, StringComparison.Ordinal);
        var error = Assert.Throws<InvalidOperationException>(() => model.Generate("the"));
        Assert.Contains(reason, error.Message, StringComparison.Ordinal);

        model.SavePretrained(parent.File("again"));
        Assert.Equal(content, file is null ? null : File.ReadAllText(Path.Combine(parent.File("again"), file)));
        model.Tokenizer = TokenizerSamples.Load("gpt2");
        Assert.NotEmpty(model.Generate("the", new GenerationOptions { MaxNewTokens = 20, Seed = 1 }));
    }

    [Fact]
    public void TokenizerFilesAreSavedByteForByteAlsoOverTheFolderThatTheyCameFrom()
    {
        SaveModel();
        AddTokenizer("llama3");
        File.WriteAllText(InTarget("tokenizer_config.json"), "{ \"chat\":\t1 }");
        File.WriteAllText(InTarget("special_tokens_map.json"), "{}\r\n");
        File.WriteAllBytes(InTarget("tokenizer.model"), [0, 255, 13, 10]);
        var files = Contents(Target);

        using var model = CausalLanguageModel.FromPretrained(Target);
        model.SavePretrained(parent.File("second"));
        Directory.Delete(Target, recursive: true);
        model.SavePretrained(Target);
        model.SavePretrained(Target);
        Assert.Equal(files, Contents(Target));
        Assert.Equal(files, Contents(parent.File("second")));
        Assert.Equal(["model", "second"], parent.Names());
    }

    [Fact]
    public void ASaveThatFailsLeavesTheFolderAsItWas()
    {
        SaveModel();
        AddTokenizer("gpt2");
        File.WriteAllText(InTarget("notes.txt"), "mine");
        var files = Contents(Target);
        using var model = CausalLanguageModel.FromPretrained(Target);
        Assert.Throws<IOException>(() => model.SavePretrained(Target));
        Assert.Equal(files, Contents(Target));

        File.Delete(InTarget("notes.txt"));
        files = Contents(Target);
        model.Dispose();
        Assert.ThrowsAny<Exception>(() => model.SavePretrained(Target));
        Assert.Equal(files, Contents(Target));
        Assert.Equal(["model"], parent.Names());
    }

    [Fact]
    public void TokenizerFilesOfAFolderStayWhereTheModelBringsNone()
    {
        SaveModel();
        AddTokenizer("gpt2");
        SaveModel();
        Assert.Equal(File.ReadAllBytes(TokenizerSamples.PathOf("gpt2")), File.ReadAllBytes(InTarget("tokenizer.json")));
    }

    [Fact]
    public void AnotherTokenizerTakesThePlaceOfTheLoadedOne()
    {
        SaveModel();
        AddTokenizer("gpt2");
        File.WriteAllText(InTarget("merges.txt"), "old");
        using (var model = CausalLanguageModel.FromPretrained(Target))
        {
            model.Tokenizer = TokenizerSamples.Load("llama3");
            model.SavePretrained(Target);
        }

        Assert.Equal(["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"], Contents(Target).Keys.Order());
        using var again = CausalLanguageModel.FromPretrained(Target);
        Assert.Equal(TokenizerSamples.Load("llama3").Encode("the state"), again.Tokenizer!.Encode("the state"));
    }

    [Fact]
    public void AModelOverBytesIsSavedWithThemAsTokens()
    {
        using (var bytes = Model(ByteTokenizer.Vocabulary))
        {
            bytes.SavePretrained(Target);
        }

        using var model = CausalLanguageModel.FromPretrained(Target);
        const string text = "Grüße,\r\n  日本 👍🏽 \0 it's 12.5%";
        Assert.Equal(new ByteTokenizer().Encode(text), model.Tokenizer!.Encode(text));
        Assert.Equal(text, model.Tokenizer.Decode(new ByteTokenizer().Encode(text)));
        Assert.Equal("\ufffd", model.Tokenizer.Decode([0xff]));
    }

    [Theory]
    [InlineData("""{"add_bos_token": false, "add_eos_token": true, "eos_token": {"__type": "AddedToken", "content": "<|eot_id|>"}}""", false, true)]
    [InlineData("""{"add_bos_token": true, "bos_token": "<|begin_of_text|>"}""", true, false)]
    [InlineData("""{"add_bos_token": null, "bos_token": "<|eot_id|>"}""", true, false)]
    public void TheConfigurationSaysWhetherTextsBeginAndEndWithATokenOfTheirOwn(string config, bool begins, bool ends)
    {
        SaveModel();
        AddTokenizer("llama3");
        File.WriteAllText(InTarget("tokenizer_config.json"), config);
        using var model = CausalLanguageModel.FromPretrained(Target);
        var special = TokenizerSamples.Load("llama3").SpecialTokens;
        var plain = TokenizerSamples.Load("llama3", new() { AddSpecialTokens = false }).Encode("the state");
        int[] expected = [.. begins ? [special["<|begin_of_text|>"]] : Array.Empty<int>(), .. plain, .. ends ? [special["<|eot_id|>"]] : Array.Empty<int>()];
        Assert.Equal(expected, model.Tokenizer!.Encode("the state"));
    }

    [Fact]
    public void TokensThatTheConfigurationAddsAreFound()
    {
        SaveModel();
        AddTokenizer("gpt2");
        File.WriteAllText(InTarget("tokenizer_config.json"), """{"added_tokens_decoder": {"490": {"content": "<think>", "special": false}, "491": {"content": "<pad>", "special": true}}}""");
        using var model = CausalLanguageModel.FromPretrained(Target);
        var tokenizer = Assert.IsType<BpeTokenizer>(model.Tokenizer);
        var a = tokenizer.IdOf("a")!.Value;
        Assert.Equal([a, 490, 491, a], tokenizer.Encode("a<think><pad>a"));
        Assert.Equal("a<think>a", tokenizer.Decode([a, 490, 491, a]));
    }

    [Theory]
    [InlineData("""{"add_eos_token": true}""", "expected a field 'eos_token'; found none")]
    [InlineData("""{"add_bos_token": true, "bos_token": "<s>"}""", "tokenizer_config.json: bos_token: expected the name of a token; found '<s>'")]
    [InlineData("""{"added_tokens_decoder": {"x": {"content": "<s>"}}}""", "expected an id as the field's name, 0..16777215; found 'x'")]
    [InlineData("""{"added_tokens_decoder": {"0": {"content": "<s>"}}}""", "added_tokens_decoder.0: expected a token with a text and an id of its own; found '<s>' with 0")]
    [InlineData("[]", "expected an object; found an array")]
    public void AConfigurationThatIsBrokenIsAReason(string config, string reason)
    {
        SaveModel();
        AddTokenizer("gpt2");
        File.WriteAllText(InTarget("tokenizer_config.json"), config);
        using var model = CausalLanguageModel.FromPretrained(Target);
        Assert.Contains(reason, model.TokenizerProblem, StringComparison.Ordinal);
    }

    public void Dispose() => parent.Dispose();

    private static CausalLanguageModel Model(int vocabulary)
    {
        TorchSharp.torch.manual_seed(3);
        return new CausalLanguageModel(new LanguageModelOptions
        {
            VocabSize = vocabulary,
            HiddenSize = 16,
            NumLayers = 1,
            Layers = ["mamba"],
            Mixers = new Dictionary<string, object> { ["mamba"] = new MambaOptions { DState = 4 } },
        });
    }

    private static SortedDictionary<string, string> Contents(string folder) =>
        new(Directory.GetFiles(folder).ToDictionary(path => Path.GetFileName(path), path => Convert.ToHexString(File.ReadAllBytes(path))), StringComparer.Ordinal);

    private void SaveModel()
    {
        using var model = Model(Vocabulary);
        model.SavePretrained(Target);
    }

    private void AddTokenizer(string sample) => File.Copy(TokenizerSamples.PathOf(sample), InTarget("tokenizer.json"));

    private string InTarget(string name) => Path.Combine(Target, name);
}
