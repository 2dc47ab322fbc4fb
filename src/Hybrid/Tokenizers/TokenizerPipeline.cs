using System.Text.RegularExpressions;

namespace Hybrid.Tokenizers;

/// <summary>Reads the stages around the model: normalizer, pre-tokenizer, post-processor, decoder.</summary>
internal static class TokenizerPipeline
{
    private const string Sequence = "Sequence";
    private const string ByteLevel = "ByteLevel";

    /// <summary>True where texts are brought to normalization form C first.</summary>
    public static bool ReadComposes(TokenizerJson file)
    {
        var composes = false;
        foreach (var stage in Flatten(file.Optional("normalizer"), "normalizers"))
        {
            composes = stage.Type == "NFC" ? true : throw stage.Unsupported($"the normalizer '{stage.Type}' is not supported; NFC is");
        }

        return composes;
    }

    /// <summary>The steps that cut a text; the last must be the one to bytes.</summary>
    public static PreTokenizer ReadPreTokenizer(TokenizerJson file)
    {
        var stages = Flatten(file.Optional("pre_tokenizer"), "pretokenizers").ToArray();
        if (stages is [] || stages[^1].Type != ByteLevel)
        {
            throw file.Unsupported(
                $"the pre_tokenizer must be {ByteLevel} or end in it; found {(stages is [] ? "none" : $"'{stages[^1].Type}'")}. Only BPE over bytes is supported");
        }

        return new PreTokenizer([.. stages.Select(ReadStep)]);
    }

    /// <summary>Throws where ids become text by another way than their bytes.</summary>
    public static void RequireByteLevelDecoder(TokenizerJson file)
    {
        foreach (var stage in Flatten(file.Optional("decoder"), "decoders"))
        {
            if (stage.Type != ByteLevel)
            {
                throw stage.Unsupported($"the decoder '{stage.Type}' is not supported; {ByteLevel} is");
            }
        }
    }

    /// <summary>The ids before and after a text.</summary>
    public static (int[] Prefix, int[] Suffix) ReadTemplate(TokenizerJson file)
    {
        (int[] Prefix, int[] Suffix)? template = null;
        foreach (var stage in Flatten(file.Optional("post_processor"), "processors"))
        {
            // The kind ByteLevel corrects offsets, which are not kept here.
            if (stage.Type == ByteLevel)
            {
                continue;
            }

            template = stage.Type == "TemplateProcessing" && template is null
                ? ReadSingle(stage)
                : throw stage.Unsupported($"the post_processor '{stage.Type}' is not supported; one TemplateProcessing is");
        }

        return template ?? ([], []);
    }

    private static (int[] Prefix, int[] Suffix) ReadSingle(TokenizerJson template)
    {
        var (prefix, suffix) = (new List<int>(), new List<int>());
        var texts = 0;
        foreach (var piece in template.Required("single").Items())
        {
            if (piece.Optional("SpecialToken") is { } token)
            {
                var known = template.Required("special_tokens").Required(token.Required("id").String());
                (texts == 0 ? prefix : suffix).AddRange(known.Required("ids").Items().Select(id => id.Id()));
                continue;
            }

            piece.Required(Sequence);
            texts++;
        }

        return texts == 1 ? ([.. prefix], [.. suffix]) : throw template.Error("the text once in 'single'", $"it {texts} times");
    }

    private static PreTokenizer.Step ReadStep(TokenizerJson stage)
    {
        switch (stage.Type)
        {
            case ByteLevel:
                // A file that does not say uses the pattern.
                var cuts = stage.Optional("use_regex") is null || stage.Flag("use_regex");
                return new(cuts ? Compile(stage, PreTokenizer.Gpt2Pattern) : null, AddPrefixSpace: stage.Flag("add_prefix_space"));
            case "Digits":
                return new(Compile(stage, stage.Flag("individual_digits") ? @"\p{N}" : @"\p{N}+"));
            case "Split":
                return ReadSplit(stage);
            default:
                throw stage.Unsupported($"the pre_tokenizer '{stage.Type}' is not supported; Split, Digits and {ByteLevel} are");
        }
    }

    private static PreTokenizer.Step ReadSplit(TokenizerJson stage)
    {
        var pattern = stage.Required("pattern");
        var regex = pattern.Optional("Regex") is { } text
            ? Compile(text, text.String())
            : Compile(pattern, Regex.Escape(pattern.Required("String").String()));

        // A match and what lies between two of them are equals when both are kept, so that inverting makes no difference.
        return (stage.Required("behavior").String(), stage.Flag("invert")) switch
        {
            ("Isolated", _) => new(regex),
            ("Removed", true) => new(regex, MatchesOnly: true),
            var (behavior, invert) => throw stage.Unsupported(
                $"Split with behavior '{behavior}'{(invert ? ", inverted," : "")} is not supported; 'Isolated' and inverted 'Removed' are"),
        };
    }

    private static Regex Compile(TokenizerJson place, string pattern)
    {
        try
        {
            return new Regex(pattern, RegexOptions.CultureInvariant | RegexOptions.Compiled);
        }
        catch (ArgumentException error)
        {
            throw place.Unsupported($"the pattern is not one that .NET knows: {error.Message.TrimEnd('.')}");
        }
    }

    /// <summary>The stages one after the other, sequences within sequences resolved.</summary>
    private static IEnumerable<TokenizerJson> Flatten(TokenizerJson? stage, string field) => stage switch
    {
        null => [],
        { Type: Sequence } sequence => sequence.Required(field).Items().SelectMany(item => Flatten(item, field)),
        { } single => [single],
    };
}
