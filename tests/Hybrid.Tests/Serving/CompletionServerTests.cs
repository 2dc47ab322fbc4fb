using System.Net;
using System.Text.Json;
using Hybrid.Modeling;
using Hybrid.Samples;
using Hybrid.Tests.Checkpoints;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Serving;

/// <summary>Real HTTP over the loopback interface.</summary>
public class CompletionServerTests
{
    private static readonly GenerationOptions Options = new() { MaxNewTokens = 40, Seed = 3, TopK = 60, Temperature = 0.9 };
    private static readonly object Request = new { prompt = "Grüße", max_tokens = 40, seed = 3, top_k = 60, temperature = 0.9 };

    [Fact]
    public async Task ACompletionIsTheTextOfTheLibrary()
    {
        await using var server = await RunningServer.StartAsync();
        var expected = string.Concat(server.Model.Generate("Grüße", Options));
        using var response = await server.PostAsync(Request);
        Assert.Equal(HttpStatusCode.OK, response.StatusCode);
        var answer = await RunningServer.JsonAsync(response);
        var choice = answer.GetProperty("choices")[0];
        Assert.Equal("text_completion", answer.GetProperty("object").GetString());
        Assert.Equal(expected, choice.GetProperty("text").GetString());
        Assert.Equal("length", choice.GetProperty("finish_reason").GetString());
        Assert.Equal(7, answer.GetProperty("usage").GetProperty("prompt_tokens").GetInt32());
        Assert.Equal(40, answer.GetProperty("usage").GetProperty("completion_tokens").GetInt32());
        Assert.Equal(47, answer.GetProperty("usage").GetProperty("total_tokens").GetInt32());
    }

    [Fact]
    public async Task AStreamIsTheSameTextInPieces()
    {
        await using var server = await RunningServer.StartAsync();
        using var response = await server.PostAsync(new { prompt = "Grüße", max_tokens = 40, seed = 3, top_k = 60, temperature = 0.9, stream = true });
        Assert.Equal("text/event-stream", response.Content.Headers.ContentType!.MediaType);
        var events = (await response.Content.ReadAsStringAsync()).Split("\n\n", StringSplitOptions.RemoveEmptyEntries);
        Assert.All(events, data => Assert.StartsWith("data: ", data, StringComparison.Ordinal));
        Assert.Equal("data: [DONE]", events[^1]);
        var answers = events[..^1].Select(data => JsonDocument.Parse(data["data: ".Length..]).RootElement).ToArray();
        Assert.True(answers.Length > 10);
        Assert.Equal(string.Concat(server.Model.Generate("Grüße", Options)), string.Concat(answers.Select(answer => answer.GetProperty("choices")[0].GetProperty("text").GetString())));
        Assert.Single(answers.Select(answer => answer.GetProperty("id").GetString()).Distinct());
        Assert.All(answers[..^1], answer => Assert.Equal(JsonValueKind.Null, answer.GetProperty("choices")[0].GetProperty("finish_reason").ValueKind));
        Assert.Equal("length", answers[^1].GetProperty("choices")[0].GetProperty("finish_reason").GetString());
        Assert.Equal(40, answers[^1].GetProperty("usage").GetProperty("completion_tokens").GetInt32());
    }

    [Fact]
    public async Task AStopStringEndsTheText()
    {
        await using var server = await RunningServer.StartAsync();
        var whole = string.Concat(server.Model.Generate("Grüße", Options));
        var stop = whole.Substring(10, 2);
        using var response = await server.PostAsync(new { prompt = "Grüße", max_tokens = 40, seed = 3, top_k = 60, temperature = 0.9, stop = new[] { "never", stop } });
        var choice = (await RunningServer.JsonAsync(response)).GetProperty("choices")[0];
        Assert.Equal(whole[..whole.IndexOf(stop, StringComparison.Ordinal)], choice.GetProperty("text").GetString());
        Assert.Equal("stop", choice.GetProperty("finish_reason").GetString());
    }

    [Fact]
    public async Task RequestsAtTheSameTimeGetTheirOwnTexts()
    {
        await using var server = await RunningServer.StartAsync(new ServerOptions { Workers = 3, QueueLength = 100 });
        var prompts = Enumerable.Range(0, 12).Select(i => $"prompt {i}").ToArray();
        var expected = prompts.Select((prompt, i) => string.Concat(server.Model.Generate(prompt, Options with { Seed = i }))).ToArray();
        var texts = await Task.WhenAll(prompts.Select(async (prompt, i) =>
        {
            using var response = await server.PostAsync(new { prompt, max_tokens = 40, seed = i, top_k = 60, temperature = 0.9 });
            return (await RunningServer.JsonAsync(response)).GetProperty("choices")[0].GetProperty("text").GetString();
        }));
        Assert.Equal(expected, texts);
        Assert.Equal((0, 0), (server.Queue.Running, server.Queue.Waiting));
    }

    [Fact]
    public async Task AFullQueueTurnsRequestsAway()
    {
        await using var server = await RunningServer.StartAsync(new ServerOptions { QueueLength = 1, MaxTokens = 100_000 }, maxLength: 100_000);
        using var leave = new CancellationTokenSource();
        using var running = await server.BeginAsync(new { prompt = "a", max_tokens = 90_000, stream = true }, leave.Token);
        var waiting = server.BeginAsync(new { prompt = "b", max_tokens = 1 });
        await RunningServer.UntilAsync(async () => await server.MetricAsync("hybrid_requests_waiting") == 1);
        using var refused = await server.PostAsync(new { prompt = "c" });
        Assert.Equal(HttpStatusCode.TooManyRequests, refused.StatusCode);
        Assert.Equal("queue_full", (await RunningServer.JsonAsync(refused)).GetProperty("error").GetProperty("code").GetString());
        Assert.NotNull(refused.Headers.RetryAfter);

        running.Dispose();
        using var served = await waiting;
        Assert.Equal(HttpStatusCode.OK, served.StatusCode);
    }

    [Fact]
    public async Task ARequestThatWaitsTooLongIsTurnedAway()
    {
        await using var server = await RunningServer.StartAsync(
            new ServerOptions { MaxTokens = 100_000, LongestWait = TimeSpan.FromMilliseconds(50) }, maxLength: 100_000);
        using var running = await server.BeginAsync(new { prompt = "a", max_tokens = 90_000, stream = true });
        using var refused = await server.PostAsync(new { prompt = "b" });
        Assert.Equal(HttpStatusCode.ServiceUnavailable, refused.StatusCode);
        var error = (await RunningServer.JsonAsync(refused)).GetProperty("error");
        Assert.Equal(("queue_timeout", "server_error"), (error.GetProperty("code").GetString(), error.GetProperty("type").GetString()));
        Assert.NotNull(refused.Headers.RetryAfter);
        Assert.Equal((1, 0), (server.Queue.Running, server.Queue.Waiting));
    }

    [Fact]
    public async Task AServerThatIsStoppedTurnsAwayThoseWhoWait()
    {
        await using var server = await RunningServer.StartAsync(new ServerOptions { MaxTokens = 100_000 }, maxLength: 100_000);
        using var running = await server.BeginAsync(new { prompt = "a", max_tokens = 90_000, stream = true });
        var waiting = server.PostAsync(new { prompt = "b" });
        await RunningServer.UntilAsync(async () => await server.MetricAsync("hybrid_requests_waiting") == 1);
        var stopping = server.StopAsync();
        using var refused = await waiting;
        Assert.Equal(HttpStatusCode.ServiceUnavailable, refused.StatusCode);
        Assert.Equal("server_stopping", (await RunningServer.JsonAsync(refused)).GetProperty("error").GetProperty("code").GetString());
        running.Dispose();
        await stopping;
    }

    /// <summary>One client stalls in the middle of its request, one never reads its answer.</summary>
    [Fact]
    public async Task SlowClientsKeepNobodyWaiting()
    {
        await using var server = await RunningServer.StartAsync();
        using var stalled = await server.ConnectAsync("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"prompt\":");
        const string body = """{"prompt":"a","max_tokens":200,"stream":true}""";
        using var deaf = await server.ConnectAsync($"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {body.Length}\r\n\r\n{body}");
        using var served = await server.PostAsync(new { prompt = "a", max_tokens = 1 });
        Assert.Equal(HttpStatusCode.OK, served.StatusCode);
        await RunningServer.UntilAsync(async () => await server.MetricAsync("hybrid_requests_total{status=\"200\"}") == 2);
        Assert.Equal((0, 0), (server.Queue.Running, server.Queue.Waiting));
    }

    [Fact]
    public async Task TheTokensThatEndATextOfTheModelEndIt()
    {
        using var folder = new TemporaryFolder();
        using (var made = new CausalLanguageModel(new LanguageModelOptions { HiddenSize = 16, NumLayers = 1, Layers = ["mamba"] }))
        {
            made.SavePretrained(folder.File("model"));
        }

        var every = string.Join(", ", Enumerable.Range(0, ByteTokenizer.Vocabulary));
        File.WriteAllText(Path.Combine(folder.File("model"), "generation_config.json"), $$"""{"eos_token_id": [{{every}}]}""");
        await using var server = await RunningServer.StartAsync(CausalLanguageModel.FromPretrained(folder.File("model")));
        using var response = await server.PostAsync(new { prompt = "a", max_tokens = 9 });
        var answer = await RunningServer.JsonAsync(response);
        Assert.Equal("stop", answer.GetProperty("choices")[0].GetProperty("finish_reason").GetString());
        Assert.Equal(0, answer.GetProperty("usage").GetProperty("completion_tokens").GetInt32());
    }

    [Fact]
    public async Task AClientThatLeavesEndsItsText()
    {
        await using var server = await RunningServer.StartAsync(new ServerOptions { MaxTokens = 100_000, PromptCacheBytes = 0 }, maxLength: 100_000);
        await LeaveAsync();
        var before = LiveTensors.Before();
        await LeaveAsync();
        Assert.Equal(before, Tensor.TotalCount);
        Assert.Equal(2, await server.MetricAsync("hybrid_requests_total{status=\"499\"}"));
        Assert.InRange(await server.MetricAsync("hybrid_generated_tokens_total"), 2, 90_000);

        async Task LeaveAsync()
        {
            var left = await server.MetricAsync("hybrid_requests_total{status=\"499\"}");
            using (var response = await server.BeginAsync(new { prompt = "a", max_tokens = 90_000, stream = true }))
            using (var stream = await response.Content.ReadAsStreamAsync())
            {
                Assert.True(await stream.ReadAsync(new byte[10]) > 0);
            }

            await RunningServer.UntilAsync(async () => await server.MetricAsync("hybrid_requests_total{status=\"499\"}") > left);
        }
    }

    [Fact]
    public async Task MetricsCountWhatHappened()
    {
        await using var server = await RunningServer.StartAsync();
        for (var i = 0; i < 2; i++)
        {
            using var good = await server.PostAsync(Request);
        }

        using var bad = await server.PostAsync(new { prompt = "" });
        using var response = await server.Client.GetAsync("/metrics");
        Assert.Equal("text/plain; version=0.0.4; charset=utf-8", response.Content.Headers.ContentType!.ToString());
        Assert.Equal(2, await server.MetricAsync("hybrid_requests_total{status=\"200\"}"));
        Assert.Equal(1, await server.MetricAsync("hybrid_requests_total{status=\"400\"}"));
        Assert.Equal(14, await server.MetricAsync("hybrid_prompt_tokens_total"));
        Assert.Equal(6, await server.MetricAsync("hybrid_reused_tokens_total"));
        Assert.Equal(80, await server.MetricAsync("hybrid_generated_tokens_total"));
        Assert.Equal(3, await server.MetricAsync("hybrid_request_seconds_count"));
        Assert.Equal(3, await server.MetricAsync("hybrid_request_seconds_bucket{le=\"+Inf\"}"));
        Assert.Equal(2, await server.MetricAsync("hybrid_first_piece_seconds_count"));
        Assert.Equal(0, await server.MetricAsync("hybrid_requests_running"));
    }

    [Fact]
    public async Task HealthModelsAndThePageAnswer()
    {
        await using var server = await RunningServer.StartAsync(new ServerOptions { ModelName = "tiny" });
        using var health = await server.Client.GetAsync("/health");
        Assert.Equal("ok", (await RunningServer.JsonAsync(health)).GetProperty("status").GetString());
        using var models = await server.Client.GetAsync("/v1/models");
        Assert.Equal("tiny", (await RunningServer.JsonAsync(models)).GetProperty("data")[0].GetProperty("id").GetString());
        using var page = await server.Client.GetAsync("/");
        var html = await page.Content.ReadAsStringAsync();
        Assert.Equal("text/html", page.Content.Headers.ContentType!.MediaType);
        Assert.Contains("<form", html, StringComparison.Ordinal);
        Assert.DoesNotContain("http://", html, StringComparison.Ordinal);
        Assert.DoesNotContain("https://", html, StringComparison.Ordinal);
    }

    [Fact]
    public void AModelWithoutItsTokenizerIsRefused()
    {
        using var model = Hybrid.Tests.Modeling.SmallModel.Create();
        Assert.Throws<ArgumentException>(() => CompletionServer.Build(model, new(), "http://127.0.0.1:0"));
        model.Tokenizer = new ByteTokenizer();
        Assert.Throws<ArgumentException>(() => CompletionServer.Build(model, new(), "http://127.0.0.1:0"));
    }
}
