using Hybrid.Configuration;
using Hybrid.Layers;
using Hybrid.Mixers;
using Hybrid.Modeling;
using Hybrid.Routing;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Modeling;
using TorchSharp;
using TorchSharp.Modules;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests;

/// <summary>What is converted and what is not; that every mixer computes the same in mixed precision is in the mixers' contract.</summary>
public class MixedPrecisionTests
{
    [Theory]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float16)]
    public void MatricesAreConvertedAndNormsDecaysAndStatesAreNot(ScalarType dtype)
    {
        using var model = SmallModel.Create(SmallModel.Options() with { FeedForward = new() { Kind = FeedForwardKind.Gelu } });
        Assert.Same(model, model.ToMixedPrecision(dtype));
        Assert.Equal((dtype, dtype), (model.Type, model.Options.Precision));
        foreach (var (name, parameter) in model.named_parameters())
        {
            string[] kept = ["norm.weight", "norm_f.weight", "A_log", ".D", "dt_proj.bias"];
            Assert.Equal((name, kept.Any(name.EndsWith) ? ScalarType.Float32 : dtype), (name, parameter.dtype));
        }

        using var state = model.CreateState(2);
        Assert.All(state.NamedTensors, entry => Assert.Equal(
            entry.Name.EndsWith("ssm", StringComparison.Ordinal) ? ScalarType.Float32 : dtype, entry.Tensor.dtype));
    }

    [Fact]
    public void WhatStaysFloat32KeepsItsBits()
    {
        using var mixer = new MambaMixer(8, new MambaOptions { DState = 3 });
        using var scope = NewDisposeScope();
        var before = mixer.named_parameters().ToDictionary(entry => entry.name, entry => entry.parameter.detach().clone());
        mixer.ToMixedPrecision().ToMixedPrecision();
        foreach (var (name, parameter) in mixer.named_parameters())
        {
            TensorAssert.Identical(before[name].to_type(parameter.dtype), parameter, name);
            Assert.True(parameter.requires_grad);
        }

        Assert.Equal(before.Keys, mixer.named_parameters().Select(entry => entry.name));
    }

    [Fact]
    public void FrozenParametersStayFrozenAndGradientsAreDropped()
    {
        using var layer = new Hybrid.Layers.ShortConvolution(4, 3);
        using var linear = nn.Linear(3, 2);
        linear.weight.requires_grad = false;
        using (var x = ones(1, 5, 4))
        using (var y = layer.call(x).sum())
        {
            y.backward();
        }

        layer.ToMixedPrecision();
        linear.ToMixedPrecision();
        Assert.False(linear.weight.requires_grad);
        Assert.True(linear.bias!.requires_grad);
        Assert.All(layer.parameters(), parameter => Assert.Null(parameter.grad));
    }

    [Fact]
    public void OtherTypesAreRefusedAndNothingIsConverted()
    {
        using var mixer = new GriffinMixer(12);
        Assert.Contains("must be BFloat16 or Float16; got Int8", Assert.Throws<ArgumentException>(() => mixer.ToMixedPrecision(ScalarType.Int8)).Message, StringComparison.Ordinal);
        mixer.to(ScalarType.Float64);
        Assert.Contains("got Float64 for ", Assert.Throws<ArgumentException>(() => mixer.ToMixedPrecision()).Message, StringComparison.Ordinal);
        Assert.All(mixer.parameters(), parameter => Assert.Equal(ScalarType.Float64, parameter.dtype));
    }

    [Fact]
    public void AMixerConvertedInsideAScopeOutlivesIt()
    {
        using var mixer = new GriffinMixer(12);
        var names = mixer.state_dict().Keys;
        using (NewDisposeScope())
        {
            mixer.ToMixedPrecision();
        }

        Assert.Equal(names, mixer.state_dict().Keys);
        using var x = ones([1, 3, 12], dtype: ScalarType.BFloat16);
        using var y = mixer.call(x);
        Assert.True(y.isfinite().all().ToBoolean());
    }

    [Fact]
    public void CachedDecodingEqualsTheWholeForwardPass()
    {
        using var model = SmallModel.Create();
        model.ToMixedPrecision();
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var ids = SmallModel.Tokens(2, 14);
        var whole = model.call(ids).to_type(ScalarType.Float32);
        using var state = model.CreateState(2);
        var pieces = new List<Tensor> { model.forward(ids.narrow(1, 0, 6), new MixerContext { State = state }) };
        for (var t = 6; t < 14; t++)
        {
            pieces.Add(model.forward(ids.narrow(1, t, 1), new MixerContext { State = state }));
        }

        // Two orders of bfloat16 sums, each rounded at every layer.
        TensorAssert.Close(whole, cat([.. pieces], 1).to_type(ScalarType.Float32), 0.03, "decoding");
        Assert.Equal(20, new TokenGenerator(model, new GenerationOptions { MaxNewTokens = 20, Temperature = 0 }).Generate([1, 2, 3]).Count());
    }

    [Fact]
    public void TheLossIsFloat32()
    {
        using var model = SmallModel.Create();
        using var scope = NewDisposeScope();
        var ids = SmallModel.Tokens(3, 9);
        var expected = model.Loss(ids, ids).ToDouble();
        model.ToMixedPrecision();
        var loss = model.Loss(ids, ids);
        Assert.Equal(ScalarType.Float32, loss.dtype);
        Assert.Equal(expected, loss.ToDouble(), 0.02 * expected);
    }

    [Fact]
    public void PrecisionIsReadFromAFileAndWrittenBack()
    {
        var config = HybridConfig.Parse("[model]\nvocab_size = 9\nhidden_size = 16\nnum_layers = 1\nprecision = 'bfloat16'");
        Assert.Equal(ScalarType.BFloat16, config.Model!.Precision);
        Assert.Equal(config, HybridConfig.Parse(config.ToToml()));
        using var model = new CausalLanguageModel(config.Model);
        Assert.Equal(ScalarType.BFloat16, model.Type);

        var error = Assert.Throws<HybridConfigException>(() => HybridConfig.Parse("[model]\nprecision = 'int8'"));
        Assert.Equal(("model.precision", 2), (error.Key, error.Line));
        Assert.Contains("expected float32, bfloat16 or float16", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(5)]
    [InlineData(20)]
    public void ARouterInMixedPrecisionTakesAndReturnsFloat32(long time)
    {
        var options = new HybridAttentionOptions { MambaThreshold = 10, DropoutRate = 0, AttentionConfig = new() { NumHeads = 4 }, LayerNormEps = 1e-6 };
        manual_seed(4);
        using var plain = new HybridAttention(16, options);
        manual_seed(4);
        using var mixed = new HybridAttention(16, options with { UseMixedPrecision = true });
        using var scope = NewDisposeScope();
        var x = randn(2, time, 16);
        var y = mixed.call(x);
        Assert.Equal(ScalarType.Float32, y.dtype);
        TensorAssert.Close(plain.call(x), y, 0.02, "router");

        using var guard = no_grad();
        using var state = mixed.CreateState(2);
        var first = mixed.forward(x.narrow(1, 0, time - 1), new MixerContext { State = state });
        var last = mixed.forward(x.narrow(1, time - 1, 1), new MixerContext { State = state });
        TensorAssert.Close(plain.call(x), cat([first, last], 1), 0.02, "router with a state");
        Assert.Equal(ScalarType.BFloat16, mixed.call(x.to_type(ScalarType.BFloat16)).dtype);
    }
}
