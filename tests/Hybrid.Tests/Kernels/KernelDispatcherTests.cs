using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using Microsoft.Extensions.Logging.Abstractions;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

public class KernelDispatcherTests
{
    [Fact]
    public void ARefusedKernelIsLoggedOnceWithItsReason()
    {
        var log = new ListLogger();
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
}
