using Hybrid.Attention;
using Hybrid.Configuration;
using Hybrid.Mixers;
using Hybrid.Routing;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Configuration;

public class ModuleStackTests
{
    private const double Tolerance = 1e-5;   // float32, sums of a few dozen terms in another order

    private static readonly ModuleStackOptions Options = new()
    {
        HiddenSize = 12,
        Active =
        [
            new("mamba", new MambaOptions { DState = 3 }),
            new("hybrid_attention", new HybridAttentionOptions { AttentionConfig = new() { NumHeads = 3 }, LayerNormEps = 1e-6 }),
            new("attention", new AttentionOptions { NumHeads = 2 }),
        ],
    };

    [Fact]
    public void TheModules_RunInTheirOrder()
    {
        using var scope = NewDisposeScope();
        using var stack = Make();
        var x = randn(2, 7, 12);

        Assert.Equal(["mamba", "hybrid_attention", "attention"], stack.Names);
        Assert.IsType<MambaMixer>(stack["mamba"]);
        Assert.IsType<HybridAttention>(stack["hybrid_attention"]);
        var expected = stack["attention"].forward(stack["hybrid_attention"].forward(stack["mamba"].forward(x)));
        TensorAssert.Identical(expected, stack.forward(x), "output");
    }

    [Fact]
    public void EachModule_IsRegisteredUnderItsName()
    {
        using var stack = Make();

        Assert.Equal(["mamba", "hybrid_attention", "attention"], stack.named_children().Select(child => child.name));
        Assert.Contains("mamba.A_log", stack.state_dict().Keys);
        Assert.Contains("attention.q_proj.weight", stack.state_dict().Keys);
        Assert.Equal(stack.Names.Sum(name => stack[name].parameters().Count()), stack.parameters().Count());
    }

    [Fact]
    public void ChunksWithAState_EqualTheWhole()
    {
        using var scope = NewDisposeScope();
        using var stack = Make();
        using var state = stack.CreateState(2);
        var x = randn(2, 7, 12);
        var context = new MixerContext { State = state };

        var parts = new[] { (0, 3), (3, 4), (4, 7) }.Select(part => stack.forward(x.slice(1, part.Item1, part.Item2, 1), context)).ToList();

        TensorAssert.Close(stack.forward(x), cat(parts, 1), Tolerance, "output");
        Assert.Equal(7, state.Position);
        Assert.Equal([7L, 7L, 7L], state.Parts.Select(part => part.Position));
    }

    [Fact]
    public void PaddedRows_EqualRowsAlone()
    {
        using var scope = NewDisposeScope();
        using var stack = Make();
        var x = randn(2, 7, 12);

        var padded = stack.forward(x, new MixerContext { Lengths = [4, 7] });

        var first = x.slice(0, 0, 1, 1).slice(1, 0, 4, 1);
        TensorAssert.Close(stack.forward(first), padded.slice(0, 0, 1, 1).slice(1, 0, 4, 1), Tolerance, "row 0");
        TensorAssert.Close(stack.forward(x.slice(0, 1, 2, 1)), padded.slice(0, 1, 2, 1), Tolerance, "row 1");
    }

    [Fact]
    public void WhatDoesNotFit_IsRefused()
    {
        using var scope = NewDisposeScope();
        using var stack = Make();
        using var state = stack.CreateState(3);

        AssertError("ModuleStack: the input must be [B, T, 12] with B, T >= 1; got [2, 7, 11].", () => stack.forward(randn(2, 7, 11)));
        AssertError(
            "ModuleStack: the state must be made by CreateState(2) of this stack; got a CompositeState of 3 sequences.",
            () => stack.forward(randn(2, 7, 12), new MixerContext { State = state }));
        AssertError("ModuleStack: there is no module 'mambo'; did you mean 'mamba'?", () => stack["mambo"]);
        AssertError("ModuleStack: there is no module 'gru'; known: mamba, hybrid_attention, attention", () => stack["gru"]);
    }

    [Fact]
    public void OptionsThatAreWrong_AreRefused()
    {
        AssertError("ModuleStackOptions.HiddenSize must be at least 1; got 0.", () => new ModuleStack(Options with { HiddenSize = 0 }));
        AssertError("ModuleStackOptions: Active must be one module or more, each once; got [].", () => WithModules());
        AssertError(
            "ModuleStackOptions: Active must be one module or more, each once; got [mamba, mamba].",
            () => WithModules(new("mamba", new MambaOptions()), new("mamba", new MambaOptions())));
        AssertError(
            "MixerRegistry: 'mamba' takes MambaOptions; got AttentionOptions.",
            () => WithModules(new StackedModule("mamba", new AttentionOptions())));

        static ModuleStack WithModules(params StackedModule[] modules) => new(Options with { Active = modules });
    }

    private static ModuleStack Make()
    {
        var stack = new ModuleStack(Options);
        stack.eval();
        return stack;
    }

    private static void AssertError(string text, Func<object> action) =>
        Assert.StartsWith(text, Assert.ThrowsAny<ArgumentException>(action).Message, StringComparison.Ordinal);
}
