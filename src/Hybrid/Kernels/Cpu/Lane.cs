using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Hybrid.Kernels.Cpu;

/// <summary>
/// A SIMD register of float32 lanes. Kernels are generic over it and written once; the JIT compiles one version a width, all calls
/// inlined.
/// </summary>
internal unsafe interface ILane<TSelf>
    where TSelf : struct, ILane<TSelf>
{
    static abstract int Count { get; }

    static abstract TSelf Zero { get; }

    static abstract TSelf Broadcast(float value);

    static abstract TSelf Load(float* source);

    static abstract void Store(TSelf value, float* target);

    static abstract TSelf operator +(TSelf left, TSelf right);

    static abstract TSelf operator *(TSelf left, TSelf right);

    /// <summary>left * right + addend, rounded once where the processor can.</summary>
    static abstract TSelf MultiplyAdd(TSelf left, TSelf right, TSelf addend);

    static abstract TSelf Round(TSelf value);

    /// <summary>value * 2^exponent for whole exponents, where value and result are normal numbers.</summary>
    static abstract TSelf Scale(TSelf value, TSelf exponent);

    /// <summary>chosen where left &lt; right, else otherwise; false for NaN.</summary>
    static abstract TSelf WhereLess(TSelf left, TSelf right, TSelf chosen, TSelf otherwise);

    /// <summary>otherwise, but value itself where it is NaN.</summary>
    static abstract TSelf KeepNaN(TSelf value, TSelf otherwise);

    static abstract float Sum(TSelf value);
}

internal readonly unsafe struct Lane512(Vector512<float> value) : ILane<Lane512>
{
    private readonly Vector512<float> value = value;

    public static int Count => Vector512<float>.Count;

    public static Lane512 Zero => new(Vector512<float>.Zero);

    public static Lane512 Broadcast(float value) => new(Vector512.Create(value));

    public static Lane512 Load(float* source) => new(Vector512.Load(source));

    public static void Store(Lane512 value, float* target) => value.value.Store(target);

    public static Lane512 operator +(Lane512 left, Lane512 right) => new(left.value + right.value);

    public static Lane512 operator *(Lane512 left, Lane512 right) => new(left.value * right.value);

    public static Lane512 MultiplyAdd(Lane512 left, Lane512 right, Lane512 addend) =>
        new(Vector512.MultiplyAddEstimate(left.value, right.value, addend.value));

    public static Lane512 Round(Lane512 value) => new(Vector512.Round(value.value));

    public static Lane512 Scale(Lane512 value, Lane512 exponent) =>
        new((value.value.AsInt32() + (Vector512.ConvertToInt32Native(exponent.value) << LaneMath.MantissaBits)).AsSingle());

    public static Lane512 WhereLess(Lane512 left, Lane512 right, Lane512 chosen, Lane512 otherwise) =>
        new(Vector512.ConditionalSelect(Vector512.LessThan(left.value, right.value), chosen.value, otherwise.value));

    public static Lane512 KeepNaN(Lane512 value, Lane512 otherwise) =>
        new(Vector512.ConditionalSelect(Vector512.Equals(value.value, value.value), otherwise.value, value.value));

    public static float Sum(Lane512 value) => Vector512.Sum(value.value);
}

internal readonly unsafe struct Lane256(Vector256<float> value) : ILane<Lane256>
{
    private readonly Vector256<float> value = value;

    public static int Count => Vector256<float>.Count;

    public static Lane256 Zero => new(Vector256<float>.Zero);

    public static Lane256 Broadcast(float value) => new(Vector256.Create(value));

    public static Lane256 Load(float* source) => new(Vector256.Load(source));

    public static void Store(Lane256 value, float* target) => value.value.Store(target);

    public static Lane256 operator +(Lane256 left, Lane256 right) => new(left.value + right.value);

    public static Lane256 operator *(Lane256 left, Lane256 right) => new(left.value * right.value);

    public static Lane256 MultiplyAdd(Lane256 left, Lane256 right, Lane256 addend) =>
        new(Vector256.MultiplyAddEstimate(left.value, right.value, addend.value));

    public static Lane256 Round(Lane256 value) => new(Vector256.Round(value.value));

    public static Lane256 Scale(Lane256 value, Lane256 exponent) =>
        new((value.value.AsInt32() + (Vector256.ConvertToInt32Native(exponent.value) << LaneMath.MantissaBits)).AsSingle());

    public static Lane256 WhereLess(Lane256 left, Lane256 right, Lane256 chosen, Lane256 otherwise) =>
        new(Vector256.ConditionalSelect(Vector256.LessThan(left.value, right.value), chosen.value, otherwise.value));

    public static Lane256 KeepNaN(Lane256 value, Lane256 otherwise) =>
        new(Vector256.ConditionalSelect(Vector256.Equals(value.value, value.value), otherwise.value, value.value));

    public static float Sum(Lane256 value) => Vector256.Sum(value.value);
}

internal readonly unsafe struct Lane128(Vector128<float> value) : ILane<Lane128>
{
    private readonly Vector128<float> value = value;

    public static int Count => Vector128<float>.Count;

    public static Lane128 Zero => new(Vector128<float>.Zero);

    public static Lane128 Broadcast(float value) => new(Vector128.Create(value));

    public static Lane128 Load(float* source) => new(Vector128.Load(source));

    public static void Store(Lane128 value, float* target) => value.value.Store(target);

    public static Lane128 operator +(Lane128 left, Lane128 right) => new(left.value + right.value);

    public static Lane128 operator *(Lane128 left, Lane128 right) => new(left.value * right.value);

    public static Lane128 MultiplyAdd(Lane128 left, Lane128 right, Lane128 addend) =>
        new(Vector128.MultiplyAddEstimate(left.value, right.value, addend.value));

    public static Lane128 Round(Lane128 value) => new(Vector128.Round(value.value));

    public static Lane128 Scale(Lane128 value, Lane128 exponent) =>
        new((value.value.AsInt32() + (Vector128.ConvertToInt32Native(exponent.value) << LaneMath.MantissaBits)).AsSingle());

    public static Lane128 WhereLess(Lane128 left, Lane128 right, Lane128 chosen, Lane128 otherwise) =>
        new(Vector128.ConditionalSelect(Vector128.LessThan(left.value, right.value), chosen.value, otherwise.value));

    public static Lane128 KeepNaN(Lane128 value, Lane128 otherwise) =>
        new(Vector128.ConditionalSelect(Vector128.Equals(value.value, value.value), otherwise.value, value.value));

    public static float Sum(Lane128 value) => Vector128.Sum(value.value);
}

/// <summary>Functions of registers.</summary>
internal static class LaneMath
{
    public const int MantissaBits = 23;

    private const float Log2E = 1.44269504f;
    private const float Ln2High = 0.693359375f;
    private const float Ln2Low = -2.12194440e-4f;

    /// <summary>Below this the result is no normal float32 any more: 0.</summary>
    private const float Lowest = -87.33654f;

    /// <summary>Above this the result does not fit float32: infinity.</summary>
    private const float Highest = 88.72283f;

    /// <summary>
    /// exp(x) = 2^n exp(r) with n = round(x / ln 2) and |r| at most ln(2) / 2, where the Taylor polynomial of degree 6 is off by less than
    /// r^7 / 7! = 1.2e-7 of the value. ln 2 is split in two so that n ln 2 is exact to more than float32.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLane Exp<TLane>(TLane x)
        where TLane : struct, ILane<TLane>
    {
        var n = TLane.Round(x * TLane.Broadcast(Log2E));
        var r = TLane.MultiplyAdd(n, TLane.Broadcast(-Ln2High), x);
        r = TLane.MultiplyAdd(n, TLane.Broadcast(-Ln2Low), r);
        var p = TLane.MultiplyAdd(r, TLane.Broadcast(1f / 720), TLane.Broadcast(1f / 120));
        p = TLane.MultiplyAdd(p, r, TLane.Broadcast(1f / 24));
        p = TLane.MultiplyAdd(p, r, TLane.Broadcast(1f / 6));
        p = TLane.MultiplyAdd(p, r, TLane.Broadcast(0.5f));
        p = TLane.MultiplyAdd(p, r, TLane.Broadcast(1));
        p = TLane.MultiplyAdd(p, r, TLane.Broadcast(1));
        var scaled = TLane.WhereLess(x, TLane.Broadcast(Lowest), TLane.Zero, TLane.Scale(p, n));
        scaled = TLane.WhereLess(TLane.Broadcast(Highest), x, TLane.Broadcast(float.PositiveInfinity), scaled);
        return TLane.KeepNaN(x, scaled);
    }
}
