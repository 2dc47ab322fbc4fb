using Hybrid.Kernels;
using Hybrid.Kernels.Cpu;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

public class LinearStepTests
{
    // Sums of up to 1,000 products of float32 numbers, whose rounding errors add up like a random walk.
    private const double Tolerance = 2e-6;

    // Results have 8 bits.
    private const double BFloat16Tolerance = 1.0 / 256;

    /// <summary>Vector tails at 0 .. 2 x lanes + 1, parts of one row and of many, and more rows than the kernel takes.</summary>
    public static TheoryData<int, int, int> Sizes
    {
        get
        {
            var data = new TheoryData<int, int, int>();
            foreach (var width in new[] { 1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 1000 })
            {
                foreach (var (rows, outputs) in new[] { (1, 1), (1, 130), (2, 5), (3, 33), (8, 17), (9, 4) })
                {
                    data.Add(rows, width, outputs);
                }
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Sizes))]
    public void EqualsTheMatrixProduct(int rows, int width, int outputs)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var (x, weight, bias) = (Values.Normal(1, rows, width), Values.Normal(2, outputs, width), Values.Normal(3, outputs));
        foreach (var (offset, dtype, tolerance) in new[]
        {
            (bias, ScalarType.Float32, Tolerance), (null, ScalarType.Float32, Tolerance), (bias, ScalarType.BFloat16, BFloat16Tolerance),
        })
        {
            var (input, matrix, b) = (x.to_type(dtype), weight.to_type(dtype), offset?.to_type(dtype));
            var expected = nn.functional.linear(input.@double(), matrix.@double(), b?.@double());
            var y = LinearStep.Linear(input, matrix, b);
            Assert.Equal(dtype, y.dtype);
            TensorAssert.Close(expected, y, tolerance, $"{dtype} {rows} x {width} x {outputs}");
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(19)]
    [InlineData(130)]
    public void EveryWidthOfRegistersGivesTheSameSums(int width)
    {
        using var scope = NewDisposeScope();
        var (x, weight) = (Values.Normal(1, 2, width), Values.Normal(2, 21, width));
        foreach (var stored in new[] { ScalarType.Float32, ScalarType.BFloat16 })
        {
            var matrix = weight.to_type(stored);
            var expected = nn.functional.linear(x.@double(), matrix.@double());
            TensorAssert.Close(expected, WithRegisters<Lane128>(x, matrix), Tolerance, $"{stored}, 128 bits");
            TensorAssert.Close(expected, WithRegisters<Lane256>(x, matrix), Tolerance, $"{stored}, 256 bits");
            TensorAssert.Close(expected, WithRegisters<Lane512>(x, matrix), Tolerance, $"{stored}, 512 bits");
        }
    }

    [Fact]
    public void TheNumberOfThreadsDoesNotChangeABit()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var (x, weight) = (Values.Normal(1, 3, 257), Values.Normal(2, 1001, 257));
        Tensor Run(int threads)
        {
            using var count = new ThreadCount(threads);
            return LinearStep.Linear(x, weight);
        }

        var alone = Run(1);
        for (var repeat = 0; repeat < 50; repeat++)
        {
            TensorAssert.Identical(alone, Run(2 + (repeat % 3)), $"repeat {repeat}");
        }
    }

    [Fact]
    public void CallersOnSeveralThreadsDoNotDisturbEachOther()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var count = new ThreadCount(2);
        var weight = Values.Normal(2, 700, 300);
        var inputs = Enumerable.Range(0, 16).Select(i => Values.Normal((ulong)i, 1, 300)).ToArray();
        var expected = inputs.Select(x => LinearStep.Linear(x, weight)).ToArray();
        var results = new Tensor[inputs.Length];
        Parallel.For(0, inputs.Length, i =>
        {
            using var alone = no_grad();
            for (var repeat = 0; repeat < 20; repeat++)
            {
                results[i]?.Dispose();
                results[i] = LinearStep.Linear(inputs[i], weight);
            }
        });
        for (var i = 0; i < inputs.Length; i++)
        {
            TensorAssert.Identical(expected[i], results[i], $"caller {i}");
            results[i].Dispose();
        }
    }

    [Fact]
    public void TakesAnyLeadingDimensionsAndStrides()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var (x, weight) = (Values.Normal(1, 20, 2, 3), Values.Normal(2, 7, 20));
        var turned = x.permute(1, 2, 0);
        var y = LinearStep.Linear(turned, weight);
        Assert.Equal([2, 3, 7], y.shape);
        TensorAssert.Close(nn.functional.linear(turned.@double(), weight.@double()), y, Tolerance, "permuted");
        Assert.Equal([7], LinearStep.Linear(Values.Normal(1, 20), weight).shape);
        TensorAssert.Close(
            nn.functional.linear(turned.@double(), weight.@double()), LinearStep.Linear(turned, weight.t().contiguous().t()), Tolerance, "transposed weight");
    }

    [Fact]
    public void NotANumberAndInfinityStayInTheirRowsAndOutputs()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var (x, weight) = (Values.Normal(1, 2, 40), Values.Normal(2, 50, 40));
        x[1, 39] = float.NaN;
        weight[3, 0] = float.PositiveInfinity;
        var y = LinearStep.Linear(x, weight);
        Assert.True(y[1].isnan().all().ToBoolean());
        Assert.True(double.IsInfinity(y[0, 3].ToDouble()));
        Assert.Equal(49, y[0].isfinite().sum().ToInt64());
    }

    [Fact]
    public void LeavesRecordingToAutograd()
    {
        using var scope = NewDisposeScope();
        var weight = Values.Normal(2, 5, 4).requires_grad_(true);
        LinearStep.Linear(Values.Normal(1, 1, 4), weight).sum().backward();
        Assert.Equal([5, 4], weight.grad!.shape);
    }

    [Fact]
    public void LeavesNoTensorBehind()
    {
        using var guard = no_grad();
        using var x = Values.Normal(1, 1, 64).to_type(ScalarType.BFloat16);
        using var weight = Values.Normal(2, 9, 64).to_type(ScalarType.BFloat16);
        using var bias = Values.Normal(3, 9).to_type(ScalarType.BFloat16);
        var before = LiveTensors.Before();
        LinearStep.Linear(x, weight, bias).Dispose();
        Assert.Equal(before, Tensor.TotalCount);
    }

    private static unsafe Tensor WithRegisters<TLane>(Tensor x, Tensor weight)
        where TLane : struct, ILane<TLane>
    {
        var y = empty([x.size(0), weight.size(0)]);
        var sizes = new LinearStepSizes
        {
            Input = (float*)TensorMemory.Address(x),
            Weights = TensorMemory.Address(weight),
            Output = (float*)TensorMemory.Address(y),
            Rows = (int)x.size(0),
            Width = (int)x.size(1),
            Outputs = (int)weight.size(0),
        };
        if (weight.dtype == ScalarType.BFloat16)
        {
            Run(new LinearStepKernel<TLane, BFloat16Weights>(sizes), sizes.Parts(BFloat16Weights.Size));
        }
        else
        {
            Run(new LinearStepKernel<TLane, Float32Weights>(sizes), sizes.Parts(Float32Weights.Size));
        }

        GC.KeepAlive(x);
        GC.KeepAlive(weight);
        return y;

        static void Run<TWork>(TWork work, int parts)
            where TWork : IPartedWork
        {
            for (var part = 0; part < parts; part++)
            {
                work.Run(part);
            }
        }
    }
}
