using Hybrid.Kernels;
using Microsoft.Extensions.Logging;

namespace Hybrid.DeviceBenchmarks;

/// <summary>Writes to the standard error stream why a kernel did not run, but not where tensor operations are what is measured.</summary>
internal sealed class ErrorLogger : ILogger
{
    public IDisposable? BeginScope<TState>(TState state)
        where TState : notnull => null;

    public bool IsEnabled(LogLevel logLevel) => !KernelDispatcher.ReferenceOnly;

    public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
    {
        if (IsEnabled(logLevel))
        {
            Console.Error.WriteLine(formatter(state, exception));
        }
    }
}
