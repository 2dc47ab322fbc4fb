using System.Runtime.CompilerServices;

namespace Hybrid.Kernels.Cpu;

/// <summary>
/// Functions of registers. Results are within 3 units in the last place of float32 over the whole range; NaN in is NaN out, and infinities
/// go where the function goes.
/// </summary>
internal static class LaneMath
{
    public const int MantissaBits = 23;
    public const float LowestExponent = -126;
    public const float HighestExponent = 127;
    public const float Log2E = 1.44269504f;
    public const float Ln2 = 0.693147181f;

    private const float Ln2High = 0.693359375f;
    private const float Ln2Low = -2.12194440e-4f;

    /// <summary>Beyond these the result is 0 or infinity in float32.</summary>
    private const float Lowest = -104;
    private const float Highest = 89;

    /// <summary>
    /// 2^x = 2^n 2^r with n = round(x) and r at most 1/2 in magnitude: 1 + r q(r), where q of degree 5 interpolates (2^r - 1) / r at the
    /// Chebyshev nodes, which leaves a relative error of 1e-8 and none at r = 0, so that decays close to 1 stay exact.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLane Exp2<TLane>(TLane x)
        where TLane : struct, ILane<TLane>
    {
        var n = TLane.Round(x);
        var r = x - n;
        var p = TLane.MultiplyAdd(r, TLane.Broadcast(0.000154531634f), TLane.Broadcast(0.00133908633f));
        p = TLane.MultiplyAdd(p, r, TLane.Broadcast(0.00961808302f));
        p = TLane.MultiplyAdd(p, r, TLane.Broadcast(0.0555035695f));
        p = TLane.MultiplyAdd(p, r, TLane.Broadcast(0.240226507f));
        p = TLane.MultiplyAdd(p, r, TLane.Broadcast(Ln2));
        p = TLane.MultiplyAdd(p, r, TLane.Broadcast(1));
        return TLane.Scale(p, n);
    }

    /// <summary>
    /// exp(x) = 2^n exp(r) with n = round(x / ln 2) and |r| at most ln(2) / 2, where the Taylor polynomial of degree 6 is off by less than
    /// r^7 / 7! = 1.2e-7 of the value. ln 2 is split in two so that n ln 2 is exact to more than float32.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLane Exp<TLane>(TLane x)
        where TLane : struct, ILane<TLane>
    {
        x = TLane.AtMost(TLane.Broadcast(Highest), TLane.AtLeast(TLane.Broadcast(Lowest), x));
        var n = TLane.Round(x * TLane.Broadcast(Log2E));
        var r = TLane.MultiplyAdd(n, TLane.Broadcast(-Ln2High), x);
        r = TLane.MultiplyAdd(n, TLane.Broadcast(-Ln2Low), r);
        var p = TLane.MultiplyAdd(r, TLane.Broadcast(1f / 720), TLane.Broadcast(1f / 120));
        p = TLane.MultiplyAdd(p, r, TLane.Broadcast(1f / 24));
        p = TLane.MultiplyAdd(p, r, TLane.Broadcast(1f / 6));
        p = TLane.MultiplyAdd(p, r, TLane.Broadcast(0.5f));
        p = TLane.MultiplyAdd(p, r, TLane.Broadcast(1));
        p = TLane.MultiplyAdd(p, r, TLane.Broadcast(1));
        return TLane.Scale(p, n);
    }

    /// <summary>
    /// exp(x) - 1 = 2^n (exp(r) - 1) + (2^n - 1) with n and r as in <see cref="Exp"/>, and one more term of the series: small results keep
    /// their relative precision.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLane Expm1<TLane>(TLane x)
        where TLane : struct, ILane<TLane>
    {
        var one = TLane.Broadcast(1);
        x = TLane.AtMost(TLane.Broadcast(Highest), TLane.AtLeast(TLane.Broadcast(Lowest), x));
        var n = TLane.Round(x * TLane.Broadcast(Log2E));
        var r = TLane.MultiplyAdd(n, TLane.Broadcast(-Ln2High), x);
        r = TLane.MultiplyAdd(n, TLane.Broadcast(-Ln2Low), r);
        var p = TLane.MultiplyAdd(r, TLane.Broadcast(1f / 5040), TLane.Broadcast(1f / 720));
        p = TLane.MultiplyAdd(p, r, TLane.Broadcast(1f / 120));
        p = TLane.MultiplyAdd(p, r, TLane.Broadcast(1f / 24));
        p = TLane.MultiplyAdd(p, r, TLane.Broadcast(1f / 6));
        p = TLane.MultiplyAdd(p, r, TLane.Broadcast(0.5f));
        p = TLane.MultiplyAdd(p, r, one) * r;
        var power = TLane.Scale(one, n);
        return TLane.MultiplyAdd(p, power, power - one);
    }

    /// <summary>tanh(x), from t = exp(-2 |x|) - 1: -t / (t + 2) with the sign of x.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLane Tanh<TLane>(TLane x)
        where TLane : struct, ILane<TLane>
    {
        var negative = TLane.AtMost(TLane.Zero, x) - TLane.AtLeast(TLane.Zero, x);
        var t = Expm1(negative + negative);
        var below = t / (t + TLane.Broadcast(2));
        return TLane.WhereLess(x, TLane.Zero, below, TLane.Zero - below);
    }

    /// <summary>1 / (1 + exp(-x)).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLane Sigmoid<TLane>(TLane x)
        where TLane : struct, ILane<TLane>
    {
        var one = TLane.Broadcast(1);
        return one / (one + Exp(TLane.Zero - x));
    }

    /// <summary>
    /// The derivative of x sigmoid(x): s (1 + x (1 - s)) with s = sigmoid(x) = 1 / (1 + t), t = exp(-x), and 1 - s = t s, which the difference
    /// would round. t is kept finite, so that s = 0 does not meet infinity.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLane SiluSlope<TLane>(TLane x)
        where TLane : struct, ILane<TLane>
    {
        var one = TLane.Broadcast(1);
        var t = TLane.AtMost(TLane.Broadcast(1e30f), Exp(TLane.Zero - x));
        var s = one / (one + t);
        return s * TLane.MultiplyAdd(x, t * s, one);
    }

    /// <summary>
    /// log(1 + exp(x)) = max(x, 0) + log(1 + t) with t = exp(-|x|), and log(1 + t) = 2 artanh(s) for s = t / (2 + t), at most 1/3: the
    /// terms of its series after s^13 are below 2e-8 of the value. Small results keep their relative precision.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLane Softplus<TLane>(TLane x)
        where TLane : struct, ILane<TLane>
    {
        var positive = TLane.AtLeast(TLane.Zero, x);
        var t = Exp(TLane.AtMost(TLane.Zero, x) - positive);
        var s = t / (TLane.Broadcast(2) + t);
        var square = s * s;
        var series = TLane.MultiplyAdd(square, TLane.Broadcast(2f / 13), TLane.Broadcast(2f / 11));
        series = TLane.MultiplyAdd(series, square, TLane.Broadcast(2f / 9));
        series = TLane.MultiplyAdd(series, square, TLane.Broadcast(2f / 7));
        series = TLane.MultiplyAdd(series, square, TLane.Broadcast(2f / 5));
        series = TLane.MultiplyAdd(series, square, TLane.Broadcast(2f / 3));
        series = TLane.MultiplyAdd(series, square, TLane.Broadcast(2));
        return TLane.MultiplyAdd(series, s, positive);
    }
}
