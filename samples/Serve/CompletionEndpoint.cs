using System.Diagnostics;
using System.Text.Json;
using Hybrid.Modeling;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;

namespace Hybrid.Samples;

/// <summary>POST /v1/completions: checks the request, waits for a turn, generates, and answers whole or as server-sent events.</summary>
internal sealed partial class CompletionEndpoint(
    CausalLanguageModel model,
    ServerOptions limits,
    AdmissionQueue queue,
    PromptStateCache promptCache,
    ServerMetrics metrics,
    ILogger logger,
    CancellationToken stopping)
{
    private const int ClientLeft = 499;

    // The tokens that end a text of this model, whatever else a request asks for.
    private readonly IReadOnlyCollection<int> stopTokens = model.GenerationDefaults.StopTokens;

    public async Task HandleAsync(HttpContext http)
    {
        var clock = Stopwatch.StartNew();
        var status = StatusCodes.Status200OK;
        try
        {
            await CompleteAsync(http, clock);
        }
        catch (RequestException error)
        {
            status = error.Status;
            await JsonAnswer.WriteErrorAsync(http, error);
        }
        catch (Exception) when (http.RequestAborted.IsCancellationRequested)
        {
            status = ClientLeft;
        }
        catch (Exception error)
        {
            status = StatusCodes.Status500InternalServerError;
            LogFailure(logger, error);
            var failure = new RequestException(status, "server_error", "The text could not be generated.");
            await (http.Response.HasStarted ? JsonAnswer.WriteEventAsync(http, JsonAnswer.Error(failure)) : JsonAnswer.WriteErrorAsync(http, failure));
        }
        finally
        {
            metrics.Ended(status, clock.Elapsed);
        }
    }

    private async Task CompleteAsync(HttpContext http, Stopwatch clock)
    {
        var request = await CompletionRequest.ReadAsync(http.Request, limits, http.RequestAborted);
        if (request.Model is { } name && name != limits.ModelName)
        {
            throw new RequestException(StatusCodes.Status404NotFound, "model_not_found", $"There is no model '{name}'; there is '{limits.ModelName}'.", "model");
        }

        var options = request.ToOptions() with { StopTokens = stopTokens };
        var prompt = Encode(request.Prompt!);
        using var turn = await EnterAsync(http);
        using var generator = new TextGenerator(model, options, promptCache);
        try
        {
            await (request.Stream ? StreamAsync(http, generator, prompt, clock) : AnswerAsync(http, generator, prompt, clock));
        }
        finally
        {
            metrics.Generated(generator.PromptTokens, generator.ReusedTokens, generator.GeneratedTokens);
        }
    }

    private async Task<IDisposable> EnterAsync(HttpContext http)
    {
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(http.RequestAborted, stopping);
        patience.CancelAfter(limits.LongestWait);
        try
        {
            return await queue.EnterAsync(patience.Token) ?? throw Busy(
                http, StatusCodes.Status429TooManyRequests, "queue_full", $"{limits.Workers} requests run and {limits.QueueLength} wait; try again later.");
        }
        catch (OperationCanceledException) when (!http.RequestAborted.IsCancellationRequested)
        {
            throw stopping.IsCancellationRequested
                ? Busy(http, StatusCodes.Status503ServiceUnavailable, "server_stopping", "The server is being stopped.")
                : Busy(http, StatusCodes.Status503ServiceUnavailable, "queue_timeout", $"No worker was free for {limits.LongestWait.TotalSeconds} s; try again later.");
        }
    }

    private static RequestException Busy(HttpContext http, int status, string code, string message)
    {
        http.Response.Headers.RetryAfter = "1";
        return new RequestException(status, code, message);
    }

    private int[] Encode(string text)
    {
        var prompt = model.Tokenizer!.Encode(text);
        var most = Math.Min(limits.MaxPromptTokens, model.Options.MaxSeqLen - 1);
        return prompt.Length >= 1 && prompt.Length <= most
            ? prompt
            : throw new RequestException(
                StatusCodes.Status400BadRequest, "context_length_exceeded", $"The prompt must have 1..{most} tokens; got {prompt.Length}.", "prompt");
    }

    private async Task AnswerAsync(HttpContext http, TextGenerator generator, int[] prompt, Stopwatch clock)
    {
        var pieces = new List<string>();
        await foreach (var piece in generator.GenerateAsync(prompt, http.RequestAborted))
        {
            CountFirst(pieces.Count == 0, clock);
            pieces.Add(piece);
        }

        await JsonAnswer.WriteAsync(http, Completion(NewId(), string.Concat(pieces), Reason(generator), Usage(generator)));
    }

    private async Task StreamAsync(HttpContext http, TextGenerator generator, int[] prompt, Stopwatch clock)
    {
        var id = NewId();
        JsonAnswer.BeginEvents(http);
        var first = true;
        await foreach (var piece in generator.GenerateAsync(prompt, http.RequestAborted))
        {
            CountFirst(first, clock);
            first = false;
            await JsonAnswer.WriteEventAsync(http, Completion(id, piece, null, null));
        }

        await JsonAnswer.WriteEventAsync(http, Completion(id, "", Reason(generator), Usage(generator)));
        await JsonAnswer.EndEventsAsync(http);
    }

    private static string NewId() => $"cmpl-{Guid.NewGuid():n}";

    private static string Reason(TextGenerator generator) =>
        generator.FinishReason is FinishReason.StopString or FinishReason.StopToken ? "stop" : "length";

    private static object Usage(TextGenerator generator) => new
    {
        generator.PromptTokens,
        CompletionTokens = generator.GeneratedTokens,
        TotalTokens = generator.PromptTokens + generator.GeneratedTokens,
    };

    private void CountFirst(bool isFirst, Stopwatch clock)
    {
        if (isFirst)
        {
            metrics.Began(clock.Elapsed);
        }
    }

    private object Completion(string id, string text, string? reason, object? usage) => new
    {
        Id = id,
        Object = "text_completion",
        Created = DateTimeOffset.UtcNow.ToUnixTimeSeconds(),
        Model = limits.ModelName,
        Choices = new[] { new { Text = text, Index = 0, Logprobs = (object?)null, FinishReason = reason } },
        Usage = usage,
    };

    [LoggerMessage(Level = LogLevel.Error, Message = "A text could not be generated.")]
    private static partial void LogFailure(ILogger logger, Exception error);
}
