using Hybrid.Kernels.Cpu;
using Xunit;

namespace Hybrid.Tests.Kernels;

/// <summary>The functions of registers against double precision, for each width of register that this processor has or emulates.</summary>
public unsafe class LaneMathTests
{
    // Three units in the last place of float32: the polynomial, its rounding, and that of a quotient.
    private const double Tolerance = 3 * 1.2e-7;

    public static TheoryData<string, double, double> Functions => new()
    {
        { "exp", -87, 88 },
        { "exp2", -125, 126 },
        { "expm1", -90, 88 },
        { "sigmoid", -80, 80 },
        { "silu slope", -30, 30 },
        { "tanh", -30, 30 },
        { "softplus", -80, 200 },
    };

    [Theory]
    [MemberData(nameof(Functions))]
    public void EqualsDoublePrecisionOverTheRange(string name, double from, double to)
    {
        Check<Lane128>(name, from, to);
        Check<Lane256>(name, from, to);
        Check<Lane512>(name, from, to);
    }

    [Fact]
    public void InfinitiesGoWhereTheFunctionGoesAndNaNStays()
    {
        Special<Lane128>();
        Special<Lane256>();
        Special<Lane512>();
    }

    private static void Check<TLane>(string name, double from, double to)
        where TLane : struct, ILane<TLane>
    {
        const int points = 20_000;
        for (var i = 0; i <= points; i++)
        {
            // Dense around zero, where the small arguments are.
            var place = ((2.0 * i) / points) - 1;
            var x = (float)(place < 0 ? -from * place * Math.Abs(place) : to * place * place);
            var (actual, expected) = ((double)Of<TLane>(name, x), Expected(name, x));

            // The slope of SiLU passes zero, where only the absolute error can be small.
            var scale = name == "silu slope" ? Math.Max(Math.Abs(expected), 0.1) : Math.Abs(expected);
            Assert.True(Math.Abs(actual - expected) <= Tolerance * scale, $"{typeof(TLane).Name} {name}({x:r}) is {actual:r}, not {expected:r}");
        }
    }

    private static void Special<TLane>()
        where TLane : struct, ILane<TLane>
    {
        foreach (var name in new[] { "exp", "exp2", "expm1", "sigmoid", "softplus", "tanh" })
        {
            Assert.True(float.IsNaN(Of<TLane>(name, float.NaN)), $"{typeof(TLane).Name} {name}(NaN)");
            foreach (var x in new[] { float.NegativeInfinity, -1e30f, -1000f, 1000f, 1e30f, float.PositiveInfinity })
            {
                Assert.Equal((float)Expected(name, x), Of<TLane>(name, x), 1e-37f);
            }
        }
    }

    private static float Of<TLane>(string name, float x)
        where TLane : struct, ILane<TLane>
    {
        var lane = TLane.Broadcast(x);
        var result = name switch
        {
            "exp" => LaneMath.Exp(lane),
            "exp2" => LaneMath.Exp2(lane),
            "expm1" => LaneMath.Expm1(lane),
            "sigmoid" => LaneMath.Sigmoid(lane),
            "silu slope" => LaneMath.SiluSlope(lane),
            "tanh" => LaneMath.Tanh(lane),
            _ => LaneMath.Softplus(lane),
        };
        var values = stackalloc float[TLane.Count];
        TLane.Store(result, values);
        return values[TLane.Count - 1];
    }

    private static double Expected(string name, double x)
    {
        var sigmoid = 1 / (1 + Math.Exp(-x));
        return name switch
        {
            "exp" => Math.Exp(x),
            "exp2" => Math.Pow(2, x),
            "expm1" => Math.Abs(x) < 1e-2 ? x + (x * x / 2) + (x * x * x / 6) + (x * x * x * x / 24) : Math.Exp(x) - 1,
            "sigmoid" => sigmoid,
            "tanh" => Math.Tanh(x),
            "silu slope" => sigmoid * (1 + (x * (1 - sigmoid))),
            _ => x > 30 ? x : x < -30 ? Math.Exp(x) : Math.Log(1 + Math.Exp(x)) is var log && x < -5 ? Series(Math.Exp(x)) : log,
        };

        // log(1 + t) for small t, where 1 + t would lose it.
        static double Series(double t) => t - (t * t / 2) + (t * t * t / 3) - (t * t * t * t / 4) + (t * t * t * t * t / 5);
    }
}
