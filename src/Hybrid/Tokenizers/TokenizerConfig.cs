using System.Globalization;

namespace Hybrid.Tokenizers;

/// <summary>
/// What a <c>tokenizer_config.json</c> says of ids, beside the <c>tokenizer.json</c>: tokens that were added later, and whether texts begin and end
/// with one. The rest of it is for the classes of transformers.
/// </summary>
internal static class TokenizerConfig
{
    /// <summary>The tokens of <c>added_tokens_decoder</c>, with their ids.</summary>
    public static IEnumerable<(TokenizerJson Token, int Id)> AddedTokens(TokenizerJson? config) =>
        (config?.Optional("added_tokens_decoder")?.Fields() ?? []).Select(field => (field.Value, IdOf(field.Name, field.Value)));

    /// <summary>
    /// The ids at one end of a text: those of the template, unless <c>add_bos_token</c> or <c>add_eos_token</c> says that there is a token
    /// or none.
    /// </summary>
    /// <param name="config">The file; null where there is none.</param>
    /// <param name="end">"bos" or "eos".</param>
    /// <param name="ids">The ids of all tokens.</param>
    /// <param name="template">The ids that tokenizer.json asks for.</param>
    public static int[] Around(TokenizerJson? config, string end, IReadOnlyDictionary<string, int> ids, int[] template)
    {
        if (config is not { } settings || settings.Optional($"add_{end}_token") is null)
        {
            return template;
        }

        if (!settings.Flag($"add_{end}_token"))
        {
            return [];
        }

        var token = settings.Required($"{end}_token");
        var name = (token.IsObject ? token.Required("content") : token).String();
        return ids.TryGetValue(name, out var id) ? [id] : throw token.Error("the name of a token", $"'{name}'");
    }

    private static int IdOf(string name, TokenizerJson token) =>
        int.TryParse(name, NumberStyles.None, CultureInfo.InvariantCulture, out var id) && id <= TokenizerJson.LargestId
            ? id
            : throw token.Error($"an id as the field's name, 0..{TokenizerJson.LargestId}", $"'{name}'");
}
