using System.Net;
using Hybrid.Samples;
using Xunit;

namespace Hybrid.Tests.Serving;

public sealed class CompletionErrorTests : IAsyncLifetime
{
    private RunningServer server = null!;

    // Body, status, code, parameter, what the message says.
    public static TheoryData<string, int, string, string?, string> Requests => new()
    {
        { "", 400, "invalid_value", null, "not a completion request" },
        { "{", 400, "invalid_value", null, "not a completion request" },
        { "null", 400, "invalid_value", "prompt", "must be a text that is not empty" },
        { "[]", 400, "invalid_value", null, "not a completion request" },
        { "{}", 400, "invalid_value", "prompt", "must be a text that is not empty" },
        { """{"prompt":""}""", 400, "invalid_value", "prompt", "must be a text that is not empty" },
        { """{"prompt":5}""", 400, "invalid_value", "prompt", "not a completion request" },
        { """{"prompt":"a","max_tokens":0}""", 400, "invalid_value", "max_tokens", "max_tokens must be 1..50; got 0." },
        { """{"prompt":"a","max_tokens":51}""", 400, "invalid_value", "max_tokens", "got 51" },
        { """{"prompt":"a","max_tokens":1.5}""", 400, "invalid_value", "max_tokens", "not a completion request" },
        { """{"prompt":"a","n":2}""", 400, "invalid_value", "n", "n must be 1; got 2." },
        { """{"prompt":"a","temperature":-1}""", 400, "invalid_value", "temperature", "Temperature must be at least 0; got -1." },
        { """{"prompt":"a","top_p":0}""", 400, "invalid_value", "top_p", "TopP must be positive; got 0." },
        { """{"prompt":"a","min_p":2}""", 400, "invalid_value", "min_p", "MinP must be 0..1; got 2." },
        { """{"prompt":"a","stop":""}""", 400, "invalid_value", "stop", "stop must be a text" },
        { """{"prompt":"a","stop":["a","b","c","d","e"]}""", 400, "invalid_value", "stop", "up to 4 texts" },
        { """{"prompt":"a","stop":[1]}""", 400, "invalid_value", "stop", "stop must be a text" },
        { """{"prompt":"a","stop":{}}""", 400, "invalid_value", "stop", "stop must be a text" },
        { """{"prompt":"a","logprobs":3}""", 400, "invalid_value", "logprobs", "logprobs" },
        { """{"prompt":"a","model":"gpt"}""", 404, "model_not_found", "model", "There is no model 'gpt'; there is 'hybrid'." },
        { """{"prompt":"0123456789012345678901234567890"}""", 400, "context_length_exceeded", "prompt", "The prompt must have 1..30 tokens; got 31." },
    };

    public async ValueTask InitializeAsync() =>
        server = await RunningServer.StartAsync(new ServerOptions { MaxTokens = 50, MaxPromptTokens = 30, MaxBodyBytes = 1000 });

    public ValueTask DisposeAsync() => server.DisposeAsync();

    [Theory]
    [MemberData(nameof(Requests))]
    public async Task ARequestThatCannotBeServedIsAnsweredWithTheReason(string body, int status, string code, string? parameter, string said)
    {
        using var response = await server.PostTextAsync(body);
        await ExpectAsync(response, status, code, parameter, said);
        using var next = await server.PostAsync(new { prompt = "a", max_tokens = 1 });
        Assert.Equal(HttpStatusCode.OK, next.StatusCode);
    }

    [Fact]
    public async Task ABodyThatIsTooLargeIsNotRead()
    {
        using var response = await server.PostAsync(new { prompt = new string('a', 2000) });
        await ExpectAsync(response, 413, "body_too_large", null, "The body may have 1000 bytes.");
    }

    [Fact]
    public async Task AnotherTypeThanJsonIsRefused()
    {
        using var response = await server.PostTextAsync("{}", "text/plain");
        await ExpectAsync(response, 415, "unsupported_media_type", null, "must be application/json");
    }

    [Fact]
    public async Task OtherRoutesAndMethodsAreAnsweredInJson()
    {
        using var route = await server.Client.GetAsync("/v2/nothing");
        await ExpectAsync(route, 404, "not_found", null, "There is no /v2/nothing");
        using var method = await server.Client.GetAsync("/v1/completions");
        await ExpectAsync(method, 405, "method_not_allowed", null, "/v1/completions takes no GET.");
    }

    private static async Task ExpectAsync(HttpResponseMessage response, int status, string code, string? parameter, string said)
    {
        var error = (await RunningServer.JsonAsync(response)).GetProperty("error");
        Assert.Equal((status, code, parameter), ((int)response.StatusCode, error.GetProperty("code").GetString(), error.GetProperty("param").GetString()));
        Assert.Contains(said, error.GetProperty("message").GetString(), StringComparison.Ordinal);
        Assert.Equal("invalid_request_error", error.GetProperty("type").GetString());
    }
}
