using System.Reflection;
using Hybrid.Modeling;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;

namespace Hybrid.Samples;

/// <summary>The routes of the server, over one model that all requests share.</summary>
internal static class CompletionServer
{
    private const string Metrics = "text/plain; version=0.0.4; charset=utf-8";

    /// <summary>Builds the server; it starts with RunAsync or StartAsync.</summary>
    /// <param name="model">A model with a tokenizer; it stays the caller's.</param>
    /// <param name="options">Limits.</param>
    /// <param name="urls">Addresses, separated by semicolons; port 0 is any that is free.</param>
    public static WebApplication Build(CausalLanguageModel model, ServerOptions options, string urls)
    {
        options.Validate();
        if (model.Tokenizer is not { } tokenizer || tokenizer.VocabSize > model.Options.VocabSize)
        {
            var found = model.Tokenizer is { } wide ? $"one of {wide.VocabSize}" : $"none{(model.TokenizerProblem is { } problem ? $": {problem}" : "")}";
            throw new ArgumentException($"The server needs a tokenizer of at most the model's {model.Options.VocabSize} ids; got {found}.", nameof(model));
        }

        model.eval();
        var builder = WebApplication.CreateSlimBuilder();
        builder.WebHost.UseUrls(urls).ConfigureKestrel(kestrel => kestrel.Limits.MaxRequestBodySize = options.MaxBodyBytes);
        // What keeps the server from starting reaches the caller as an exception.
        builder.Logging.AddFilter("Microsoft", LogLevel.Warning).AddFilter("Microsoft.Extensions.Hosting", LogLevel.Critical);
        // The container disposes what it makes, when the server ends.
        builder.Services.AddSingleton(_ => new AdmissionQueue(options.Workers, options.QueueLength));
        builder.Services.AddSingleton(_ => new PromptStateCache(model, options.PromptCacheBytes));
        var app = builder.Build();
        Map(app, model, options);
        return app;
    }

    private static void Map(WebApplication app, CausalLanguageModel model, ServerOptions options)
    {
        var metrics = new ServerMetrics();
        var queue = app.Services.GetRequiredService<AdmissionQueue>();
        var completions = new CompletionEndpoint(model, options, queue, app.Services.GetRequiredService<PromptStateCache>(), metrics, app.Logger, app.Lifetime.ApplicationStopping);
        var page = Page();
        app.UseStatusCodePages(context => JsonAnswer.WriteErrorAsync(context.HttpContext, Unknown(context.HttpContext)));
        app.MapPost("/v1/completions", completions.HandleAsync);
        app.MapGet("/v1/models", http => JsonAnswer.WriteAsync(http, new { Object = "list", Data = new[] { new { Id = options.ModelName, Object = "model" } } }));
        app.MapGet("/health", http => JsonAnswer.WriteAsync(http, new { Status = "ok", Model = options.ModelName, queue.Running, queue.Waiting }));
        app.MapGet("/metrics", () => Results.Text(metrics.ToText(queue), Metrics));
        app.MapGet("/", http =>
        {
            http.Response.ContentType = "text/html; charset=utf-8";
            http.Response.Headers.ContentSecurityPolicy = "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";
            return http.Response.WriteAsync(page);
        });
    }

    private static RequestException Unknown(HttpContext http) => http.Response.StatusCode == StatusCodes.Status405MethodNotAllowed
        ? new(StatusCodes.Status405MethodNotAllowed, "method_not_allowed", $"{http.Request.Path} takes no {http.Request.Method}.")
        : new(http.Response.StatusCode, "not_found", $"There is no {http.Request.Path}; there are /, /v1/completions, /v1/models, /health and /metrics.");

    private static string Page()
    {
        using var stream = Assembly.GetExecutingAssembly().GetManifestResourceStream("page.html")!;
        using var reader = new StreamReader(stream);
        return reader.ReadToEnd();
    }
}
