namespace Hybrid.Samples;

/// <summary>A request that cannot be served; the client gets status, text, parameter and code as JSON.</summary>
internal sealed class RequestException(int status, string code, string message, string? parameter = null) : Exception(message)
{
    public int Status => status;

    public string Code => code;

    public string? Parameter => parameter;
}
