using System.Text.Encodings.Web;
using System.Text.Json;
using Microsoft.AspNetCore.Http;

namespace Hybrid.Samples;

/// <summary>Writes answers as JSON, whole or as server-sent events.</summary>
internal static class JsonAnswer
{
    private static readonly JsonSerializerOptions Json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    /// <summary>The error object of OpenAI's API.</summary>
    public static object Error(RequestException error) => new
    {
        Error = new
        {
            error.Message,
            Type = error.Status < StatusCodes.Status500InternalServerError ? "invalid_request_error" : "server_error",
            Param = error.Parameter,
            error.Code,
        },
    };

    public static Task WriteErrorAsync(HttpContext http, RequestException error)
    {
        http.Response.StatusCode = error.Status;
        return WriteAsync(http, Error(error));
    }

    public static Task WriteAsync(HttpContext http, object answer) => http.Response.WriteAsJsonAsync(answer, Json, "application/json; charset=utf-8", http.RequestAborted);

    public static void BeginEvents(HttpContext http)
    {
        http.Response.ContentType = "text/event-stream; charset=utf-8";
        http.Response.Headers.CacheControl = "no-store";
        http.Response.Headers["X-Accel-Buffering"] = "no";
    }

    public static Task WriteEventAsync(HttpContext http, object data) => WriteDataAsync(http, JsonSerializer.Serialize(data, Json));

    public static Task EndEventsAsync(HttpContext http) => WriteDataAsync(http, "[DONE]");

    private static async Task WriteDataAsync(HttpContext http, string data)
    {
        await http.Response.WriteAsync($"data: {data}\n\n", http.RequestAborted);
        await http.Response.Body.FlushAsync(http.RequestAborted);
    }
}
