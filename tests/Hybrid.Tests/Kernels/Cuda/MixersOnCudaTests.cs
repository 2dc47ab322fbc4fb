using Hybrid.Tests.Contracts;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>Every mixer on a CUDA device against itself on the CPU, whatever kernels run there.</summary>
public class MixersOnCudaTests
{
    // Two orders of float32 sums over at most 40 steps; matrix products may round their inputs to TF32 only where a user asks for it.
    private const double Tolerance = 1e-4;
    private const long Time = 40;

    [Fact]
    public void EveryMixerIsTheSameAsOnTheCpu()
    {
        Assert.SkipUnless(cuda.is_available(), "there is no CUDA device, or the libtorch is one for CPUs");
        var failures = typeof(MixerContractTests).Assembly.GetTypes()
            .Where(type => !type.IsAbstract && type.IsSubclassOf(typeof(MixerContractTests)))
            .Select(type => (type.Name, Problem: Problem((MixerContractTests)Activator.CreateInstance(type)!)))
            .Where(result => result.Problem is not null)
            .Select(result => $"{result.Name}: {result.Problem}")
            .ToArray();
        Assert.True(failures.Length == 0, string.Join("\n", failures));
    }

    private static string? Problem(MixerContractTests contract)
    {
        try
        {
            Check(contract);
            return null;
        }
        catch (Exception error)
        {
            return error.Message;
        }
    }

    private static void Check(MixerContractTests contract)
    {
        using var scope = NewDisposeScope();
        using var mixer = contract.Make();
        var x = MixerContractTests.Input(mixer, Time);
        var (expected, wanted) = Results(mixer, x);
        mixer.to(CUDA);
        mixer.zero_grad();
        var (y, gradients) = Results(mixer, x.to(CUDA));
        TensorAssert.Close(expected, y.cpu(), Tolerance, "outputs");
        foreach (var (name, gradient) in gradients)
        {
            TensorAssert.Close(wanted[name], gradient.cpu(), 10 * Tolerance, name);
        }

        using var guard = no_grad();
        using var state = mixer.CreateState(x.size(0));
        var onDevice = x.to(CUDA);
        var pieces = new List<Tensor> { mixer.forward(onDevice.narrow(1, 0, Time - 3), new MixerContext { State = state }) };
        for (var t = Time - 3; t < Time; t++)
        {
            pieces.Add(mixer.forward(onDevice.narrow(1, t, 1), new MixerContext { State = state }));
        }

        TensorAssert.Close(expected, cat([.. pieces], 1).cpu(), Tolerance, "prefill and single steps");
    }

    private static (Tensor Y, Dictionary<string, Tensor> Gradients) Results(SequenceMixer mixer, Tensor x)
    {
        var y = mixer.call(x);
        y.square().sum().backward();
        return (y.detach(), mixer.named_parameters().Where(entry => entry.parameter.grad is not null)
            .ToDictionary(entry => entry.name, entry => entry.parameter.grad!.detach().clone()));
    }
}
