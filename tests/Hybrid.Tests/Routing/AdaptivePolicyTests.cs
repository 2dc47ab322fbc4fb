using Hybrid.Attention;
using Hybrid.Configuration;
using Hybrid.Routing;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;
using DeviceType = TorchSharp.DeviceType;

namespace Hybrid.Tests.Routing;

public class AdaptivePolicyTests
{
    private static readonly LengthThresholdPolicy ByLength = new(512, 100_000);

    [Theory]
    [InlineData(new[] { 1.0, 2, 8 }, new[] { 2.0, 2, 2 }, 101L)]
    [InlineData(new[] { 1.0, 1, 4 }, new[] { 2.0, 2, 2 }, 317L)]
    [InlineData(new[] { 1.0, 1, 1 }, new[] { 2.0, 2, 2 }, long.MaxValue)]
    [InlineData(new[] { 3.0, 3, 3 }, new[] { 2.0, 2, 2 }, 10L)]
    [InlineData(new[] { 3.0, 1, 4 }, new[] { 2.0, 2, 2 }, 317L)]
    [InlineData(new[] { 1.0, 8, 8 }, new[] { 2.0, 2, 2 }, 22L)]
    public void TheCrossoverIsWhereTheTimesMeet(double[] attention, double[] mamba, long crossover) =>
        Assert.Equal(crossover, new RoutingCalibration { Lengths = [10, 100, 1000], AttentionMs = attention, MambaMs = mamba }.Crossover());

    [Fact]
    public void TheMeasuredCrossoverDecides()
    {
        var policy = new AdaptivePolicy(Calibration(DeviceType.CPU, ScalarType.Float32, 1, 64), ByLength);
        Assert.Equal(new RoutingDecision(Route.Attention, RoutingReason.MeasuredFaster, "measured_faster", 0.75, 32, 64), policy.Decide(new RoutingRequest(32)));
        Assert.Equal(Route.Attention, policy.Decide(new RoutingRequest(63)).Route);
        Assert.Equal(Route.Mamba, policy.Decide(new RoutingRequest(64)).Route);
    }

    [Fact]
    public void ABranchThatIsAlwaysSlowerIsNotTaken()
    {
        var slow = new RoutingCalibration { Lengths = [8], AttentionMs = [1], MambaMs = [2] };
        var policy = new AdaptivePolicy(slow, ByLength);
        Assert.Equal((Route.Attention, 1), (policy.Decide(new RoutingRequest(90_000)).Route, policy.Decide(new RoutingRequest(90_000)).Confidence));

        // What attention does not take goes to the other branch all the same.
        Assert.Equal(Route.Mamba, policy.Decide(new RoutingRequest(100_001)).Route);
    }

    [Fact]
    public void TheNearestMeasurementOfTheDeviceAndDtypeCounts()
    {
        var policy = new AdaptivePolicy(null, ByLength);
        Assert.Equal(ByLength.Decide(40, false), policy.Decide(new RoutingRequest(40)));
        policy.Adopt(Calibration(DeviceType.CPU, ScalarType.Float32, 1, 10));
        policy.Adopt(Calibration(DeviceType.CPU, ScalarType.Float32, 16, 20));
        policy.Adopt(Calibration(DeviceType.CPU, ScalarType.Float64, 1, 30));
        policy.Adopt(Calibration(DeviceType.CUDA, ScalarType.Float32, 1, 50));

        var request = new RoutingRequest(5);
        Assert.Equal(10, policy.Decide(request).Threshold);
        Assert.Equal(10, policy.Decide(request with { BatchSize = 3 }).Threshold);
        Assert.Equal(20, policy.Decide(request with { BatchSize = 5 }).Threshold);
        Assert.Equal(30, policy.Decide(request with { Dtype = ScalarType.Float64, BatchSize = 99 }).Threshold);
        Assert.Equal(50, policy.Decide(request with { Device = DeviceType.CUDA }).Threshold);
        Assert.Equal(512, policy.Decide(request with { Dtype = ScalarType.BFloat16 }).Threshold);

        policy.Adopt(Calibration(DeviceType.CPU, ScalarType.Float32, 1, 70));
        Assert.Equal(70, policy.Decide(request).Threshold);
        Assert.Equal((4, 6), (policy.Calibrations.Count, policy.Version));
    }

    [Fact]
    public void AdoptingReachesACacheThroughTheVersion()
    {
        var policy = new AdaptivePolicy(Calibration(DeviceType.CPU, ScalarType.Float32, 1, 10), ByLength);
        var cache = new DecisionCache();
        Assert.Equal(Route.Mamba, cache.Decide(policy, new RoutingRequest(20)).Route);
        policy.Adopt(Calibration(DeviceType.CPU, ScalarType.Float32, 1, 30));
        Assert.Equal(Route.Attention, cache.Decide(policy, new RoutingRequest(20)).Route);
    }

    [Fact]
    public void CalibratingMeasuresBothBranchesAndCanBeWrittenAndReadBack()
    {
        using var router = new HybridAttention(8, new HybridAttentionOptions { Policy = "adaptive", AttentionConfig = new AttentionOptions { NumHeads = 2 } });
        router.eval();
        router.Calibrate([4], repeats: 1);
        var before = LiveTensors.Before();
        var measured = router.Calibrate([4, 64], batchSize: 2, repeats: 3);
        Assert.Equal(before, Tensor.TotalCount);
        Assert.Equal((DeviceType.CPU, ScalarType.Float32, 2), (measured.Device, measured.Dtype, measured.BatchSize));
        Assert.All(measured.AttentionMs.Concat(measured.MambaMs), time => Assert.InRange(time, 1e-6, 10_000));
        Assert.Equal([1, 2], Assert.IsType<AdaptivePolicy>(router.Policy).Calibrations.Select(calibration => calibration.BatchSize));
        Assert.Equal(0, router.GetMetrics().TotalDecisions);

        var path = Path.GetTempFileName();
        try
        {
            measured.Save(path);
            AssertSame(measured, RoutingCalibration.Load(path));
        }
        finally
        {
            File.Delete(path);
        }

        // The same table inside a configuration.
        var stack = new ModuleStackOptions
        {
            HiddenSize = 8,
            Active = [new StackedModule("hybrid_attention", new HybridAttentionOptions { Policy = "adaptive", Adaptive = measured, AttentionConfig = new() { NumHeads = 2 } })],
        };
        var read = HybridConfig.Parse(new HybridConfig { Modules = stack }.ToToml()).Modules!;
        AssertSame(measured, ((HybridAttentionOptions)read.Active[0].Options).Adaptive!);
    }

    [Theory]
    [InlineData(ScalarType.Float32, "float32")]
    [InlineData(ScalarType.BFloat16, "bfloat16")]
    [InlineData(ScalarType.Float16, "float16")]
    public void ADtypeIsSpelledAsInPyTorch(ScalarType dtype, string name)
    {
        var toml = Calibration(DeviceType.CPU, dtype, 1, 30).ToToml();
        Assert.Contains($"dtype = \"{name}\"\n", toml, StringComparison.Ordinal);
        Assert.Equal(dtype, RoutingCalibration.Parse(toml).Dtype);
        var error = Assert.Throws<HybridConfigException>(() => RoutingCalibration.Parse("[adaptive]\ndtype = \"b_float16\""));
        Assert.Contains($"\"{name}\"", error.Message, StringComparison.Ordinal);
        Assert.Contains("did you mean 'bfloat16'?", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("[adaptive]\nlengths = []", "adaptive.lengths", "RoutingCalibration")]
    [InlineData("[adaptive]\nlengths = [8, 4]\nattention_ms = [1.0, 1.0]\nmamba_ms = [1.0, 1.0]", "adaptive.lengths", "ascending")]
    [InlineData("[adaptive]\nlengths = [4, 8]\nattention_ms = [1.0]\nmamba_ms = [1.0, 1.0]", "adaptive.attention_ms", "2 positive times")]
    [InlineData("[adaptive]\nlengths = [4]\nattention_ms = [1.0]\nmamba_ms = [0.0]", "adaptive.mamba_ms", "1 positive times")]
    [InlineData("[adaptive]\nlengths = [4]\nattention_ms = [1.0]\nmamba_ms = [1.0]\nbatch_size = 0", "adaptive.batch_size", "at least 1")]
    [InlineData("[adaptive]\nlength = [4]", "adaptive.length", "did you mean 'lengths'?")]
    [InlineData("[adaptiv]", "adaptiv", "did you mean 'adaptive'?")]
    public void AFileThatIsWrongSaysWhereAndWhat(string toml, string key, string text)
    {
        var error = Assert.Throws<HybridConfigException>(() => RoutingCalibration.Parse(toml, "x.toml"));
        Assert.Equal(key, error.Key);
        if (text != "RoutingCalibration")
        {
            Assert.Contains(text, error.Message, StringComparison.Ordinal);
        }
    }

    private static void AssertSame(RoutingCalibration expected, RoutingCalibration actual)
    {
        Assert.Equal((expected.Device, expected.Dtype, expected.BatchSize), (actual.Device, actual.Dtype, actual.BatchSize));
        Assert.Equal(expected.Lengths, actual.Lengths);
        Assert.Equal(expected.AttentionMs, actual.AttentionMs);
        Assert.Equal(expected.MambaMs, actual.MambaMs);
        Assert.Equal(expected.Crossover(), actual.Crossover());
    }

    /// <summary>A measurement whose branches are equally fast just below a length.</summary>
    private static RoutingCalibration Calibration(DeviceType device, ScalarType dtype, long batch, long crossover) => new()
    {
        Device = device, Dtype = dtype, BatchSize = batch, Lengths = [crossover - 1, crossover], AttentionMs = [1, 1.1], MambaMs = [1, 1],
    };
}
