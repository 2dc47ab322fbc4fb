using System.Net.Http.Json;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using Hybrid.Modeling;
using Hybrid.Samples;
using Hybrid.Tests.Modeling;
using Microsoft.AspNetCore.Builder;
using Microsoft.Extensions.DependencyInjection;

namespace Hybrid.Tests.Serving;

/// <summary>The sample's server on a free port of this machine, over a small model.</summary>
internal sealed class RunningServer : IAsyncDisposable
{
    private readonly WebApplication app;

    private RunningServer(WebApplication app, CausalLanguageModel model)
    {
        (this.app, Model) = (app, model);
        // A client that drops an answer closes the connection at once, in place of reading on for a while.
        Client = new HttpClient(new SocketsHttpHandler { ResponseDrainTimeout = TimeSpan.Zero }) { BaseAddress = new Uri(app.Urls.Single()) };
    }

    public CausalLanguageModel Model { get; }

    public HttpClient Client { get; }

    public AdmissionQueue Queue => app.Services.GetRequiredService<AdmissionQueue>();

    public static Task<RunningServer> StartAsync(ServerOptions? options = null, long maxLength = 256) =>
        StartAsync(TextModel.Create(maxLength, 2, "mamba", "attention"), options);

    /// <summary>Starts a server over a model, which it takes over.</summary>
    public static async Task<RunningServer> StartAsync(CausalLanguageModel model, ServerOptions? options = null)
    {
        var app = CompletionServer.Build(model, options ?? new ServerOptions(), "http://127.0.0.1:0");
        await app.StartAsync();
        return new RunningServer(app, model);
    }

    public Task<HttpResponseMessage> PostAsync(object body) => Client.PostAsJsonAsync("/v1/completions", body);

    public Task<HttpResponseMessage> PostTextAsync(string body, string type = "application/json") =>
        Client.PostAsync("/v1/completions", new StringContent(body, Encoding.UTF8, type));

    /// <summary>Begins a streamed completion; the answer's body is not read yet.</summary>
    public Task<HttpResponseMessage> BeginAsync(object body, CancellationToken cancellation = default) => Client.SendAsync(
        new HttpRequestMessage(HttpMethod.Post, "/v1/completions") { Content = JsonContent.Create(body) }, HttpCompletionOption.ResponseHeadersRead, cancellation);

    /// <summary>The value of a metric, 0 where it is not there yet.</summary>
    public async Task<double> MetricAsync(string name)
    {
        var text = await Client.GetStringAsync("/metrics");
        var line = text.Split('\n').FirstOrDefault(line => line.StartsWith(name + " ", StringComparison.Ordinal));
        return line is null ? 0 : double.Parse(line.Split(' ')[^1]);
    }

    /// <summary>Opens a connection and sends some bytes of a request.</summary>
    public async Task<TcpClient> ConnectAsync(string text)
    {
        var client = new TcpClient();
        await client.ConnectAsync("127.0.0.1", Client.BaseAddress!.Port);
        await client.GetStream().WriteAsync(Encoding.ASCII.GetBytes(text));
        return client;
    }

    public Task StopAsync() => app.StopAsync();

    public async ValueTask DisposeAsync()
    {
        Client.Dispose();
        await app.StopAsync();
        await app.DisposeAsync();
        Model.Dispose();
    }

    public static async Task<JsonElement> JsonAsync(HttpResponseMessage response)
    {
        using var document = JsonDocument.Parse(await response.Content.ReadAsStringAsync());
        return document.RootElement.Clone();
    }

    public static async Task UntilAsync(Func<Task<bool>> condition)
    {
        using var limit = new CancellationTokenSource(TimeSpan.FromSeconds(30));
        while (!await condition())
        {
            await Task.Delay(10, limit.Token);
        }
    }
}
