using TorchSharp;
using static TorchSharp.torch;

namespace Fallbacks.Tests.Torch;

/// <summary>What these change belongs to the whole process, so they do not run beside other tests.</summary>
[CollectionDefinition(nameof(ProcessWide), DisableParallelization = true)]
public class ProcessWide;

[Collection(nameof(ProcessWide))]
public class RuntimeTests
{
    [Fact]
    public void TheDefaultGeneratorIsSeeded()
    {
        using var scope = NewDisposeScope();
        manual_seed(3).Dispose();
        var x = rand(5);
        var state = get_rng_state();
        var y = rand(5);
        manual_seed(3).Dispose();
        Assert.Equal(3, initial_seed());
        Assert.True(x.Equals(rand(5)));
        Assert.True(y.Equals(rand(5)));
        set_rng_state(state);
        Assert.True(y.Equals(rand(5)));
    }

    [Fact]
    public void ThreadsAreTheProcessorsUnlessTheUserSaysOtherwise()
    {
        var expected = int.TryParse(Environment.GetEnvironmentVariable("OMP_NUM_THREADS"), out var chosen)
            ? chosen
            : Environment.ProcessorCount;
        Assert.Equal(expected, get_num_threads());
        var elsewhere = 0;
        var thread = new Thread(() => elsewhere = get_num_threads());
        thread.Start();
        thread.Join();
        Assert.Equal(expected, elsewhere);
        try
        {
            set_num_threads(1);
            Assert.Equal(1, get_num_threads());
        }
        finally
        {
            set_num_threads(expected);
        }
    }

    [Fact]
    public void DevicesAreNamedAndChecked()
    {
        Assert.Equal("cuda:1", new Device("cuda:1").ToString());
        Assert.Equal(DeviceType.CUDA, new Device("cuda").type);
        Assert.Equal(-1, new Device("cuda").index);
        Assert.Equal("cpu", CPU.ToString());
        Assert.Throws<ArgumentException>(() => new Device("nothing"));
        using var scope = NewDisposeScope();
        Assert.Equal(DeviceType.CPU, ones(1).device_type);
        if (cuda.is_available()) Assert.Equal(0, ones(1, device: CUDA).device.index);
        else
        {
            Assert.Throws<InvalidOperationException>(() => ones(1, device: new Device("cuda")));
            Assert.Throws<InvalidOperationException>(() => torch.device("cuda"));
            Assert.Throws<InvalidOperationException>(() => CUDA);
        }
    }

    [Fact]
    public void FloatingPointLimits()
    {
        Assert.Equal(MathF.BitIncrement(1f) - 1.0, finfo(float32).eps);
        Assert.Equal((double)Half.MaxValue, finfo(float16).max);
        Assert.Equal((double)BFloat16.MinValue, finfo(bfloat16).min);
        Assert.Equal((double)BFloat16.MinNormal, finfo(bfloat16).tiny);
        Assert.Equal(16, finfo(bfloat16).bits);
    }

    [Fact]
    public void ForgottenTensorsAreFinalized()
    {
        static void Forget()
        {
            for (var i = 0; i < 100; i++) _ = ones(10);
        }

        var before = Tensor.TotalCount;
        Forget();
        for (var i = 0; i < 10 && Tensor.TotalCount > before; i++)
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
        }
        Assert.True(Tensor.TotalCount <= before, $"{Tensor.TotalCount - before} tensors left");
    }

    [Fact]
    public void TheDefaultTypeIsUsedWhereNoneIsGiven()
    {
        using var scope = NewDisposeScope();
        try
        {
            set_default_dtype(float64);
            Assert.Equal(ScalarType.Float64, zeros(1).dtype);
            Assert.Equal(ScalarType.Float64, randn(1).dtype);
            Assert.Equal(ScalarType.Float64, linspace(0, 1, 3).dtype);
            Assert.Equal(ScalarType.Int64, arange(3).dtype);
        }
        finally
        {
            set_default_dtype(float32);
        }
        Assert.Equal(ScalarType.Float32, zeros(1).dtype);
    }
}
