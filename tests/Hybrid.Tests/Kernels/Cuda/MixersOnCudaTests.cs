using Hybrid.Kernels.Cuda;
using Hybrid.Modeling;
using Hybrid.Tests.Contracts;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>
/// Every mixer, and a model's decoding, on a CUDA device against itself on the CPU, whatever kernels run there: on a device where there is one, and
/// with a CPU in the place of a device, where the way from the layers to their kernels is the same.
/// </summary>
public class MixersOnCudaTests
{
    // Two orders of float32 sums over at most 40 steps; matrix products may round their inputs to TF32 only where a user asks for it.
    private const double Tolerance = 1e-4;
    private const long Time = 40;

    [Fact]
    public void EveryMixerIsTheSameOnADevice()
    {
        RequireDevice();
        CheckAll(CUDA, () => null);
    }

    [Fact]
    public void EveryMixerIsTheSameThroughTheStandIn()
    {
        HostCuda.Runtime();
        CheckAll(CPU, HostCuda.InPlaceOfTheCpu);
    }

    [Theory]
    [InlineData("mamba", 72, 1, ScalarType.Float32)]
    [InlineData("mamba", 72, 4, ScalarType.Float32)]
    [InlineData("mamba", 72, 2, ScalarType.BFloat16)]
    [InlineData("mamba2", 64, 1, ScalarType.Float32)]
    [InlineData("mamba2", 64, 3, ScalarType.BFloat16)]
    [InlineData("attention", 64, 1, ScalarType.Float32)]
    [InlineData("attention", 64, 3, ScalarType.BFloat16)]
    public void AModelDecodesTheSameOnADevice(string mixer, int width, int batch, ScalarType dtype)
    {
        RequireDevice();
        CheckDecoding(mixer, width, batch, dtype, CUDA, () => null);
    }

    [Theory]
    [InlineData("mamba", 72, 1, ScalarType.Float32)]
    [InlineData("mamba", 72, 4, ScalarType.Float32)]
    [InlineData("mamba", 72, 2, ScalarType.BFloat16)]
    [InlineData("mamba2", 64, 1, ScalarType.Float32)]
    [InlineData("mamba2", 64, 3, ScalarType.BFloat16)]
    [InlineData("attention", 64, 1, ScalarType.Float32)]
    [InlineData("attention", 64, 3, ScalarType.BFloat16)]
    public void AModelDecodesTheSameThroughTheStandIn(string mixer, int width, int batch, ScalarType dtype)
    {
        HostCuda.Runtime();
        CheckDecoding(mixer, width, batch, dtype, CPU, HostCuda.InPlaceOfTheCpu);
    }

    /// <summary>
    /// What mixers launch for a forward and a backward pass: one kernel forwards and two backwards of the rule, one each of the convolution and of a
    /// norm, and another one for the norm's weight where threads do not keep its rows.
    /// </summary>
    [Theory]
    [InlineData(typeof(Mamba2ContractTests), 3 + 2 + 2)]
    [InlineData(typeof(GatedDeltaNetContractTests), 3 + 2 + 2)]
    [InlineData(typeof(DeltaNetWithoutConvolutionContractTests), 3 + 3)]
    [InlineData(typeof(MambaContractTests), 2 + 2)]
    public void AMixerLaunchesItsKernels(Type contract, long launches)
    {
        var runtime = HostCuda.Runtime();
        using var place = HostCuda.InPlaceOfTheCpu();
        using var scope = NewDisposeScope();
        using var mixer = ((MixerContractTests)Activator.CreateInstance(contract)!).Make();
        var x = MixerContractTests.Input(mixer, Time);
        Results(mixer, x);                                  // the first pass may launch self-tests too
        var before = runtime.Launches;
        Results(mixer, x);
        Assert.Equal(launches, runtime.Launches - before);
    }

    private static void RequireDevice() => Assert.SkipUnless(cuda.is_available(), "there is no CUDA device, or the libtorch is one for CPUs");

    private static void CheckAll(Device device, Func<IDisposable?> begin)
    {
        var failures = typeof(MixerContractTests).Assembly.GetTypes()
            .Where(type => !type.IsAbstract && type.IsSubclassOf(typeof(MixerContractTests)))
            .Select(type => (type.Name, Problem: Problem((MixerContractTests)Activator.CreateInstance(type)!, device, begin)))
            .Where(result => result.Problem is not null)
            .Select(result => $"{result.Name}: {result.Problem}")
            .ToArray();
        Assert.True(failures.Length == 0, string.Join("\n", failures));
    }

    private static string? Problem(MixerContractTests contract, Device device, Func<IDisposable?> begin)
    {
        try
        {
            Check(contract, device, begin);
            return null;
        }
        catch (Exception error)
        {
            return error.Message;
        }
    }

    private static void Check(MixerContractTests contract, Device device, Func<IDisposable?> begin)
    {
        using var scope = NewDisposeScope();
        using var mixer = contract.Make();
        var x = MixerContractTests.Input(mixer, Time);
        var (expected, wanted) = Results(mixer, x);
        mixer.zero_grad();
        mixer.to(device);
        using var place = begin();
        var (y, gradients) = Results(mixer, x.to(device));
        TensorAssert.Close(expected, y.cpu(), Tolerance, "outputs");
        foreach (var (name, gradient) in gradients)
        {
            TensorAssert.Close(wanted[name], gradient.cpu(), 10 * Tolerance, name);
        }

        using var guard = no_grad();
        using var state = mixer.CreateState(x.size(0));
        var onDevice = x.to(device);
        var pieces = new List<Tensor> { mixer.forward(onDevice.narrow(1, 0, Time - 3), new MixerContext { State = state }) };
        for (var t = Time - 3; t < Time; t++)
        {
            pieces.Add(mixer.forward(onDevice.narrow(1, t, 1), new MixerContext { State = state }));
        }

        TensorAssert.Close(expected, cat([.. pieces], 1).cpu(), Tolerance, "prefill and single steps");
    }

    /// <summary>
    /// A stack of layers that decode in one launch between their projections: four launches a layer with the norm, or six where attention projects
    /// queries, keys and values apart, one each for embedding, last norm and head, and two tensors a token.
    /// </summary>
    private static void CheckDecoding(string mixer, int width, int batch, ScalarType dtype, Device device, Func<IDisposable?> begin)
    {
        const int layers = 3;
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(5);
        using var model = new CausalLanguageModel(new LanguageModelOptions
        {
            VocabSize = 100, HiddenSize = width, NumLayers = layers, Layers = [mixer], MaxSeqLen = 100,
        });
        model.eval();
        if (dtype != ScalarType.Float32)
        {
            model.ToMixedPrecision(dtype);
        }

        var ids = randint(0, 100, [batch, 6], dtype: ScalarType.Int64);
        var expected = Decode(ids, null);
        model.to(device);
        using var place = begin();
        var actual = Decode(ids.to(device), CudaRuntime.Of(model.parameters().First()));
        foreach (var (t, (wanted, got)) in expected.Zip(actual).Index())
        {
            TensorAssert.Close(wanted, got.cpu(), dtype == ScalarType.Float32 ? Tolerance : 5e-2, $"token {t}");
        }

        List<Tensor> Decode(Tensor tokens, CudaRuntime? runtime)
        {
            using var state = model.CreateState(batch);
            var statistics = DisposeScopeManager.Statistics.TensorStatistics;
            var logits = new List<Tensor>();
            for (var t = 0; t < tokens.size(1); t++)
            {
                var token = tokens.narrow(1, t, 1).contiguous();
                var (launches, tensors) = (runtime?.Launches, statistics.CreatedInScopeCount);
                logits.Add(model.NextTokenLogits(token, new MixerContext { State = state }));
                if (t > 0 && runtime is not null)
                {
                    Assert.Equal(((mixer == "attention" ? 6 : 4) * layers) + 3, runtime.Launches - launches);
                    Assert.Equal(2, statistics.CreatedInScopeCount - tensors);
                }
            }

            return logits;
        }
    }

    private static (Tensor Y, Dictionary<string, Tensor> Gradients) Results(SequenceMixer mixer, Tensor x)
    {
        var y = mixer.call(x);
        y.square().sum().backward();
        return (y.detach(), mixer.named_parameters().Where(entry => entry.parameter.grad is not null)
            .ToDictionary(entry => entry.name, entry => entry.parameter.grad!.detach().clone()));
    }
}
