using System.Runtime.InteropServices;
using System.Text;
using TorchSharp;
using TorchSharp.Modules;
using Xunit;
using static TorchSharp.torch;

namespace Fallbacks.Tests.Nn;

public sealed class StateTests
{
    [Fact]
    public void Parameters_come_before_buffers()
    {
        using var probe = new ContainerProbe();

        Assert.Equal([.. probe.named_parameters().Select(p => p.name), "counts"], probe.state_dict().Keys);
        Assert.Equal("outer.layers.0.weight", probe.state_dict(prefix: "outer").Keys.First());
    }

    [Fact]
    public void Loading_copies_values_and_converts_types()
    {
        using var scope = NewDisposeScope();
        var linear = nn.Linear(2, 2);
        var weight = linear.weight;
        var source = new Dictionary<string, Tensor>
        {
            ["weight"] = Values.Tensor([1, 2, 3, 4], 2, 2),
            ["bias"] = Values.Tensor([5, 6], 2),
        };

        var (missing, unexpected) = linear.load_state_dict(source);

        Assert.Empty(missing);
        Assert.Empty(unexpected);
        Assert.Same(weight, linear.weight);
        Assert.Equal(ScalarType.Float32, linear.weight.dtype);
        Values.Near([1, 2, 3, 4], linear.weight);
        Values.Near([5, 6], linear.bias!);
    }

    [Fact]
    public void Strict_loading_wants_the_same_keys()
    {
        using var scope = NewDisposeScope();
        var linear = nn.Linear(2, 1);
        Values.Set(linear.bias!, [9]);
        var source = new Dictionary<string, Tensor> { ["weight"] = ones(1, 2), ["other"] = ones(1) };

        Assert.Throws<InvalidOperationException>(() => linear.load_state_dict(source));
        Assert.NotEqual([1d, 1d], Values.Of(linear.weight));

        var (missing, unexpected) = linear.load_state_dict(source, strict: false);
        Assert.Equal(["bias"], missing);
        Assert.Equal(["other"], unexpected);
        Values.Near([1, 1], linear.weight);
        Values.Near([9], linear.bias!);
    }

    [Fact]
    public void Skipped_keys_are_neither_missed_nor_loaded()
    {
        using var scope = NewDisposeScope();
        var linear = nn.Linear(2, 1);
        Values.Set(linear.weight, [7, 8]);
        var source = new Dictionary<string, Tensor> { ["weight"] = ones(1, 2), ["bias"] = zeros(1) };

        var (missing, unexpected) = linear.load_state_dict(source, skip: ["weight"]);

        Assert.Empty(missing);
        Assert.Empty(unexpected);
        Values.Near([7, 8], linear.weight);
        Values.Near([0], linear.bias!);
    }

    [Fact]
    public void Shapes_that_do_not_broadcast_are_an_error_of_libtorch()
    {
        using var scope = NewDisposeScope();
        var linear = nn.Linear(2, 3, hasBias: false);
        var source = new Dictionary<string, Tensor> { ["weight"] = ones(2, 3) };

        Assert.Throws<ExternalException>(() => linear.load_state_dict(source));
    }

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.Float64)]
    [InlineData(ScalarType.Float16)]
    [InlineData(ScalarType.BFloat16)]
    public void What_is_saved_loads_again(ScalarType dtype)
    {
        using var scope = NewDisposeScope();
        using var first = new ContainerProbe().to(dtype);
        using var second = new ContainerProbe().to(dtype);
        using var file = new MemoryStream();

        first.save(file);
        second.load(new MemoryStream(file.ToArray()));

        foreach (var (name, tensor) in first.state_dict())
        {
            Values.Near(Values.Of(tensor), second.state_dict()[name], 0);
            Assert.Equal(tensor.dtype, second.state_dict()[name].dtype);
        }
        Assert.Equal(ScalarType.Int64, second.get_buffer("counts")!.dtype);
    }

    [Fact]
    public void The_stream_is_counts_names_types_sizes_and_raw_values()
    {
        using var scope = NewDisposeScope();
        using var linear = nn.Linear(200, 1, hasBias: false);
        using var stream = new MemoryStream();
        linear.save(stream);

        var expected = new List<byte> { 1, 6 };
        expected.AddRange(Encoding.UTF8.GetBytes("weight"));
        expected.AddRange([6, 2, 1, 0xC8, 0x01]);                      // float32; 2 dimensions: 1, and 200 = 0b1_1001000
        foreach (float value in linear.weight.data<float>().ToArray()) expected.AddRange(BitConverter.GetBytes(value));
        Assert.Equal(expected, stream.ToArray());
    }

    [Fact]
    public void Strict_reading_wants_the_same_names_and_count()
    {
        using var scope = NewDisposeScope();
        using var plain = nn.Linear(2, 2, hasBias: false);
        using var full = nn.Linear(2, 2);
        var (plainBytes, fullBytes) = (Saved(plain), Saved(full));

        Assert.Throws<ArgumentException>(() => full.load(new MemoryStream(plainBytes)));
        Assert.Throws<ArgumentException>(() => nn.Embedding(2, 2).load(new MemoryStream(fullBytes)));

        var seen = new Dictionary<string, bool>();
        plain.load(new MemoryStream(fullBytes), strict: false, loadedParameters: seen);
        Assert.Equal(new Dictionary<string, bool> { ["weight"] = true, ["bias"] = false }, seen);
        Values.Near(Values.Of(full.weight), plain.weight, 0);
    }

    [Fact]
    public void Reading_past_a_skipped_tensor_leaves_it_alone()
    {
        using var scope = NewDisposeScope();
        using var source = nn.Linear(3, 2);
        using var target = nn.Linear(3, 2);
        var before = Values.Of(target.weight);

        target.load(new MemoryStream(Saved(source)), skip: ["weight"]);

        Values.Near(before, target.weight, 0);
        Values.Near(Values.Of(source.bias!), target.bias!, 0);
    }

    [Fact]
    public void Files_load_into_new_modules()
    {
        string path = Path.Combine(Path.GetTempPath(), $"{Guid.NewGuid():N}.dat");
        try
        {
            using var first = new OpenProbe();
            first.register_buffer("table", Values.Tensor([1, 2, 3], 3));
            first.save(path);
            using var second = new OpenProbe();
            second.register_buffer("table", zeros(3, ScalarType.Float64));
            second.load(path);
            Values.Near([1, 2, 3], second.get_buffer("table")!);
            Assert.Throws<FileNotFoundException>(() => second.load(path + ".none"));
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void Zero_grad_drops_or_zeroes()
    {
        using var scope = NewDisposeScope();
        var linear = nn.Linear(2, 1, hasBias: false);
        linear.call(ones(1, 2)).sum().backward();
        Values.Near([1, 1], linear.weight.grad!);

        linear.zero_grad(set_to_none: false);
        Values.Near([0, 0], linear.weight.grad!);
        linear.zero_grad();
        Assert.Null(linear.weight.grad);
    }

    private static byte[] Saved(nn.Module module)
    {
        using var stream = new MemoryStream();
        module.save(stream);
        return stream.ToArray();
    }
}
