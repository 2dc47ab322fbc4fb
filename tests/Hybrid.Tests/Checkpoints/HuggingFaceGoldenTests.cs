using System.Text.Json.Nodes;
using Hybrid.Attention;
using Hybrid.Checkpoints.HuggingFace;
using Hybrid.Modeling;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Checkpoints;

/// <summary>Every model folder computes what transformers computed from it.</summary>
public class HuggingFaceGoldenTests(ITestOutputHelper output)
{
    private const double GradientTolerance = 1e-3;

    // Sums over all tokens, on both sides in float32.
    private const double StateTolerance = 2e-4;

    [Theory]
    [MemberData(nameof(HuggingFaceModel.All), MemberType = typeof(HuggingFaceModel))]
    public void LogitsAndHiddenStatesAreThoseOfTheReference(string name)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var golden = new HuggingFaceModel(name);
        using var model = golden.Load();
        var logits = Difference(golden.Logits(), model.call(golden.Ids));
        var layers = golden.IsHalf ? 0 : LargestLayerError(golden, model);
        output.WriteLine($"{name}: logits {logits:g2}, layers {layers:g2}, allowed {golden.Tolerance:g2}");
        Assert.True(logits <= golden.Tolerance, $"logits differ by {logits:g3}; allowed is {golden.Tolerance:g3}");
        Assert.True(layers <= golden.Tolerance, $"hidden states differ by {layers:g3}; allowed is {golden.Tolerance:g3}");
    }

    [Theory]
    [MemberData(nameof(WithGradients))]
    public void LossAndGradientsAreThoseOfTheReference(string name)
    {
        using var scope = NewDisposeScope();
        using var golden = new HuggingFaceModel(name);
        using var model = golden.Load();
        model.train();
        var last = golden.Ids.size(1) - 1;
        var loss = model.Loss(golden.Ids.narrow(1, 0, last), golden.Ids.narrow(1, 1, last));
        loss.backward();
        var train = golden.Json("train.json");
        Assert.Equal((double)train["loss"]!, loss.ToDouble(), 1e-4);

        var gradients = Gradients(model);
        var worst = 0.0;
        foreach (var (tensor, norm) in (JsonObject)train["grad_l2"]!)
        {
            var key = gradients.ContainsKey(tensor) ? tensor : tensor.Replace("embeddings", "embedding", StringComparison.Ordinal);
            Assert.True(gradients.ContainsKey(key), $"no tensor '{tensor}' in the model");
            var (expected, actual) = ((double)norm!, gradients[key].norm().ToDouble());
            worst = Math.Max(worst, Math.Abs(expected - actual) / Math.Max(expected, 1e-6));
            Assert.True(Math.Abs(expected - actual) <= (GradientTolerance * expected) + 1e-7, $"gradient of {tensor}: norm {expected:g6} expected, got {actual:g6}");
            if (golden.Has("grad." + tensor))
            {
                TensorAssert.Close(golden.Get("grad." + tensor), gradients[key], GradientTolerance, $"gradient of {tensor}");
            }
        }

        output.WriteLine($"{name}: gradient norms {worst:g2}");
    }

    [Theory]
    [MemberData(nameof(HuggingFaceModel.All), MemberType = typeof(HuggingFaceModel))]
    public void GreedyContinuationIsThatOfTheReferenceWithAndWithoutState(string name)
    {
        using var golden = new HuggingFaceModel(name);
        using var model = golden.Load();
        var json = golden.Json("generate.json");
        foreach (var (promptField, tokensField) in new[] { ("prompt", "tokens"), ("prompt_short", "tokens_short") })
        {
            var (prompt, expected) = (Ids(json, promptField), Ids(json, tokensField));
            using var generator = new TokenGenerator(model, new GenerationOptions { Temperature = 0, MaxNewTokens = expected.Length });
            Assert.Equal(expected, generator.Generate(prompt));
            Assert.Equal(expected, WithoutState(model, prompt, expected.Length));
        }
    }

    [Theory]
    [MemberData(nameof(HuggingFaceModel.All), MemberType = typeof(HuggingFaceModel))]
    public void LeftPaddedRowsAreThoseOfTheReference(string name)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var golden = new HuggingFaceModel(name);
        if (golden.IsHalf || !golden.Has("leftpad.logits"))
        {
            return;
        }

        using var model = golden.Load();
        var mask = golden.Get("leftpad.attention_mask").to_type(ScalarType.Int64);
        var context = new MixerContext { Lengths = mask.sum(dim: 1).data<long>().ToArray(), PaddingSide = PaddingSide.Left };
        var real = mask.to_type(ScalarType.Float32).unsqueeze(-1);
        var error = Difference(golden.Get("leftpad.logits") * real, model.forward(golden.Ids, context) * real);
        Assert.True(error <= golden.Tolerance, $"logits differ by {error:g3}; allowed is {golden.Tolerance:g3}");
    }

    [Theory]
    [MemberData(nameof(HuggingFaceModel.All), MemberType = typeof(HuggingFaceModel))]
    public void StatesAreThoseOfTheReference(string name)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var golden = new HuggingFaceModel(name);
        if (golden.IsHalf)
        {
            return;
        }

        using var model = golden.Load();
        using var state = model.CreateState(golden.Ids.size(0));
        model.forward(golden.Ids, new MixerContext { State = state });
        foreach (var (place, part) in state.Parts.SelectMany((part, i) => Leaves(part).Select(leaf => ($"cache.{i}.", leaf))))
        {
            if (part is KeyValueState cache)
            {
                Compare(place + "k", expected => Newest(cache.Keys, expected.size(2), cache.Position));
                Compare(place + "v", expected => Newest(cache.Values, expected.size(2), cache.Position));
                continue;
            }

            foreach (var (own, tensor) in part.NamedTensors)
            {
                Compare(place + (own switch { "delta" => "ssm", "rg_lru" => "lru", _ => own }), expected =>
                    own == "conv" ? LastInputs(tensor, expected.size(-1)) : tensor);
            }
        }

        if (golden.Has("state.wkv_num"))
        {
            string[] names = ["shift", "num", "den", "max"];
            CompareRwkv(state.Parts.Where((_, i) => i % 2 == 0), names, ["att_shift", "wkv_num", "wkv_den", "wkv_max"]);
            CompareRwkv(state.Parts.Where((_, i) => i % 2 == 1), ["shift"], ["ffn_shift"]);
        }

        void Compare(string key, Func<Tensor, Tensor> actual)
        {
            if (golden.Has(key))
            {
                var expected = golden.Get(key);
                var own = actual(expected);
                TensorAssert.Close(key.EndsWith("conv", StringComparison.Ordinal) ? expected.narrow(2, expected.size(2) - own.size(2), own.size(2)) : expected, own, StateTolerance, key);
            }
        }

        void CompareRwkv(IEnumerable<MixerState> parts, string[] own, string[] reference)
        {
            foreach (var (mine, theirs) in own.Zip(reference))
            {
                var stacked = stack([.. parts.Select(part => part.NamedTensors.Single(entry => entry.Name == mine).Tensor)], -1);
                TensorAssert.Close(golden.Get("state." + theirs), stacked, StateTolerance, theirs);
            }
        }
    }

    public static TheoryData<string> WithGradients() => HuggingFaceModel.Of(name => HuggingFaceModel.HasFile(name, "train.json"));

    private static double LargestLayerError(HuggingFaceModel golden, CausalLanguageModel model)
    {
        var streams = model.HiddenStates(golden.Ids);
        var layers = Enumerable.Range(0, streams.Count).TakeWhile(i => golden.Has($"layer.{i}")).Count();
        var blocksOfLayer = (streams.Count - 2) / layers;
        var errors = Enumerable.Range(0, layers)
            .Select(i => Difference(golden.Get($"layer.{i}") * Rescaling(golden, i), streams[(i + 1) * blocksOfLayer]));
        return errors.Append(Difference(golden.Get("embed"), streams[0])).Append(Difference(golden.Get("last_hidden_state"), streams[^1])).Max();
    }

    private static IEnumerable<MixerState> Leaves(MixerState state) =>
        state is CompositeState composite ? composite.Parts.SelectMany(Leaves) : [state];

    /// <summary>The last tokens of a cache, oldest first, wherever a ring has them.</summary>
    private static Tensor Newest(Tensor slots, long count, long position) => slots.index_select(
        2, tensor(Enumerable.Range(0, (int)count).Select(i => (position - count + i) % slots.size(2)).ToArray()));

    /// <summary>A window [B, W - 1, E] as the reference has it, [B, E, n]; it keeps one input more than are needed, or just those.</summary>
    private static Tensor LastInputs(Tensor window, long most) => window.narrow(1, Math.Max(0, window.size(1) - most), Math.Min(most, window.size(1))).transpose(1, 2);

    /// <summary>RWKV in the reference halves the stream after every n-th block; what it recorded is that of its halved weights.</summary>
    private static double Rescaling(HuggingFaceModel golden, int layer) =>
        golden.Config["rescale_every"] is { } every && (int)every > 0 ? Math.Pow(2, layer / (int)every) : 1;

    /// <summary>Gradients under the names and in the shapes of the checkpoint.</summary>
    private static Dictionary<string, Tensor> Gradients(CausalLanguageModel model)
    {
        using (no_grad())
        {
            foreach (var parameter in model.parameters())
            {
                parameter.copy_(parameter.grad ?? zeros_like(parameter));
            }
        }

        var map = new WeightMap(model);
        model.Origin!.Architecture.Map(map);
        return map.Tensors.ToDictionary(tensor => tensor.Name, tensor => tensor.Value());
    }

    private static List<int> WithoutState(CausalLanguageModel model, int[] prompt, int count)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var ids = prompt.Select(id => (long)id).ToList();
        for (var i = 0; i < count; i++)
        {
            var logits = model.NextTokenLogits(tensor(ids.ToArray()).unsqueeze(0), MixerContext.None);
            ids.Add(logits.argmax(-1).item<long>());
        }

        return [.. ids.Skip(prompt.Length).Select(id => (int)id)];
    }

    private static int[] Ids(JsonObject json, string field) => [.. ((JsonArray)json[field]!).Select(id => (int)id!)];

    private static double Difference(Tensor expected, Tensor actual)
    {
        Assert.Equal(expected.shape, actual.shape);
        Assert.True(actual.isfinite().all().ToBoolean(), "has values that are not finite");
        return (expected.to_type(ScalarType.Float64) - actual.to_type(ScalarType.Float64)).abs().max().ToDouble();
    }
}
