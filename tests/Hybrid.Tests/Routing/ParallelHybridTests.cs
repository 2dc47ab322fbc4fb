using Hybrid.Attention;
using Hybrid.Configuration;
using Hybrid.Modeling;
using Hybrid.Routing;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Routing;

public class ParallelHybridTests
{
    private const int Width = (int)SmallParallelHybrid.Width;

    [Theory]
    [InlineData(ParallelPath.Mamba)]
    [InlineData(ParallelPath.Attention)]
    public void TheWeightedSumIsThatOfItsParts(ParallelPath queries)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(1);
        using var mixer = SmallParallelHybrid.Make(new ParallelHybridOptions { FusionQueries = queries, Residual = true });
        using var parts = new NaiveParallelHybrid(mixer);
        var x = Values.Normal(2, 1, 19, Width);
        var weights = parts.Gates(x);
        var (m, a) = (parts.Mamba.call(x), parts.Attention.call(x));
        var c = queries == ParallelPath.Mamba ? parts.CrossAttention(m, a) : parts.CrossAttention(a, m);
        var expected = x + parts.Project(cat([m * weights.narrow(-1, 0, 1), a * weights.narrow(-1, 1, 1), c * weights.narrow(-1, 2, 1)], -1));
        TensorAssert.Close(expected, mixer.call(x), 1e-5, $"{queries} asks");
    }

    [Theory]
    [InlineData(ParallelPath.Mamba)]
    [InlineData(ParallelPath.Attention)]
    [InlineData(ParallelPath.Fusion)]
    public void BehindTheFirstTokensTheChosenPathIsAlone(ParallelPath path)
    {
        const long deciding = 5;
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(2);
        using var mixer = Adaptive(deciding);
        SmallParallelHybrid.Prefer(mixer, path);
        using var parts = new NaiveParallelHybrid(mixer);
        var x = Values.Normal(3, 1, 21, Width);
        var (m, a) = (parts.Mamba.call(x), parts.Attention.call(x));
        var c = parts.CrossAttention(m, a);
        var weights = parts.Gates(x);
        var sum = parts.Project(cat([m * weights.narrow(-1, 0, 1), a * weights.narrow(-1, 1, 1), c * weights.narrow(-1, 2, 1)], -1));
        Tensor[] alone = [m, a, c];
        Tensor[] contributions = [.. alone.Select((output, i) => i == (int)path ? output : zeros_like(output))];
        var expected = cat([sum.narrow(1, 0, deciding), parts.Project(cat(contributions, -1)).narrow(1, deciding, 16)], 1);
        TensorAssert.Close(expected, mixer.call(x), 1e-5, $"{path}");
    }

    [Fact]
    public void EverySequenceHasItsOwnPathAndKeepsIt()
    {
        const int rows = 12;
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(3);
        using var mixer = SmallParallelHybrid.Diverging(4);
        var x = Values.Normal(4, rows, 10, Width);
        using var state = (ParallelHybridState)mixer.CreateState(rows);
        mixer.forward(x.narrow(1, 0, 3), new MixerContext { State = state });
        Assert.All(state.Paths, path => Assert.Null(path));
        mixer.forward(x.narrow(1, 3, 2), new MixerContext { State = state });
        ParallelPath?[] paths = [.. state.Paths];
        Assert.Equal(3, paths.Distinct().Count());
        Assert.DoesNotContain(null, paths);

        var rest = mixer.forward(x.narrow(1, 5, 5), new MixerContext { State = state });
        Assert.Equal(paths, state.Paths);
        TensorAssert.Close(mixer.call(x).narrow(1, 5, 5), rest, 1e-5, "the rest");
        for (var row = 0; row < rows; row++)
        {
            TensorAssert.Close(mixer.call(x.narrow(0, row, 1)).narrow(1, 5, 5), rest.narrow(0, row, 1), 1e-5, $"row {row} alone");
        }
    }

    [Fact]
    public void RowsDecideWhenTheirOwnTokensHaveCome()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(3);
        using var mixer = SmallParallelHybrid.Diverging(4);
        var x = Values.Normal(4, 4, 9, Width);
        using var state = (ParallelHybridState)mixer.CreateState(4);
        mixer.forward(x.narrow(1, 0, 6), new MixerContext { State = state, Lengths = [6, 1, 4, 3] });
        Assert.Equal([true, false, true, false], state.Paths.Select(path => path is not null));

        // A state with decided and undecided rows is copied, selected, saved and continued like any other.
        using var selected = (ParallelHybridState)state.Select([3, 0, 3]);
        Assert.Equal([state.Paths[3], state.Paths[0], state.Paths[3]], selected.Paths);
        var path = Path.Combine(Path.GetTempPath(), $"hybrid-paths-{Guid.NewGuid():N}.safetensors");
        state.Save(path);
        using var loaded = (ParallelHybridState)mixer.CreateState(4);
        loaded.Load(path);
        Assert.Equal(state.Paths, loaded.Paths);
        using var clone = state.Clone();

        long[] seen = [6, 1, 4, 3];
        var next = cat([.. seen.Select((start, row) => x.narrow(0, row, 1).narrow(1, start, 3))], 0);
        var continued = mixer.forward(next, new MixerContext { State = state });
        TensorAssert.Identical(continued, mixer.forward(next, new MixerContext { State = clone }), "the clone");
        TensorAssert.Identical(continued, mixer.forward(next, new MixerContext { State = loaded }), "the loaded state");
        var chosen = mixer.forward(next.index_select(0, tensor(new long[] { 3, 0, 3 })), new MixerContext { State = selected });
        TensorAssert.Close(continued.index_select(0, tensor(new long[] { 3, 0, 3 })), chosen, 1e-5, "the selected rows");
        for (var row = 0; row < 4; row++)
        {
            var whole = mixer.call(x.narrow(0, row, 1).narrow(1, 0, seen[row] + 3));
            TensorAssert.Close(whole.narrow(1, seen[row], 3), continued.narrow(0, row, 1), 1e-5, $"row {row}");
        }

        using var weighted = SmallParallelHybrid.Make(new ParallelHybridOptions());
        using var other = weighted.CreateState(4);
        var error = Assert.Throws<InvalidDataException>(() => other.Load(path));
        Assert.Contains("that is weighted; found 'adaptive 4'", error.Message, StringComparison.Ordinal);
        File.Delete(path);
    }

    [Theory]
    [InlineData(ParallelPath.Mamba, 110, 4, 4)]
    [InlineData(ParallelPath.Attention, 4, 110, 4)]
    [InlineData(ParallelPath.Fusion, 110, 110, 110)]
    public void PathsThatAreNotChosenDoNotRun(ParallelPath path, long mamba, long attention, long fusion)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = Adaptive(2);
        SmallParallelHybrid.Prefer(mixer, path);
        using var state = mixer.CreateState(2);
        mixer.forward(Values.Normal(1, 2, 50, Width), new MixerContext { State = state });
        for (var step = 0; step < 5; step++)
        {
            mixer.forward(Values.Normal(2, 2, 1, Width), new MixerContext { State = state });
        }

        var usage = mixer.GetUsage();
        Assert.Equal(110, usage.Tokens);
        Assert.Equal(new PerPath<long>(mamba, attention, fusion), usage.ExecutedTokens);
        Assert.Equal(2, usage.Decisions.Mamba + usage.Decisions.Attention + usage.Decisions.Fusion);
        Assert.Equal(1, usage.GateWeights.Mamba + usage.GateWeights.Attention + usage.GateWeights.Fusion, 1e-6);
        Assert.Equal(path == ParallelPath.Fusion, usage.SavedFlops == 0);
        mixer.ResetUsage();
        Assert.Equal(new PathUsage(0, default, default, default, 0, 0), mixer.GetUsage());
    }

    [Theory]
    [InlineData(null, 0, 9)]
    [InlineData(4, 0, 9)]
    [InlineData(4, 2, 5)]
    [InlineData(4, 7, 3)]
    public void AttentionCostsWhatItsVisibleKeysCost(int? window, long start, long count)
    {
        var options = new AttentionOptions { NumHeads = 2, WindowSize = window };
        using var attention = new MultiHeadAttention(Width, options);
        var keys = Enumerable.Range(1, (int)(start + count)).Skip((int)start).Sum(t => Math.Min(t, window ?? t));
        Assert.Equal((count * 2.0 * 4 * Width * Width) + (4.0 * Width * keys), PathCost.Of(attention, options, Width).Flops(start, count));
    }

    [Fact]
    public void TheAnalysisReadsTheLayersOfAModel()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var model = Model("adaptive");
        model.forward(randint(0, 11, [2, 30], dtype: ScalarType.Int64));
        var analysis = RoutingAnalysis.Of(model);
        Assert.Equal(2, analysis.Layers.Count);
        Assert.Equal(4, analysis.Decisions.Mamba + analysis.Decisions.Attention + analysis.Decisions.Fusion);
        Assert.All(analysis.Layers, layer => Assert.Equal(60, layer.Tokens));
        Assert.Equal(analysis.Layers.Average(layer => layer.GateWeights.Fusion), analysis.AverageGateWeights.Fusion);
        Assert.True(analysis.SavedFlops < 1);
        RoutingAnalysis.Reset(model);
        Assert.All(RoutingAnalysis.Of(model).Layers, layer => Assert.Equal(0, layer.Tokens));
    }

    [Fact]
    public void TheChosenPathTrainsTheGateStraightThrough()
    {
        const long deciding = 4;
        using var scope = NewDisposeScope();
        manual_seed(5);
        using var mixer = Adaptive(deciding);
        SmallParallelHybrid.Prefer(mixer, ParallelPath.Attention);
        using var parts = new NaiveParallelHybrid(mixer);
        var x = Values.Normal(6, 1, 12, Width);

        // The weight is 1, its gradient that of the mean weight g: with L = sum of the outputs, dL/db_j = L mean_t g_a (delta_aj - g_j).
        var total = mixer.call(x).narrow(1, deciding, 8).sum();
        total.backward();
        var gates = parts.Gates(x).narrow(1, 0, deciding)[0];
        var own = gates.narrow(-1, 1, 1);
        var expected = ((tensor(new float[] { 0, 1, 0 }) - gates) * own).mean([0]) * total.detach();
        TensorAssert.Close(expected, mixer.get_parameter("analyser.fc3.bias")!.grad!, 1e-4, "the gate's bias");
    }

    [Fact]
    public void TheLoadLossIsThatOfTheSwitchAndEntersTheModelsLoss()
    {
        using var scope = NewDisposeScope();
        manual_seed(6);
        using var mixer = Adaptive(3);
        SmallParallelHybrid.Prefer(mixer, ParallelPath.Mamba);
        using var parts = new NaiveParallelHybrid(mixer);
        var x = Values.Normal(7, 1, 8, Width);
        var losses = new List<Tensor>();
        mixer.forward(x, new MixerContext { AuxiliaryLosses = losses });
        using var loss = Assert.Single(losses);
        Assert.Equal(0.01 * 3 * parts.Gates(x).narrow(1, 0, 3).mean([0, 1])[0].ToDouble(), loss.ToDouble(), 1e-7);
        loss.backward();
        Assert.True(mixer.get_parameter("analyser.fc3.bias")!.grad!.abs().sum().ToDouble() > 0);

        using var model = Model("adaptive");
        var ids = randint(0, 11, [2, 30], dtype: ScalarType.Int64);
        model.eval();
        var bare = model.Loss(ids, ids).ToDouble();
        model.train();
        var trained = model.Loss(ids, ids).ToDouble();
        Assert.InRange(trained - bare, 2 * 0.01 * 3 * 0.2, 2 * 0.01 * 3);
    }

    [Fact]
    public void ACallThatAttentionRefusesAdvancesNothing()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = new ParallelHybrid(Width, new ParallelHybridOptions
        {
            AttentionConfig = new() { NumHeads = 2, MaxLength = 6 },
            FusionConfig = new() { NumHeads = 2 },
        });
        using var state = mixer.CreateState(1);
        var x = Values.Normal(8, 1, 6, Width);
        mixer.forward(x.narrow(1, 0, 4), new MixerContext { State = state });
        Assert.Throws<InvalidOperationException>(() => mixer.forward(x.narrow(1, 0, 3), new MixerContext { State = state }));
        var rest = mixer.forward(x.narrow(1, 4, 2), new MixerContext { State = state });
        TensorAssert.Close(mixer.call(x).narrow(1, 4, 2), rest, 1e-5, "after the refused call");
    }

    [Theory]
    [InlineData("decision_tokens = 0", "expected at least 1; found 0")]
    [InlineData("load_loss_coefficient = -1.0", "expected at least 0; found -1")]
    [InlineData("fusion_queries = \"fusion\"", "expected Mamba or Attention; found Fusion")]
    [InlineData("mamba_config = { d_state = 0 }", "expected at least 1; found 0")]
    public void OptionsOutOfRangeAreNamed(string line, string text)
    {
        var error = Assert.Throws<HybridConfigException>(() => HybridConfig.Parse(Toml(line)));
        Assert.Contains(text, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void EveryOptionIsAKeyOfToml()
    {
        var config = HybridConfig.Parse(Toml(
            "mode = \"adaptive\"\ndecision_tokens = 7\nload_loss_coefficient = 0.5\nfusion_queries = \"attention\"\nresidual = true\ncollect_metrics = false"));
        var options = (ParallelHybridOptions)config.Model!.Mixers["parallel_hybrid"];
        Assert.Equal(
            new ParallelHybridOptions
            {
                Mode = ParallelHybridMode.Adaptive,
                DecisionTokens = 7,
                LoadLossCoefficient = 0.5,
                FusionQueries = ParallelPath.Attention,
                Residual = true,
                CollectMetrics = false,
                AttentionConfig = new() { NumHeads = 2 },
                FusionConfig = new() { NumHeads = 2 },
            },
            options);
        Assert.Equal(config, HybridConfig.Parse(config.ToToml()));
    }

    private static ParallelHybrid Adaptive(long decisionTokens) =>
        SmallParallelHybrid.Make(new ParallelHybridOptions { Mode = ParallelHybridMode.Adaptive, DecisionTokens = decisionTokens });

    private static CausalLanguageModel Model(string mode)
    {
        manual_seed(9);
        return new CausalLanguageModel(HybridConfig.Parse(Toml($"mode = \"{mode}\"\ndecision_tokens = 5")).Model!);
    }

    private static string Toml(string lines) => $$"""
        [model]
        vocab_size = 11
        hidden_size = 8
        num_layers = 2
        layers = ["parallel_hybrid"]
        [model.parallel_hybrid]
        attention_config = { num_heads = 2 }
        fusion_config = { num_heads = 2 }
        {{lines}}
        """;
}
