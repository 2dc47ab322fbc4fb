using System.Text.Json;

namespace Hybrid.Tokenizers;

/// <summary>
/// Reads a <c>tokenizer.json</c> (https://github.com/huggingface/tokenizers). What it says of truncation and padding is for the caller of
/// the reference library to switch on, and is not used here.
/// </summary>
internal static class TokenizerFile
{
    /// <summary>Reads and checks a file.</summary>
    /// <param name="path">The file, for messages.</param>
    /// <param name="content">What is in it.</param>
    /// <param name="configuration">Path and content of the tokenizer_config.json that goes with it; null means there is none.</param>
    public static BpeVocabulary Read(string path, byte[] content, (string Path, byte[] Content)? configuration)
    {
        using var json = Parse(path, content);
        using var settings = configuration is { } beside ? Parse(beside.Path, beside.Content) : null;
        try
        {
            var config = settings is null ? (TokenizerJson?)null : new TokenizerJson(configuration!.Value.Path, "", settings.RootElement);
            return Read(new TokenizerJson(path, "", json.RootElement), config);
        }
        catch (InvalidOperationException error)
        {
            // An escape such as \ud800 that stands for half a character.
            throw NoJson(path, error);
        }
    }

    private static JsonDocument Parse(string path, byte[] content)
    {
        try
        {
            return JsonDocument.Parse(content);
        }
        catch (JsonException error)
        {
            throw NoJson(path, error);
        }
    }

    private static InvalidDataException NoJson(string path, Exception error) => new($"{path}: a tokenizer must be JSON: {error.Message}", error);

    private static BpeVocabulary Read(TokenizerJson file, TokenizerJson? config)
    {
        var model = file.Required("model");
        RequireByteLevelBpe(model);
        var preTokenizer = TokenizerPipeline.ReadPreTokenizer(file);
        TokenizerPipeline.RequireByteLevelDecoder(file);
        var tokens = ReadTokens(model.Required("vocab"));
        var added = ReadAdded(file, config, tokens);
        var template = TokenizerPipeline.ReadTemplate(file);
        var ids = new Dictionary<string, int>(tokens);
        added.ForEach(entry => ids[entry.Token.Content] = entry.Token.Id);
        var prefix = TokenizerConfig.Around(config, "bos", ids, template.Prefix);
        var suffix = TokenizerConfig.Around(config, "eos", ids, template.Suffix);
        var vocabulary = new BpeVocabulary(tokens, added)
        {
            Merges = new BpeMerges(ReadMerges(model.Required("merges"), tokens)),
            PreTokenizer = preTokenizer,
            IgnoresMerges = model.Flag("ignore_merges"),
            Composes = TokenizerPipeline.ReadComposes(file),
            Prefix = prefix,
            Suffix = suffix,
        };
        return prefix.Concat(suffix).Where(id => vocabulary.BytesOf(id) is null).Cast<int?>().FirstOrDefault() is { } unknown
            ? throw file.Required("post_processor").Error("ids of tokens", $"{unknown}, which is none")
            : vocabulary;
    }

    private static void RequireByteLevelBpe(TokenizerJson model)
    {
        // Files of the first years name no type.
        if (model.Type is { } type and not "BPE")
        {
            throw model.Unsupported($"the model '{type}' is not supported; only BPE over bytes is");
        }

        if (model.Flag("byte_fallback"))
        {
            throw model.Unsupported("byte_fallback marks a SentencePiece model, whose alphabet is characters; only BPE over bytes is supported");
        }

        if (model.Optional("dropout") is { } dropout)
        {
            throw dropout.Unsupported("drop-out of merges makes the ids random, which is not supported");
        }

        foreach (var name in new[] { "continuing_subword_prefix", "end_of_word_suffix" })
        {
            if (model.Optional(name) is { } mark && mark.String().Length > 0)
            {
                throw mark.Unsupported("tokens that are marked by their place in the word are not supported");
            }
        }
    }

    private static Dictionary<string, int> ReadTokens(TokenizerJson vocabulary)
    {
        var tokens = new Dictionary<string, int>();
        var owners = new Dictionary<int, string>();
        foreach (var (name, value) in vocabulary.Fields())
        {
            var id = value.Id();
            if (!tokens.TryAdd(name, id) || !owners.TryAdd(id, name))
            {
                throw value.Error("each token and each id once", $"'{name}' with {id}, of which one came before");
            }
        }

        var missing = Enumerable.Range(0, 256).Where(value => !tokens.ContainsKey(ByteAlphabet.Letter((byte)value).ToString())).ToArray();
        return missing.Length == 0
            ? tokens
            : throw vocabulary.Unsupported($"the vocabulary must have a token for each of the 256 bytes; it lacks {missing.Length}, the first 0x{missing[0]:x2}");
    }

    private static Dictionary<(int Left, int Right), (int Rank, int Merged)> ReadMerges(TokenizerJson list, Dictionary<string, int> tokens)
    {
        var merges = new Dictionary<(int Left, int Right), (int Rank, int Merged)>();
        foreach (var (rank, item) in list.Items().Index())
        {
            var parts = item.IsArray ? [.. item.Items().Select(part => part.String())] : item.String().Split(' ');
            if (parts is not [var left, var right])
            {
                throw item.Error("a pair of tokens", $"{parts.Length} parts");
            }

            // A pair that is listed twice keeps the later rank, as in the reference library.
            merges[(IdOf(item, left), IdOf(item, right))] = (rank, IdOf(item, left + right));
        }

        return merges;

        int IdOf(TokenizerJson item, string token) => tokens.TryGetValue(token, out var id) ? id : throw item.Error("tokens of the vocabulary", $"'{token}'");
    }

    private static List<(AddedToken Token, bool Normalized)> ReadAdded(TokenizerJson file, TokenizerJson? config, Dictionary<string, int> tokens)
    {
        var added = new Dictionary<string, (AddedToken Token, bool Normalized)>();
        var owners = tokens.ToDictionary(entry => entry.Value, entry => entry.Key);
        var listed = (file.Optional("added_tokens")?.Items() ?? []).Select(item => (item, item.Required("id").Id()));
        var beside = TokenizerConfig.AddedTokens(config).Where(entry => !IsKnown(entry.Token, entry.Id));
        foreach (var (item, id) in listed.Concat(beside))
        {
            var content = item.Required("content").String();
            var taken = owners.TryGetValue(id, out var owner) && owner != content;
            var elsewhere = tokens.TryGetValue(content, out var other) && other != id;
            var token = new AddedToken(id, content, item.Flag("special"), item.Flag("lstrip"), item.Flag("rstrip"), item.Flag("single_word"));
            if (content.Length == 0 || taken || elsewhere || !added.TryAdd(content, (token, item.Flag("normalized"))))
            {
                throw item.Error("a token with a text and an id of its own", $"'{content}' with {id}");
            }

            owners[id] = content;
        }

        return [.. added.Values];

        bool IsKnown(TokenizerJson item, int id) => added.TryGetValue(item.Required("content").String(), out var known) && known.Token.Id == id;
    }
}
