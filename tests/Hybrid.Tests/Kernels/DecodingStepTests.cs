using Hybrid.Kernels;
using Hybrid.Mixers;
using Hybrid.Tests.Infrastructure;
using Microsoft.Extensions.Logging.Abstractions;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

/// <summary>Tokens one at a time by the fused steps of the recurrent mixers, against the same mixers of plain tensor operations.</summary>
public class DecodingStepTests
{
    // Both are float32 computations of the same numbers in another order, over a dozen tokens.
    private const double Tolerance = 1e-5;

    private static readonly Dictionary<string, Func<SequenceMixer>> Mixers = new()
    {
        ["gated_ssm"] = () => new GatedSsmMixer(13),
        ["gated_ssm, constant decay"] = () => new GatedSsmMixer(5, new GatedSsmOptions { InputDependentDecay = false, UseBias = true, ExpandFactor = 3 }),
        ["griffin_lru"] = () => new GriffinMixer(21, new GriffinOptions { NumHeads = 3 }),
        ["griffin_lru, one wide block"] = () => new GriffinMixer(10, new GriffinOptions { LruWidth = 37, NumHeads = 1, DConv = 2 }),
        ["rwkv"] = () => new RwkvMixer(21, new RwkvOptions { AttentionHiddenSize = 19 }),
        ["rwkv-4"] = () => new RwkvMixer(16, new RwkvOptions { Form = WkvForm.Rwkv4 }),
        ["gru"] = () => new GruMixer(7, new GruOptions { InnerSize = 21, NumLayers = 2 }),
    };

    public static TheoryData<string, long> MixersAndBatches
    {
        get
        {
            var data = new TheoryData<string, long>();
            foreach (var name in Mixers.Keys)
            {
                data.Add(name, 1);
                data.Add(name, 3);
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(MixersAndBatches))]
    public void StepsEqualTheReference(string name, long batch)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(61);
        using var mixer = Mixers[name]();
        var tokens = randn(batch, 12, mixer.Width);
        var log = new ListLogger();
        KernelDispatcher.Forget();
        KernelDispatcher.Logger = log;
        try
        {
            var (fast, states) = Decode(false);
            Assert.Empty(log.Messages);
            var (expected, expectedStates) = Decode(true);
            TensorAssert.Close(expected, fast, Tolerance, "outputs");
            foreach (var (want, got) in expectedStates.Zip(states))
            {
                TensorAssert.Close(want, got, Tolerance, "a state");
            }
        }
        finally
        {
            KernelDispatcher.Logger = NullLogger.Instance;
        }

        (Tensor Y, Tensor[] States) Decode(bool referenceOnly)
        {
            using var kernels = new KernelChoice(referenceOnly);
            using var state = mixer.CreateState(batch);
            var context = new MixerContext { State = state };
            var outputs = Enumerable.Range(0, 12).Select(t => mixer.forward(tokens.narrow(1, t, 1).contiguous(), context)).ToArray();
            return (cat(outputs, 1), [.. state.NamedTensors.Select(entry => entry.Tensor.clone())]);
        }
    }
}
