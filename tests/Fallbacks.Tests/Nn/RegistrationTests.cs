using TorchSharp;
using TorchSharp.Modules;
using Xunit;
using static TorchSharp.torch;

namespace Fallbacks.Tests.Nn;

public sealed class RegistrationTests
{
    [Fact]
    public void Fields_register_under_their_names_wherever_they_are_declared()
    {
        using var probe = new FieldProbe();

        var parameters = probe.named_parameters(recurse: false).Select(p => p.name).ToHashSet();
        Assert.Equal(["hidden", "inner", "renamed", "shared", "<Automatic>k__BackingField"], parameters);
        Assert.Equal(["table"], probe.named_buffers().Select(b => b.name));
        Assert.Equal(["open"], probe.named_children().Select(c => c.name));
        Assert.Equal(2, probe.Unseen);
        Assert.Same(probe.Hidden, probe.get_parameter("hidden"));
    }

    [Fact]
    public void Derived_fields_come_before_those_of_the_base_class()
    {
        using var probe = new FieldProbe();

        var names = probe.named_parameters(recurse: false).Select(p => p.name).ToList();
        Assert.True(names.IndexOf("inner") < names.IndexOf("renamed"));
        Assert.True(names.IndexOf("renamed") < names.IndexOf("shared"));
        Assert.True(names.IndexOf("shared") < names.IndexOf("hidden"));
    }

    [Fact]
    public void Containers_name_their_contents()
    {
        using var probe = new ContainerProbe();

        Assert.Equal(
            ["layers.0.weight", "layers.0.bias", "layers.1.weight", "chain.up.weight", "chain.up.bias", "chain.down.weight", "scales.0", "scales.1"],
            probe.named_parameters().Select(p => p.name));
        Assert.Equal(
            ["layers", "chain", "scales", "layers.0", "layers.1", "chain.up", "chain.act", "chain.down"],
            probe.named_modules().Select(m => m.name));
    }

    [Fact]
    public void Paths_lead_to_parameters_and_buffers()
    {
        using var probe = new ContainerProbe();

        Assert.True(probe.has_parameter("chain.up.bias"));
        Assert.False(probe.has_parameter("chain.down.bias"));
        Assert.Equal([4L, 3L], probe.get_parameter("chain.up.weight")!.shape);
        Assert.Equal([2L], probe.get_parameter("scales.1")!.shape);
        Assert.Null(probe.get_parameter("chain.up.none"));
        Assert.True(probe.has_buffer("counts"));
        Assert.Null(probe.get_buffer("none"));
    }

    [Fact]
    public void A_module_list_is_fixed_when_it_is_registered()
    {
        var list = new ModuleList<Linear>(nn.Linear(1, 1, false));
        using var owner = new OpenProbe();
        owner.register_module("list", list);
        using var late = nn.Linear(1, 1, false);
        list.Add(late);

        Assert.Equal(2, list.Count);
        Assert.Equal(["list.0.weight"], owner.named_parameters().Select(p => p.name));
    }

    [Fact]
    public void A_parameter_held_twice_is_one_parameter_with_two_names_in_the_state()
    {
        using var first = nn.Linear(3, 3, false);
        using var second = nn.Linear(first.weight);
        using var owner = new OpenProbe();
        owner.register_module("first", first);
        owner.register_module("second", second);

        Assert.Equal(["first.weight"], owner.named_parameters().Select(p => p.name));
        Assert.Equal(["first.weight", "second.weight"], owner.state_dict().Keys);
    }

    [Fact]
    public void Wrong_names_and_second_registrations_are_refused()
    {
        using var owner = new OpenProbe();
        using var child = nn.Linear(1, 1);
        owner.register_module("child", child);
        owner.register_buffer("table", zeros(1));
        owner.register_parameter("scale", nn.Parameter(zeros(1)));

        Assert.Throws<InvalidOperationException>(() => owner.register_module("child", child));
        Assert.Throws<ArgumentException>(() => owner.register_module("a.b", child));
        Assert.Throws<ArgumentException>(() => owner.register_module("", child));
        Assert.Throws<InvalidOperationException>(() => owner.register_buffer("table", zeros(1)));
        Assert.Throws<InvalidOperationException>(() => owner.register_parameter("scale", nn.Parameter(zeros(1))));
        Assert.Throws<ArgumentNullException>(() => owner.register_buffer("none", null!));
        using var dropout = nn.Dropout();
        Assert.Throws<InvalidOperationException>(() => dropout.register_buffer("table", zeros(1)));
    }

    [Fact]
    public void Buffers_that_do_not_persist_are_in_no_list()
    {
        using var owner = new OpenProbe();
        owner.register_buffer("kept", zeros(1));
        owner.register_buffer("lost", zeros(1), persistent: false);

        Assert.Equal(["kept"], owner.named_buffers().Select(b => b.name));
        Assert.Equal(["kept"], owner.state_dict().Keys);
        Assert.True(owner.has_buffer("lost"));
    }

    [Fact]
    public void A_scope_takes_the_parameters_made_in_it_but_not_those_of_linear_conv_and_norm()
    {
        var owner = new OpenProbe();
        using (NewDisposeScope())
        {
            owner.register_parameter("own", nn.Parameter(zeros(1)));
            owner.register_buffer("table", zeros(1));
            owner.register_module("linear", nn.Linear(2, 2));
            owner.register_module("conv", nn.Conv1d(2, 2, 3));
            owner.register_module("norm", nn.LayerNorm(2));
            Assert.Equal(7, owner.parameters().Count());
        }

        Assert.Equal(
            ["linear.weight", "linear.bias", "conv.weight", "conv.bias", "norm.weight", "norm.bias"],
            owner.state_dict().Keys.Order(Comparer<string>.Create((a, b) => Rank(a) - Rank(b))));
        owner.Dispose();

        static int Rank(string name) =>
            Array.IndexOf(["linear.weight", "linear.bias", "conv.weight", "conv.bias", "norm.weight", "norm.bias"], name);
    }

    [Fact]
    public void Embedding_and_gru_still_run_after_the_scope_but_their_parameters_are_no_longer_listed()
    {
        Embedding embedding;
        GRU gru;
        using (NewDisposeScope())
        {
            embedding = nn.Embedding(5, 3);
            gru = nn.GRU(3, 4);
            Assert.Equal(["weight"], embedding.named_parameters().Select(p => p.name));
        }

        Assert.Empty(embedding.parameters());
        Assert.Empty(gru.parameters());
        using (NewDisposeScope())
        {
            var (output, state) = gru.call(embedding.call(zeros(2, 1, ScalarType.Int64)));
            Assert.Equal([2L, 1L, 4L], output.shape);
            Assert.Equal([1L, 1L, 4L], state.shape);
            Assert.Equal([5L, 3L], embedding.weight!.shape);
        }
        embedding.Dispose();
        gru.Dispose();
    }

    [Fact]
    public void Training_mode_reaches_every_module()
    {
        using var probe = new ContainerProbe();
        Assert.True(probe.training);

        probe.eval();

        Assert.False(probe.training);
        Assert.All(probe.named_modules(), m => Assert.False(m.module.training, m.name));
        probe.train();
        Assert.All(probe.modules(), m => Assert.True(m.training));
    }

    [Fact]
    public void Apply_visits_children_first()
    {
        using var probe = new ContainerProbe();
        var visited = new List<string>();

        probe.apply(m => visited.Add(m.GetName()));

        Assert.Equal("ContainerProbe", visited[^1]);
        Assert.Equal(["Linear", "Linear", "ModuleList"], visited[..3]);
        Assert.Equal(3 + 4 + 1 + 1, visited.Count);
    }

    [Fact]
    public void Disposing_a_module_frees_the_whole_tree()
    {
        var probe = new ContainerProbe();
        var embedding = nn.Embedding(3, 2);
        var tensors = probe.state_dict().Values.Concat(embedding.parameters()).ToArray();
        Assert.Equal(9 + 1, tensors.Length);

        probe.Dispose();
        embedding.Dispose();

        Assert.All(tensors, t => Assert.True(t.IsInvalid));
        Assert.Empty(probe.parameters());
        using var index = zeros(1, ScalarType.Int64);
        Assert.Throws<ObjectDisposedException>(() => embedding.call(index));
    }
}
