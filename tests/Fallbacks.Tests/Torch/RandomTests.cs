using TorchSharp;
using static TorchSharp.torch;

namespace Fallbacks.Tests.Torch;

public class RandomTests
{
    [Fact]
    public void ASeedRepeatsItsNumbers()
    {
        using var scope = NewDisposeScope();
        using var first = new Generator(5);
        using var second = new Generator(5);
        using var third = new Generator(6);
        var x = randn(8, generator: first);
        Assert.True(x.Equals(randn(8, generator: second)));
        Assert.False(x.Equals(randn(8, generator: third)));
        Assert.Equal(5, first.initial_seed());
        first.manual_seed(5);
        Assert.True(x.Equals(randn(8, generator: first)));
    }

    [Fact]
    public void AStateContinuesWhereItWasTaken()
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(1);
        _ = rand(3, generator: generator);
        var state = generator.get_state();
        var x = randint(1000, new long[] { 20 }, generator: generator);
        generator.set_state(state);
        Assert.True(x.Equals(randint(1000, new long[] { 20 }, generator: generator)));
    }

    [Fact]
    public void DistributionsKeepTheirBounds()
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(7);
        var uniform = empty(2000).uniform_(-2, 3, generator);
        Assert.InRange(uniform.min().ToDouble(), -2, -1.9);
        Assert.InRange(uniform.max().ToDouble(), 2.9, 3);
        var normal = empty(2000).normal_(5, 2, generator);
        Assert.InRange(normal.mean().ToDouble(), 4.7, 5.3);
        Assert.InRange(normal.std().ToDouble(), 1.8, 2.2);
        var integers = randint(3, 6, new long[] { 500 }, generator: generator);
        Assert.Equal(ScalarType.Int64, integers.dtype);
        Expect.Values(integers.unique().output, 3, 4, 5);
        Expect.Values(randperm(5, generator: generator).sort().Values, 0, 1, 2, 3, 4);
        Assert.InRange(empty(2000).bernoulli_(0.25, generator).mean().ToDouble(), 0.2, 0.3);
        Assert.InRange(empty(2000).exponential_(2, generator).mean().ToDouble(), 0.45, 0.55);
        Expect.Values(tensor(new[] { 0f, 0f, 1f, 0f }).multinomial(3, true, generator), 2, 2, 2);
    }
}
