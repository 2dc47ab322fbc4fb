using System.Text.Json;
using System.Text.Json.Serialization;
using Hybrid.Modeling;
using Microsoft.AspNetCore.Http;

namespace Hybrid.Samples;

/// <summary>The body of POST /v1/completions: the fields of OpenAI's API that apply, and the samplers of the library. Others are refused.</summary>
internal sealed record CompletionRequest
{
    private const int DefaultMaxTokens = 128;
    private const int MostStopStrings = 4;
    private const int LongestStopString = 200;

    private static readonly JsonSerializerOptions Json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow,
        MaxDepth = 8,
    };

    public string? Model { get; init; }

    public string? Prompt { get; init; }

    public int? MaxTokens { get; init; }

    public double Temperature { get; init; } = 1;

    public double TopP { get; init; } = 1;

    public int TopK { get; init; }

    public double MinP { get; init; }

    public double RepetitionPenalty { get; init; } = 1;

    public int? Seed { get; init; }

    public JsonElement? Stop { get; init; }

    public bool Stream { get; init; }

    public int N { get; init; } = 1;

    public string? User { get; init; }

    /// <summary>Reads and checks a request.</summary>
    public static async Task<CompletionRequest> ReadAsync(HttpRequest request, ServerOptions limits, CancellationToken cancellation)
    {
        if (!request.HasJsonContentType())
        {
            throw new RequestException(StatusCodes.Status415UnsupportedMediaType, "unsupported_media_type", "The body must be application/json.");
        }

        CompletionRequest? body;
        try
        {
            body = await JsonSerializer.DeserializeAsync<CompletionRequest>(request.Body, Json, cancellation);
        }
        catch (JsonException error)
        {
            throw Invalid($"The body is not a completion request: {error.Message}", error.Path?.TrimStart('$', '.') is { Length: > 0 } field ? field : null);
        }
        catch (BadHttpRequestException error)
        {
            var tooLarge = error.StatusCode == StatusCodes.Status413PayloadTooLarge;
            throw new RequestException(
                error.StatusCode, tooLarge ? "body_too_large" : "bad_request",
                tooLarge ? $"The body may have {limits.MaxBodyBytes} bytes." : error.Message);
        }

        if (body is null || string.IsNullOrEmpty(body.Prompt))
        {
            throw Invalid("The prompt must be a text that is not empty.", "prompt");
        }

        return body.N != 1 ? throw Invalid($"n must be 1; got {body.N}.", "n")
            : body.MaxTokens is { } count && (count < 1 || count > limits.MaxTokens) ? throw Invalid($"max_tokens must be 1..{limits.MaxTokens}; got {count}.", "max_tokens")
            : body with { MaxTokens = body.MaxTokens ?? Math.Min(DefaultMaxTokens, limits.MaxTokens) };
    }

    /// <summary>How to choose tokens.</summary>
    public GenerationOptions ToOptions()
    {
        var options = new GenerationOptions
        {
            MaxNewTokens = MaxTokens ?? DefaultMaxTokens,
            Temperature = Temperature,
            TopP = TopP,
            TopK = TopK,
            MinP = MinP,
            RepetitionPenalty = RepetitionPenalty,
            Seed = Seed,
            StopStrings = StopStrings(),
        };
        try
        {
            options.Validate();
            return options;
        }
        catch (ArgumentException error)
        {
            throw Invalid(error.Message.Split(" (Parameter", 2)[0], JsonNamingPolicy.SnakeCaseLower.ConvertName(error.ParamName ?? ""));
        }
    }

    private static RequestException Invalid(string message, string? parameter) =>
        new(StatusCodes.Status400BadRequest, "invalid_value", message, parameter);

    private string[] StopStrings()
    {
        string?[] stops = Stop switch
        {
            null or { ValueKind: JsonValueKind.Null } => [],
            { ValueKind: JsonValueKind.String } one => [one.GetString()],
            { ValueKind: JsonValueKind.Array } many => [.. many.EnumerateArray().Select(stop => stop.ValueKind == JsonValueKind.String ? stop.GetString() : null)],
            _ => [null],
        };
        string[] texts = [.. stops.OfType<string>().Where(stop => stop.Length is >= 1 and <= LongestStopString)];
        return texts.Length == stops.Length && texts.Length <= MostStopStrings
            ? texts
            : throw Invalid($"stop must be a text or up to {MostStopStrings} texts of 1..{LongestStopString} characters.", "stop");
    }
}
