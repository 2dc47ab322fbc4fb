using Hybrid.Kernels;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

public class KernelDispatcherTests
{
    [Fact]
    public void ARefusedKernelIsLoggedOnceWithItsReason()
    {
        var log = new Recorder();
        KernelDispatcher.ForgetRefusals();
        KernelDispatcher.Logger = log;
        try
        {
            using var scope = NewDisposeScope();
            var (u, a) = (randn(1, 3, 4), -randn(4, 2).exp());
            for (var call = 0; call < 2; call++)
            {
                SelectiveScan.Apply(u, u, a, randn(4, 2), randn(1, 3, 2));
            }
        }
        finally
        {
            KernelDispatcher.Logger = NullLogger.Instance;
        }

        Assert.Equal(["SelectiveScan.Cpu: the reference kernel runs, because B or C differs between channels"], log.Messages);
    }

    private sealed class Recorder : ILogger
    {
        public List<string> Messages { get; } = [];

        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => true;

        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter) =>
            Messages.Add(formatter(state, exception));
    }
}
