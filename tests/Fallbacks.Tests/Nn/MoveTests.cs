using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Fallbacks.Tests.Nn;

public sealed class MoveTests
{
    [Fact]
    public void A_changed_type_replaces_parameters_and_frees_the_old()
    {
        using var scope = NewDisposeScope();
        using var probe = new FieldProbe();
        var hidden = probe.Hidden;
        var weight = probe.open.weight;
        var values = Values.Of(weight);

        Assert.Same(probe, probe.to(ScalarType.Float64));

        Assert.True(hidden.IsInvalid);
        Assert.True(weight.IsInvalid);
        Assert.NotSame(weight, probe.open.weight);
        Assert.Same(probe.Hidden, probe.get_parameter("hidden"));
        Assert.All(probe.parameters(), p => Assert.Equal(ScalarType.Float64, p.dtype));
        Assert.All(probe.parameters(), p => Assert.True(p.requires_grad && p.is_leaf));
        Assert.Equal(5 + 2, probe.parameters().Count());
        Values.Near(values, probe.open.weight, 0);
    }

    [Fact]
    public void Integer_buffers_keep_their_type_and_stay_registered()
    {
        using var scope = NewDisposeScope();
        using var probe = new FieldProbe();

        probe.half();

        Assert.Equal(ScalarType.Int64, probe.get_buffer("table")!.dtype);
        Assert.Same(probe.Values[1], probe.get_buffer("table"));
        Values.Near([0, 1, 2, 3, 4], probe.get_buffer("table")!);
        Assert.Equal(ScalarType.Float16, probe.Hidden.dtype);
    }

    [Fact]
    public void Nothing_to_change_changes_nothing()
    {
        using var probe = new FieldProbe();
        var before = probe.parameters().ToArray();

        probe.to(ScalarType.Float32).cpu().to("cpu");

        var after = probe.parameters().ToArray();
        Assert.Equal(before.Length, after.Length);
        for (int i = 0; i < before.Length; i++) Assert.Same(before[i], after[i]);
    }

    [Fact]
    public void Gradients_and_frozen_parameters_move_along()
    {
        using var scope = NewDisposeScope();
        using var linear = nn.Linear(2, 1);
        linear.bias!.requires_grad = false;
        linear.call(Values.Tensor([3, 4], 1, 2).to(ScalarType.Float32)).sum().backward();

        linear.@double();

        Values.Near([3, 4], linear.weight.grad!);
        Assert.Equal(ScalarType.Float64, linear.weight.grad!.dtype);
        Assert.False(linear.bias!.requires_grad);
        linear.call(ones(1, 2, ScalarType.Float64)).sum().backward();
        Values.Near([4, 5], linear.weight.grad!);
    }

    [Fact]
    public void Embedding_and_gru_change_in_place()
    {
        using var scope = NewDisposeScope();
        using var embedding = nn.Embedding(4, 3);
        using var gru = nn.GRU(3, 2);
        var weight = embedding.parameters().Single();
        var first = gru.parameters().First();

        embedding.to(ScalarType.Float64);
        gru.to(ScalarType.Float64);

        Assert.Same(weight, embedding.parameters().Single());
        Assert.Same(first, gru.parameters().First());
        Assert.Equal(ScalarType.Float64, weight.dtype);
        Assert.Equal(ScalarType.Float64, embedding.weight!.dtype);
        var (output, _) = gru.call(embedding.call(zeros(2, 1, ScalarType.Int64)));
        output.sum().backward();
        Assert.Equal(ScalarType.Float64, weight.grad!.dtype);
        Assert.NotNull(first.grad);
    }

    [Fact]
    public void Parameters_are_never_integers()
    {
        using var linear = nn.Linear(1, 1);
        using var probe = new OpenProbe();
        probe.register_module("linear", linear);

        Assert.Throws<ArgumentException>(() => probe.to(ScalarType.Int64));
    }

    [Fact]
    public void Lists_and_nested_modules_move_their_contents()
    {
        using var scope = NewDisposeScope();
        using var probe = new ContainerProbe();

        probe.to(ScalarType.BFloat16);

        Assert.All(probe.parameters(), p => Assert.Equal(ScalarType.BFloat16, p.dtype));
        Assert.Equal(8, probe.parameters().Count());
        Assert.Equal(8 + 1, probe.state_dict().Values.Count(t => !t.IsInvalid));
    }

    [Fact]
    public void A_module_with_two_properties_of_one_name_cannot_be_moved()
    {
        using var probe = new IndexedProbe();

        Assert.Throws<ArgumentException>(() => probe.to(ScalarType.Float64));
    }

    [Fact]
    public void Without_a_gpu_a_move_to_it_is_refused()
    {
        Assert.SkipWhen(cuda.is_available(), "There is a CUDA device here.");
        using var probe = new ContainerProbe();

        Assert.Throws<InvalidOperationException>(() => probe.cuda());
    }
}
