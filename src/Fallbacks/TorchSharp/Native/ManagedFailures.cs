using System.Collections.Concurrent;
using System.Globalization;
using System.Runtime.ExceptionServices;

namespace TorchSharp.Native;

/// <summary>
/// Exceptions of managed backward functions on their way through libtorch, which carries only text: the text is a name,
/// and the exception waits here under that name for the call that started the backward pass.
/// </summary>
internal static class ManagedFailures
{
    private const string Prefix = "managed exception ";
    private static readonly ConcurrentDictionary<long, ExceptionDispatchInfo> Waiting = new();
    private static long last;

    public static long Keep(Exception exception)
    {
        var name = Interlocked.Increment(ref last);
        Waiting[name] = ExceptionDispatchInfo.Capture(exception);
        return name;
    }

    /// <summary>Throws the exception that <paramref name="text"/> names; does nothing where it names none.</summary>
    public static void Rethrow(string text)
    {
        if (!text.StartsWith(Prefix, StringComparison.Ordinal)) return;
        if (long.TryParse(text.AsSpan(Prefix.Length), NumberStyles.None, CultureInfo.InvariantCulture, out var name) &&
            Waiting.TryRemove(name, out var failure)) failure.Throw();
    }
}
