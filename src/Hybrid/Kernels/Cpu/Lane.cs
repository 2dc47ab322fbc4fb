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

    static abstract TSelf Exp(TSelf x);

    static abstract float Sum(TSelf value);
}

internal readonly unsafe struct Lane512(Vector512<float> value) : ILane<Lane512>
{
    private readonly Vector512<float> value = value;

    public static int Count => 16;

    public static Lane512 Zero => new(Vector512<float>.Zero);

    public static Lane512 Broadcast(float value) => new(Vector512.Create(value));

    public static Lane512 Load(float* source) => new(Vector512.Load(source));

    public static void Store(Lane512 value, float* target) => value.value.Store(target);

    public static Lane512 operator +(Lane512 left, Lane512 right) => new(left.value + right.value);

    public static Lane512 operator *(Lane512 left, Lane512 right) => new(left.value * right.value);

    public static Lane512 MultiplyAdd(Lane512 left, Lane512 right, Lane512 addend) =>
        new(Vector512.MultiplyAddEstimate(left.value, right.value, addend.value));

    public static float Sum(Lane512 value) => Vector512.Sum(value.value);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lane512 Exp(Lane512 argument)
    {
        var x = argument.value;
        var n = Vector512.Round(x * ExpConstants.Log2E);
        var r = Vector512.MultiplyAddEstimate(n, Vector512.Create(-ExpConstants.Ln2High), x);
        r = Vector512.MultiplyAddEstimate(n, Vector512.Create(-ExpConstants.Ln2Low), r);
        var p = Vector512.MultiplyAddEstimate(r, Vector512.Create(ExpConstants.C6), Vector512.Create(ExpConstants.C5));
        p = Vector512.MultiplyAddEstimate(p, r, Vector512.Create(ExpConstants.C4));
        p = Vector512.MultiplyAddEstimate(p, r, Vector512.Create(ExpConstants.C3));
        p = Vector512.MultiplyAddEstimate(p, r, Vector512.Create(ExpConstants.C2));
        p = Vector512.MultiplyAddEstimate(p, r, Vector512<float>.One);
        p = Vector512.MultiplyAddEstimate(p, r, Vector512<float>.One);
        var scaled = (p.AsInt32() + (Vector512.ConvertToInt32Native(n) << 23)).AsSingle();
        scaled = Vector512.ConditionalSelect(Vector512.LessThan(x, Vector512.Create(ExpConstants.Lowest)), Vector512<float>.Zero, scaled);
        scaled = Vector512.ConditionalSelect(
            Vector512.GreaterThan(x, Vector512.Create(ExpConstants.Highest)), Vector512.Create(float.PositiveInfinity), scaled);
        return new(Vector512.ConditionalSelect(Vector512.Equals(x, x), scaled, x));
    }
}

internal readonly unsafe struct Lane256(Vector256<float> value) : ILane<Lane256>
{
    private readonly Vector256<float> value = value;

    public static int Count => 8;

    public static Lane256 Zero => new(Vector256<float>.Zero);

    public static Lane256 Broadcast(float value) => new(Vector256.Create(value));

    public static Lane256 Load(float* source) => new(Vector256.Load(source));

    public static void Store(Lane256 value, float* target) => value.value.Store(target);

    public static Lane256 operator +(Lane256 left, Lane256 right) => new(left.value + right.value);

    public static Lane256 operator *(Lane256 left, Lane256 right) => new(left.value * right.value);

    public static Lane256 MultiplyAdd(Lane256 left, Lane256 right, Lane256 addend) =>
        new(Vector256.MultiplyAddEstimate(left.value, right.value, addend.value));

    public static float Sum(Lane256 value) => Vector256.Sum(value.value);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lane256 Exp(Lane256 argument)
    {
        var x = argument.value;
        var n = Vector256.Round(x * ExpConstants.Log2E);
        var r = Vector256.MultiplyAddEstimate(n, Vector256.Create(-ExpConstants.Ln2High), x);
        r = Vector256.MultiplyAddEstimate(n, Vector256.Create(-ExpConstants.Ln2Low), r);
        var p = Vector256.MultiplyAddEstimate(r, Vector256.Create(ExpConstants.C6), Vector256.Create(ExpConstants.C5));
        p = Vector256.MultiplyAddEstimate(p, r, Vector256.Create(ExpConstants.C4));
        p = Vector256.MultiplyAddEstimate(p, r, Vector256.Create(ExpConstants.C3));
        p = Vector256.MultiplyAddEstimate(p, r, Vector256.Create(ExpConstants.C2));
        p = Vector256.MultiplyAddEstimate(p, r, Vector256<float>.One);
        p = Vector256.MultiplyAddEstimate(p, r, Vector256<float>.One);
        var scaled = (p.AsInt32() + (Vector256.ConvertToInt32Native(n) << 23)).AsSingle();
        scaled = Vector256.ConditionalSelect(Vector256.LessThan(x, Vector256.Create(ExpConstants.Lowest)), Vector256<float>.Zero, scaled);
        scaled = Vector256.ConditionalSelect(
            Vector256.GreaterThan(x, Vector256.Create(ExpConstants.Highest)), Vector256.Create(float.PositiveInfinity), scaled);
        return new(Vector256.ConditionalSelect(Vector256.Equals(x, x), scaled, x));
    }
}

internal readonly unsafe struct Lane128(Vector128<float> value) : ILane<Lane128>
{
    private readonly Vector128<float> value = value;

    public static int Count => 4;

    public static Lane128 Zero => new(Vector128<float>.Zero);

    public static Lane128 Broadcast(float value) => new(Vector128.Create(value));

    public static Lane128 Load(float* source) => new(Vector128.Load(source));

    public static void Store(Lane128 value, float* target) => value.value.Store(target);

    public static Lane128 operator +(Lane128 left, Lane128 right) => new(left.value + right.value);

    public static Lane128 operator *(Lane128 left, Lane128 right) => new(left.value * right.value);

    public static Lane128 MultiplyAdd(Lane128 left, Lane128 right, Lane128 addend) =>
        new(Vector128.MultiplyAddEstimate(left.value, right.value, addend.value));

    public static float Sum(Lane128 value) => Vector128.Sum(value.value);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lane128 Exp(Lane128 argument)
    {
        var x = argument.value;
        var n = Vector128.Round(x * ExpConstants.Log2E);
        var r = Vector128.MultiplyAddEstimate(n, Vector128.Create(-ExpConstants.Ln2High), x);
        r = Vector128.MultiplyAddEstimate(n, Vector128.Create(-ExpConstants.Ln2Low), r);
        var p = Vector128.MultiplyAddEstimate(r, Vector128.Create(ExpConstants.C6), Vector128.Create(ExpConstants.C5));
        p = Vector128.MultiplyAddEstimate(p, r, Vector128.Create(ExpConstants.C4));
        p = Vector128.MultiplyAddEstimate(p, r, Vector128.Create(ExpConstants.C3));
        p = Vector128.MultiplyAddEstimate(p, r, Vector128.Create(ExpConstants.C2));
        p = Vector128.MultiplyAddEstimate(p, r, Vector128<float>.One);
        p = Vector128.MultiplyAddEstimate(p, r, Vector128<float>.One);
        var scaled = (p.AsInt32() + (Vector128.ConvertToInt32Native(n) << 23)).AsSingle();
        scaled = Vector128.ConditionalSelect(Vector128.LessThan(x, Vector128.Create(ExpConstants.Lowest)), Vector128<float>.Zero, scaled);
        scaled = Vector128.ConditionalSelect(
            Vector128.GreaterThan(x, Vector128.Create(ExpConstants.Highest)), Vector128.Create(float.PositiveInfinity), scaled);
        return new(Vector128.ConditionalSelect(Vector128.Equals(x, x), scaled, x));
    }
}

/// <summary>
/// exp(x) = 2^n exp(r) with n = round(x / ln 2) and |r| at most ln(2) / 2, where the Taylor polynomial of degree 6 is off by less than
/// r^7 / 7! = 1.2e-7 of the value. ln 2 is split in two so that n ln 2 is exact to more than float32.
/// </summary>
internal static class ExpConstants
{
    public const float Log2E = 1.44269504f;
    public const float Ln2High = 0.693359375f;
    public const float Ln2Low = -2.12194440e-4f;
    public const float C2 = 0.5f;
    public const float C3 = 0.16666667f;
    public const float C4 = 0.041666667f;
    public const float C5 = 0.0083333333f;
    public const float C6 = 0.0013888889f;

    /// <summary>Below this the result is no normal float32 any more: 0.</summary>
    public const float Lowest = -87.33654f;

    /// <summary>Above this the result does not fit float32: infinity.</summary>
    public const float Highest = 88.72283f;
}
