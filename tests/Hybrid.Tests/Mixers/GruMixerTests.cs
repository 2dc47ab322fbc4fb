using Hybrid.Mixers;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Mixers;

public class GruMixerTests
{
    // The cases were rounded to float32 from float64, over at most 37 steps.
    private const double Tolerance = 1e-5;

    public static TheoryData<string> Cases => GoldenCases.Of("gru");

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsTheReferenceImplementation(string name)
    {
        using var scope = NewDisposeScope();
        using var golden = GoldenCases.Load("gru", name);
        using var mixer = Load(golden);
        var x = golden.Get("in.x").requires_grad_(true);
        var h0 = golden.Find("in.h0")?.requires_grad_(true);

        var (y, hidden) = mixer.Run(x, h0?.transpose(0, 1), null);
        var final = hidden.transpose(0, 1);
        TensorAssert.Close(golden.Get("out.y"), y, Tolerance, $"{name} y");
        TensorAssert.Close(golden.Get("out.h_n"), final, Tolerance, $"{name} h_n");

        golden.Loss(("y", y), ("h_n", final)).backward();
        TensorAssert.Close(golden.Get("grad.x"), x.grad!, Tolerance, $"{name} gradient of x");
        if (h0 is not null)
        {
            TensorAssert.Close(golden.Get("grad.h0"), h0.grad!, Tolerance, $"{name} gradient of h0");
        }

        Assert.All(
            LayerParameters(mixer),
            entry => TensorAssert.Close(golden.Get("grad." + entry.Name), entry.Parameter.grad!, Tolerance, $"{name} gradient of {entry.Name}"));
    }

    [Theory]
    [InlineData(1, 5, 1, true)]
    [InlineData(2, 7, 2, true)]
    [InlineData(63, 5, 1, false)]
    [InlineData(65, 4, 3, true)]
    public void EqualsTheFormulaTokenByToken(int time, int hidden, int layers, bool bias)
    {
        const int width = 5;
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(5);
        using var mixer = new GruMixer(width, new GruOptions { InnerSize = hidden, NumLayers = layers, UseBias = bias });
        var x = Values.Normal(6, 1, time, width);

        var weights = mixer.named_parameters().ToDictionary(entry => entry.name, entry => Values.Of(entry.parameter));
        var sequence = Values.Of(x);
        for (var layer = 0; layer < layers; layer++)
        {
            sequence = Layer(weights, $"layers.{layer}.", sequence, layer == 0 ? width : hidden, hidden);
        }

        if (hidden != width)
        {
            sequence = Rows(sequence, hidden).SelectMany(row => Product(weights, "out_proj.weight", "out_proj.bias", row, width)).ToArray();
        }

        using var state = (GruState)mixer.CreateState(1);
        TensorAssert.Close(Values.Tensor32(sequence, 1, time, width), mixer.forward(x, new MixerContext { State = state }), Tolerance, "y");
        Assert.Equal([1, layers, hidden], state.Hidden.shape);
    }

    [Fact]
    public void GradientsOfPackedRowsAreThoseOfTheirSequences()
    {
        using var scope = NewDisposeScope();
        manual_seed(5);
        using var mixer = new GruMixer(4, new GruOptions { InnerSize = 6 });
        var ids = tensor(new long[] { 5, 5, 5, 2, 2, 2, 2, 9, 1, 1, 1, 1, 1, 1, 1, 1 }).view(2, 8);
        var upstream = Values.Normal(8, 2, 8, 4);
        var packed = Values.Normal(7, 2, 8, 4).requires_grad_(true);
        (mixer.forward(packed, new MixerContext { SequenceIds = ids }) * upstream).sum().backward();
        foreach (var (row, start, length) in new[] { (0, 0, 3), (0, 3, 4), (0, 7, 1), (1, 0, 8) })
        {
            var alone = Part(packed.detach()).clone().requires_grad_(true);
            (mixer.call(alone) * Part(upstream)).sum().backward();
            TensorAssert.Close(alone.grad!, Part(packed.grad!), 1e-5, $"the sequence at {row}, {start}");

            Tensor Part(Tensor tensor) => tensor.narrow(0, row, 1).narrow(1, start, length);
        }
    }

    [Fact]
    public void AMixerMadeInsideAScopeKeepsItsParameters()
    {
        GruMixer mixer;
        using (NewDisposeScope())
        {
            mixer = new GruMixer(4, new GruOptions { InnerSize = 3, NumLayers = 2 });
        }

        using (mixer)
        {
            Assert.Equal(10, mixer.parameters().Count());
            Assert.Equal([9, 4], mixer.get_parameter("layers.0.weight_ih_l0")!.shape);
            mixer.to(ScalarType.Float64);
            using var x = Values.Normal(6, 1, 3, 4).to_type(ScalarType.Float64);
            using var y = mixer.call(x);
            y.sum().backward();
            Assert.All(mixer.named_parameters(), entry => Assert.False(entry.parameter.grad is null, entry.name));
        }
    }

    [Fact]
    public void AnotherWidthAddsAnOutputProjection()
    {
        using var same = new GruMixer(4);
        Assert.Empty(same.ResidualOutputWeights);
        Assert.Equal(
            ["layers.0.bias_hh_l0", "layers.0.bias_ih_l0", "layers.0.weight_hh_l0", "layers.0.weight_ih_l0"],
            same.state_dict().Keys.Order(StringComparer.Ordinal));
        using var other = new GruMixer(4, new GruOptions { InnerSize = 6 });
        Assert.Same(other.get_parameter("out_proj.weight"), Assert.Single(other.ResidualOutputWeights));
    }

    [Fact]
    public void OptionsOutOfRangeAreNamed()
    {
        Expect("GruOptions.InnerSize must be at least 1; got 0.", new GruOptions { InnerSize = 0 });
        Expect("GruOptions.NumLayers must be at least 1; got 0.", new GruOptions { NumLayers = 0 });

        static void Expect(string text, GruOptions options) =>
            Assert.StartsWith(text, Assert.Throws<ArgumentOutOfRangeException>(() => new GruMixer(8, options)).Message, StringComparison.Ordinal);
    }

    private static GruMixer Load(GoldenCase golden)
    {
        var layers = golden.Names.Count(name => name.StartsWith("in.weight_ih_l", StringComparison.Ordinal));
        var mixer = new GruMixer(
            golden.Get("in.x").size(2),
            new GruOptions { InnerSize = golden.Get("in.weight_hh_l0").size(1), NumLayers = layers, UseBias = golden.Has("in.bias_ih_l0") });
        using var guard = no_grad();
        foreach (var (name, parameter) in LayerParameters(mixer))
        {
            var value = golden.Get("in." + name);
            Assert.Equal(value.shape, parameter.shape);
            parameter.copy_(value);
        }

        return mixer;
    }

    /// <summary>The parameters of the layers under the names of torch.nn.GRU: layers.1.weight_ih_l0 is its weight_ih_l1.</summary>
    private static IEnumerable<(string Name, Tensor Parameter)> LayerParameters(GruMixer mixer) =>
        mixer.named_parameters().Where(entry => entry.name.StartsWith("layers.", StringComparison.Ordinal)).Select(entry =>
        {
            var parts = entry.name.Split('.');
            return (parts[2][..^1] + parts[1], (Tensor)entry.parameter);
        });

    /// <summary>One layer in double arithmetic: [T, input] to [T, hidden], both flat.</summary>
    private static double[] Layer(Dictionary<string, double[]> weights, string prefix, double[] input, int width, int hidden)
    {
        var output = new List<double>();
        var h = new double[hidden];
        foreach (var x in Rows(input, width))
        {
            var fromInput = Product(weights, prefix + "weight_ih_l0", prefix + "bias_ih_l0", x, 3 * hidden);
            var fromState = Product(weights, prefix + "weight_hh_l0", prefix + "bias_hh_l0", h, 3 * hidden);
            h = [.. h.Select((value, i) =>
            {
                var reset = Values.Sigmoid(fromInput[i] + fromState[i]);
                var update = Values.Sigmoid(fromInput[hidden + i] + fromState[hidden + i]);
                var candidate = Math.Tanh(fromInput[(2 * hidden) + i] + (reset * fromState[(2 * hidden) + i]));
                return ((1 - update) * candidate) + (update * value);
            })];
            output.AddRange(h);
        }

        return [.. output];
    }

    private static double[] Product(Dictionary<string, double[]> weights, string weight, string bias, double[] x, int rows) =>
        [.. Enumerable.Range(0, rows).Select(row =>
            x.Select((value, column) => value * weights[weight][(row * x.Length) + column]).Sum() + (weights.GetValueOrDefault(bias)?[row] ?? 0))];

    private static IEnumerable<double[]> Rows(double[] values, int width) => values.Chunk(width);
}
