using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;

namespace Hybrid.Kernels;

/// <summary>
/// Which kernels are used: the environment variable HYBRID_KERNELS is <c>auto</c> (default: the fastest that can run and that agreed with
/// its reference when it was first wanted), <c>unchecked</c> (the fastest that can run, without that test) or <c>reference</c> (plain
/// tensor operations only).
/// </summary>
public static partial class KernelDispatcher
{
    private const string Variable = "HYBRID_KERNELS";
    private static readonly ConcurrentDictionary<(string Kernel, string Reason), bool> Refusals = new();
    private static readonly ConcurrentDictionary<string, Lazy<string?>> SelfTests = new();

    static KernelDispatcher() => (ReferenceOnly, Unchecked) = Parse(Environment.GetEnvironmentVariable(Variable));

    /// <summary>Receives, once each, the reasons for which a fast kernel was not used. Default: nobody.</summary>
    public static ILogger Logger { get; set; } = NullLogger.Instance;

    /// <summary>True where only reference kernels run.</summary>
    /// <exception cref="InvalidOperationException">HYBRID_KERNELS has another value.</exception>
    public static bool ReferenceOnly { get; internal set; }

    /// <summary>True where fast kernels run without having been compared with their references.</summary>
    public static bool Unchecked { get; internal set; }

    /// <summary>
    /// True where a fast kernel agrees with its reference, which is found out once a process, when it is first asked for. The test runs on a
    /// thread of its own, so that gradient modes and dispose scopes of the caller do not matter to it.
    /// </summary>
    /// <param name="kernel">The kernel.</param>
    /// <param name="selfTest">Compares it with its reference on small inputs; null where they agree, else how they differ.</param>
    /// <param name="reason">Why not, where it does not agree.</param>
    internal static bool Agrees(string kernel, Func<string?> selfTest, out string reason) =>
        Agrees(kernel, selfTest, static test => test(), out reason);

    /// <summary><see cref="Agrees(string, Func{string}, out string)"/> for a test that takes an argument, so that asking makes no closure.</summary>
    internal static bool Agrees<TArgument>(string kernel, TArgument argument, Func<TArgument, string?> selfTest, out string reason)
    {
        reason = "";
        if (Unchecked)
        {
            return true;
        }

        var difference = SelfTests.GetOrAdd(
            kernel, static (_, asked) => new Lazy<string?>(() => Difference(() => asked.selfTest(asked.argument))), (selfTest, argument)).Value;
        if (difference is null)
        {
            return true;
        }

        reason = $"its self-test failed: {difference}";
        return false;
    }

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

    /// <summary>Logs that compiled kernels cannot be kept in a folder, the first time.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="reason">Why not.</param>
    internal static void NotKept(string folder, string reason)
    {
        if (Refusals.TryAdd((folder, reason), true))
        {
            LogNotKept(Logger, folder, reason);
        }
    }

    /// <summary>Forgets what was logged and tested, so that a reason is logged again and a kernel tested again.</summary>
    internal static void Forget()
    {
        Refusals.Clear();
        SelfTests.Clear();
    }

    /// <summary>What a value of HYBRID_KERNELS says.</summary>
    internal static (bool ReferenceOnly, bool Unchecked) Parse(string? value) => value switch
    {
        null or "" or "auto" => (false, false),
        "unchecked" => (false, true),
        "reference" => (true, false),
        var other => throw new InvalidOperationException($"{Variable} must be auto, unchecked or reference; got '{other}'."),
    };

    private static string? Difference(Func<string?> selfTest)
    {
        string? difference = null;
        var thread = new Thread(() =>
        {
            try
            {
                difference = selfTest();
            }
            catch (Exception failure)
            {
                // Whatever went wrong in a kernel that is only a faster way: the reference still runs.
                difference = failure.Message;
            }
        });
        thread.Start();
        thread.Join();
        return difference;
    }

    [LoggerMessage(Level = LogLevel.Information, Message = "{Kernel}: the reference kernel runs, because {Reason}")]
    private static partial void LogRefusal(ILogger logger, string kernel, string reason);

    [LoggerMessage(Level = LogLevel.Warning, Message = "compiled kernels cannot be kept in {Folder}, so each process compiles them: {Reason}")]
    private static partial void LogNotKept(ILogger logger, string folder, string reason);
}
