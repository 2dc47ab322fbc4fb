using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Contracts;

/// <content>What weights of other types must give.</content>
public abstract partial class MixerContractTests
{
    [Fact]
    public void StatesFollowTheTypeOfTheWeights()
    {
        using var mixer = Make();
        mixer.to(ScalarType.Float64);
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var x = randn(Batch, 9, mixer.Width, dtype: ScalarType.Float64);
        using var state = mixer.CreateState(Batch);
        var pieces = cat([mixer.forward(x.narrow(1, 0, 5), With(state)), mixer.forward(x.narrow(1, 5, 4), With(state))], 1);
        Assert.Equal(ScalarType.Float64, pieces.dtype);
        TensorAssert.Close(mixer.call(x), pieces, 1e-12, "float64 in two chunks");
    }

    [Fact]
    public void Bfloat16WeightsRunCloseToFloat32()
    {
        using var mixer = Make();
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var x = Input(mixer, 9);
        var expected = mixer.call(x);
        mixer.to(ScalarType.BFloat16);
        using var state = mixer.CreateState(Batch);
        var y = mixer.forward(x.to_type(ScalarType.BFloat16), With(state));
        Assert.Equal(ScalarType.BFloat16, y.dtype);

        // bfloat16 has 8 bits of mantissa; a layer rounds a handful of times.
        TensorAssert.Close(expected, y.to_type(ScalarType.Float32), 0.05, "bfloat16");
    }

    [Fact]
    public void MixedPrecisionIsCloseToFloat32AlsoInItsGradients()
    {
        const long time = 24;
        using var mixer = Make();
        using var scope = NewDisposeScope();
        var x = Input(mixer, time);
        var upstream = Input(mixer, time, seed: 22);

        // Both start from matrices that bfloat16 has exactly, so that what is compared is the computation.
        Round(mixer);
        var (expected, expectedGradients) = Results(ScalarType.Float32);
        mixer.ToMixedPrecision();
        mixer.zero_grad();
        var (y, gradients) = Results(ScalarType.BFloat16);
        Assert.Equal(ScalarType.BFloat16, y.dtype);
        Near(expected, y, 0.02, "outputs");

        // The gradient as a whole is as close as the outputs. Of its parts, small ones are differences of larger numbers, which were
        // rounded: that of D of a single head, for example, which a norm follows and makes almost nothing.
        Assert.Equal(expectedGradients.Keys.Order(StringComparer.Ordinal), gradients.Keys.Order(StringComparer.Ordinal));
        var whole = Joined(expectedGradients, gradients.Keys);
        Near(whole, Joined(gradients, gradients.Keys), 0.02, "gradients");
        var least = whole.norm().ToDouble() * 0.05;
        foreach (var (name, gradient) in gradients)
        {
            Near(expectedGradients[name], gradient, 0.1, name, least);
        }

        using var guard = no_grad();
        using var state = mixer.CreateState(Batch);
        var narrow = x.to_type(ScalarType.BFloat16);
        var pieces = new List<Tensor> { mixer.forward(narrow.narrow(1, 0, 20), With(state)) };
        for (var t = 20; t < time; t++)
        {
            pieces.Add(mixer.forward(narrow.narrow(1, t, 1), With(state)));
        }

        Near(expected, cat([.. pieces], 1), 0.02, "prefill and single steps");

        static Tensor Joined(Dictionary<string, Tensor> gradients, IEnumerable<string> names) => cat([.. names.Select(name => gradients[name].reshape(-1))], 0);

        (Tensor Y, Dictionary<string, Tensor> Gradients) Results(ScalarType dtype)
        {
            var input = x.to_type(dtype).detach().clone().requires_grad_(true);
            var output = mixer.call(input);
            (output.to_type(ScalarType.Float32) * upstream).sum().backward();
            var found = TrainedParameters(mixer).Where(entry => entry.Parameter.grad is not null)
                .ToDictionary(entry => entry.Name, entry => entry.Parameter.grad!.to_type(ScalarType.Float32));
            found.Add("x", input.grad!.to_type(ScalarType.Float32));
            return (output.detach(), found);
        }

        void Near(Tensor want, Tensor got, double tolerance, string what, double least = 1e-30)
        {
            Assert.True(got.isfinite().all().ToBoolean(), $"{RegistryName}, {what}: not finite");
            var (wide, other) = (want.to_type(ScalarType.Float64), got.to_type(ScalarType.Float64));
            var error = ((other - wide).norm() / wide.norm().clamp_min(least)).ToDouble();
            Assert.True(error <= tolerance, $"{RegistryName}, {what}: relative error {error:g3}, allowed is {tolerance}");
        }

        static void Round(SequenceMixer mixer)
        {
            using var guard = no_grad();
            foreach (var parameter in mixer.parameters())
            {
                parameter.copy_(parameter.to_type(ScalarType.BFloat16));
            }
        }
    }
}
