using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;

namespace Hybrid.Kernels;

/// <summary>
/// Which kernels are used: the environment variable HYBRID_KERNELS is <c>auto</c> (default: the fastest that can run) or
/// <c>reference</c> (plain tensor operations only).
/// </summary>
public static partial class KernelDispatcher
{
    private const string Variable = "HYBRID_KERNELS";
    private static readonly ConcurrentDictionary<(string Kernel, string Reason), bool> Refusals = new();

    /// <summary>Receives, once each, the reasons for which a fast kernel was not used. Default: nobody.</summary>
    public static ILogger Logger { get; set; } = NullLogger.Instance;

    /// <summary>True where only reference kernels run.</summary>
    /// <exception cref="InvalidOperationException">HYBRID_KERNELS has another value.</exception>
    public static bool ReferenceOnly { get; internal set; } = Read();

    /// <summary>Logs why a fast kernel cannot run, the first time it is for this reason.</summary>
    /// <param name="kernel">The kernel.</param>
    /// <param name="reason">Why not.</param>
    internal static void Refused(string kernel, string reason)
    {
        if (Refusals.TryAdd((kernel, reason), true))
        {
            LogRefusal(Logger, kernel, reason);
        }
    }

    /// <summary>Forgets what was logged, so that a reason is logged again.</summary>
    internal static void ForgetRefusals() => Refusals.Clear();

    private static bool Read() => Environment.GetEnvironmentVariable(Variable) switch
    {
        null or "" or "auto" => false,
        "reference" => true,
        var other => throw new InvalidOperationException($"{Variable} must be auto or reference; got '{other}'."),
    };

    [LoggerMessage(Level = LogLevel.Information, Message = "{Kernel}: the reference kernel runs, because {Reason}")]
    private static partial void LogRefusal(ILogger logger, string kernel, string reason);
}
