using System.Reflection;
using TorchSharp;
using static TorchSharp.torch;

namespace Fallbacks.Tests.Torch;

public class OperatorTests
{
    private static readonly double[] Points = [-1.7, -0.5, 0.25, 0.9, 2.5];

    [Fact]
    public void EveryOperatorOfTheTableExistsInThisLibtorch()
    {
        var table = typeof(torch).Assembly.GetType("TorchSharp.Native.Ops", throwOnError: true)!;
        var fields = table.GetFields(BindingFlags.Public | BindingFlags.Static);
        Assert.True(fields.Length > 200, $"only {fields.Length} operators found");
        var missing = fields.Where(f => !(bool)f.FieldType.GetProperty("Exists")!.GetValue(f.GetValue(null))!).Select(f => f.Name);
        Assert.Empty(missing);
    }

    public static TheoryData<string> UnaryNames => [.. Unary.Keys];

    private static readonly Dictionary<string, (Func<Tensor, Tensor> Op, Func<double, double> Expected)> Unary = new()
    {
        ["abs"] = (t => t.abs(), Math.Abs),
        ["neg"] = (t => -t, x => -x),
        ["sign"] = (t => t.sign(), x => Math.Sign(x)),
        ["square"] = (t => t.square(), x => x * x),
        ["reciprocal"] = (t => t.reciprocal(), x => 1 / x),
        ["exp"] = (t => t.exp(), Math.Exp),
        ["exp2"] = (t => t.exp2(), x => Math.Pow(2, x)),
        ["expm1"] = (t => t.expm1(), x => Math.Exp(x) - 1),
        ["sin"] = (t => t.sin(), Math.Sin),
        ["cos"] = (t => t.cos(), Math.Cos),
        ["tan"] = (t => t.tan(), Math.Tan),
        ["tanh"] = (t => t.tanh(), Math.Tanh),
        ["sigmoid"] = (t => t.sigmoid(), x => 1 / (1 + Math.Exp(-x))),
        ["silu"] = (t => t.silu(), x => x / (1 + Math.Exp(-x))),
        ["relu"] = (t => t.relu(), x => Math.Max(x, 0)),
        ["softplus"] = (t => t.softplus(), x => Math.Log(1 + Math.Exp(x))),
        ["softplus beta"] = (t => t.softplus(2.0), x => Math.Log(1 + Math.Exp(2 * x)) / 2),
        ["log_sigmoid"] = (t => t.log_sigmoid(), x => -Math.Log(1 + Math.Exp(-x))),
        ["floor"] = (t => t.floor(), Math.Floor),
        ["ceil"] = (t => t.ceil(), Math.Ceiling),
        ["trunc"] = (t => t.trunc(), Math.Truncate),
        ["round"] = (t => t.round(), x => Math.Round(x, MidpointRounding.ToEven)),
        ["round to tenths"] = (t => t.round(1), x => Math.Round(x, 1, MidpointRounding.ToEven)),
        ["log of exp"] = (t => t.exp().log(), x => x),
        ["log1p of square"] = (t => t.square().log1p(), x => Math.Log(1 + x * x)),
        ["log2 of square"] = (t => t.square().log2(), x => Math.Log2(x * x)),
        ["sqrt of square"] = (t => t.square().sqrt(), Math.Abs),
        ["rsqrt of square"] = (t => t.square().rsqrt(), x => 1 / Math.Abs(x)),
        ["twin of exp"] = (torch.exp, Math.Exp),
        ["twin of tanh"] = (torch.tanh, Math.Tanh),
        ["scalar minus"] = (t => 3 - t, x => 3 - x),
        ["scalar over"] = (t => 3.0 / t, x => 3 / x),
        ["over scalar"] = (t => t / 4, x => x / 4),
        ["times and plus"] = (t => 2 * t + 1.5, x => 2 * x + 1.5),
        ["cube"] = (t => t.pow(3), x => x * x * x),
        ["clamp"] = (t => t.clamp(-1, 2), x => Math.Clamp(x, -1, 2)),
        ["clamp below"] = (t => t.clamp(min: 0.5), x => Math.Max(x, 0.5)),
        ["clamp_max"] = (t => t.clamp_max(0.5), x => Math.Min(x, 0.5)),
        ["remainder"] = (t => t % 1.0, x => x - Math.Floor(x)),
        ["fmod"] = (t => t.fmod(1.0), x => x - Math.Truncate(x)),
    };

    [Theory]
    [MemberData(nameof(UnaryNames))]
    public void UnaryOperatorsComputeWhatTheirNamesSay(string name)
    {
        using var scope = NewDisposeScope();
        var (op, expected) = Unary[name];
        Expect.Values(op(tensor(Points)), Expect.Double, Points.Select(expected).ToArray());
    }

    [Fact]
    public void InPlaceOperatorsChangeAndReturnTheTensor()
    {
        using var scope = NewDisposeScope();
        var x = tensor(new double[] { 1, 4, 9 });
        var result = x.sqrt_();
        Assert.Same(x, result);
        using (NewDisposeScope()) Assert.Same(x, x.mul_(1));
        Expect.Values(x, 1, 2, 3);
        x.add_(1).mul_(2).sub_(tensor(new double[] { 1, 1, 1 })).div_(3);
        Expect.Values(x, Expect.Double, [1, 5.0 / 3, 7.0 / 3]);
        x.fill_(7);
        Expect.Values(result, 7, 7, 7);
        Assert.NotSame(x, x.zero_());
        Expect.Values(result, 0, 0, 0);
    }

    [Fact]
    public void AlphaAndValueScaleTheSecondOperand()
    {
        using var scope = NewDisposeScope();
        var (x, y, z) = (tensor(new double[] { 1, 2 }), tensor(new double[] { 3, 5 }), tensor(new double[] { 2, 4 }));
        Expect.Values(x.add(y, 10), 31, 52);
        Expect.Values(x.addcmul(y, z, 0.5), 4, 12);
        Expect.Values(x.addcdiv(y, z, 2), 4, 4.5);
        Expect.Values(x.addcdiv(y, z), 2.5, 3.25);
        Expect.Values(x.lerp(y, tensor(new double[] { 0.5, 0.25 })), 2, 2.75);
    }

    [Fact]
    public void DivisionRoundsAsAsked()
    {
        using var scope = NewDisposeScope();
        var (x, y) = (tensor(new long[] { 7, -7 }), tensor(new long[] { 2, 2 }));
        Expect.Values(x / y, 3.5, -3.5);
        Expect.Values(x.div(y, RoundingMode.floor), 3, -4);
        Expect.Values(x.div(y, RoundingMode.trunc), 3, -3);
        Expect.Values(x.floor_divide(y), 3, -4);
        Expect.Values(x % 4, 3, 1);
        Expect.Values(x.fmod(4), 3, -3);
    }

    [Theory]
    [InlineData(ScalarType.Int32, ScalarType.Int64, ScalarType.Int64)]
    [InlineData(ScalarType.Int64, ScalarType.Float32, ScalarType.Float32)]
    [InlineData(ScalarType.Bool, ScalarType.Int32, ScalarType.Int32)]
    [InlineData(ScalarType.Float16, ScalarType.BFloat16, ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16, ScalarType.Float32, ScalarType.Float32)]
    [InlineData(ScalarType.Float32, ScalarType.Float64, ScalarType.Float64)]
    public void TensorsOfTwoTypesPromote(ScalarType left, ScalarType right, ScalarType expected)
    {
        using var scope = NewDisposeScope();
        Assert.Equal(expected, (ones(2, dtype: left) + ones(2, dtype: right)).dtype);
        Assert.Equal(expected, promote_types(left, right));
    }

    [Fact]
    public void AScalarLiftsATensorOnlyToAnotherKindOfNumber()
    {
        using var scope = NewDisposeScope();
        Assert.Equal(ScalarType.BFloat16, (ones(2, dtype: bfloat16) * 2.5).dtype);
        Assert.Equal(ScalarType.Float16, (1 - ones(2, dtype: float16)).dtype);
        Assert.Equal(ScalarType.Int32, (ones(2, dtype: int32) + 5L).dtype);
        Assert.Equal(ScalarType.Float32, (ones(2, dtype: int32) + 0.5).dtype);
        Assert.Equal(ScalarType.Float32, (ones(2, dtype: int64) / 2).dtype);
    }

    [Fact]
    public void ComparisonsAndLogic()
    {
        using var scope = NewDisposeScope();
        var (x, y) = (tensor(new[] { 1f, 2f, 3f }), tensor(new[] { 3f, 2f, 1f }));
        Expect.Values(x < y, 1, 0, 0);
        Expect.Values(x <= 2, 1, 1, 0);
        Expect.Values(x > y, 0, 0, 1);
        Expect.Values(x >= 2, 0, 1, 1);
        Expect.Values(x == y, 0, 1, 0);
        Expect.Values(x != 2, 1, 0, 1);
        Expect.Values(2 < (Tensor)x, 0, 0, 1);
        Assert.Equal(ScalarType.Bool, (x == y).dtype);
        Expect.Values((x > 1) & (y > 1), 0, 1, 0);
        Expect.Values((x > 2) | (y > 2), 1, 0, 1);
        Expect.Values((x > 1) ^ (y > 1), 1, 0, 1);
        Expect.Values(~(x > 1), 1, 0, 0);
        Expect.Values(tensor(new[] { 6, 3 }) & tensor(new[] { 3, 5 }), 2, 1);
        Assert.True(x.Equals(tensor(new[] { 1f, 2f, 3f })));
        Assert.False(x.Equals(y));
        Assert.True((x > 0).all().ToBoolean());
        Assert.False((x > 3).any().ToBoolean());
    }

    [Fact]
    public void NotANumberAndInfinity()
    {
        using var scope = NewDisposeScope();
        var x = tensor(new[] { 1, double.NaN, double.PositiveInfinity, double.NegativeInfinity });
        Expect.Values(x.isnan(), 0, 1, 0, 0);
        Expect.Values(x.isinf(), 0, 0, 1, 1);
        Expect.Values(x.isfinite(), 1, 0, 0, 0);
        Expect.Values(x.nan_to_num(5, 6, 7), 1, 5, 6, 7);
        Assert.False(x.allclose(x));
        Assert.True(x.allclose(x, equal_nan: true));
    }

    [Fact]
    public void MatricesMultiply()
    {
        using var scope = NewDisposeScope();
        var a = tensor(new double[,] { { 1, 2, 3 }, { 4, 5, 6 } });
        var b = tensor(new double[,] { { 1, 0 }, { 2, 1 }, { 0, 3 } });
        var v = tensor(new double[] { 1, 10, 100 });
        Expect.Values(a.mm(b), 5, 11, 14, 23);
        Expect.Values(a.matmul(b), 5, 11, 14, 23);
        Expect.Values(a.mv(v), 321, 654);
        Expect.Values(v.dot(v), 10101);
        Expect.Values(v.outer(tensor(new double[] { 1, 2 })), 1, 2, 10, 20, 100, 200);
        Expect.Values(ones(2, 2, dtype: float64).addmm(a, b, beta: 10, alpha: 2), 20, 32, 38, 56);
        var batch = stack([a, 2 * a]).bmm(stack([b, b]));
        Expect.Shape(batch, 2, 2, 2);
        Expect.Values(batch, 5, 11, 14, 23, 10, 22, 28, 46);
        Expect.Values(linalg.matrix_exp(tensor(new double[,] { { 0, 1 }, { 0, 0 } })), Expect.Double, [1, 1, 0, 1]);
        Expect.Values(linalg.vector_norm(v), Expect.Double, [Math.Sqrt(10101)]);
    }

    [Fact]
    public void EinsumContractsAsWritten()
    {
        using var scope = NewDisposeScope();
        var a = Expect.Range(2, 3);
        var b = Expect.Range(3, 2);
        Expect.Values(einsum("ij,jk->ik", a, b), 10, 13, 28, 40);
        Expect.Values(einsum("ij->j", a), 3, 5, 7);
        Expect.Values(einsum("ij,ij->", a, a), 55);
        Expect.Shape(einsum("bhn,bhp->bhpn", zeros(2, 4, 3), zeros(2, 4, 5)), 2, 4, 5, 3);
    }

    [Fact]
    public void FourierTransformsInvert()
    {
        using var scope = NewDisposeScope();
        var x = tensor(new double[] { 1, 2, 3, 4, 0 });
        var spectrum = fft.rfft(x);
        Expect.Shape(spectrum, 3);
        Expect.Values(spectrum.real[0], 10);
        Expect.Values(fft.irfft(spectrum, 5), Expect.Double, [1, 2, 3, 4, 0]);
        Expect.Values(fft.rfft(x, 8).abs()[0], 10);
        Expect.Values(fft.rfft(x, norm: FFTNormType.Ortho).real[0], Expect.Double, [10 / Math.Sqrt(5)]);
    }
}
