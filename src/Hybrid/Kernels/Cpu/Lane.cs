using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

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

    /// <summary>bfloat16 values, which are the upper halves of float32 ones.</summary>
    static abstract TSelf LoadBFloat16(ushort* source);

    static abstract void Store(TSelf value, float* target);

    static abstract TSelf operator +(TSelf left, TSelf right);

    static abstract TSelf operator -(TSelf left, TSelf right);

    static abstract TSelf operator *(TSelf left, TSelf right);

    static abstract TSelf operator /(TSelf left, TSelf right);

    /// <summary>left * right + addend, rounded once where the processor can.</summary>
    static abstract TSelf MultiplyAdd(TSelf left, TSelf right, TSelf addend);

    static abstract TSelf Round(TSelf value);

    static abstract TSelf Sqrt(TSelf value);

    /// <summary>
    /// value * 2^exponent for a value between 0.5 and 2 and a whole exponent, be it infinite. What is below normal numbers may be 0, and what is
    /// above 2^127 may be infinity; NaN stays NaN.
    /// </summary>
    static abstract TSelf Scale(TSelf value, TSelf exponent);

    /// <summary>The greater of a limit, which is a number, and a value; NaN where the value is.</summary>
    static abstract TSelf AtLeast(TSelf limit, TSelf value);

    /// <summary>The lesser of a limit, which is a number, and a value; NaN where the value is.</summary>
    static abstract TSelf AtMost(TSelf limit, TSelf value);

    /// <summary>chosen where left &lt; right, else otherwise; false for NaN.</summary>
    static abstract TSelf WhereLess(TSelf left, TSelf right, TSelf chosen, TSelf otherwise);

    static abstract float Sum(TSelf value);
}

internal readonly unsafe struct Lane512(Vector512<float> value) : ILane<Lane512>
{
    private readonly Vector512<float> value = value;

    public static int Count => Vector512<float>.Count;

    public static Lane512 Zero => new(Vector512<float>.Zero);

    public static Lane512 Broadcast(float value) => new(Vector512.Create(value));

    public static Lane512 Load(float* source) => new(Vector512.Load(source));

    public static Lane512 LoadBFloat16(ushort* source) =>
        new((Vector512.WidenLower(Vector512.Create(Vector256.Load(source), Vector256<ushort>.Zero)) << BFloat16.Shift).AsSingle());

    public static void Store(Lane512 value, float* target) => value.value.Store(target);

    public static Lane512 operator +(Lane512 left, Lane512 right) => new(left.value + right.value);

    public static Lane512 operator -(Lane512 left, Lane512 right) => new(left.value - right.value);

    public static Lane512 operator *(Lane512 left, Lane512 right) => new(left.value * right.value);

    public static Lane512 operator /(Lane512 left, Lane512 right) => new(left.value / right.value);

    public static Lane512 MultiplyAdd(Lane512 left, Lane512 right, Lane512 addend) =>
        new(Vector512.MultiplyAddEstimate(left.value, right.value, addend.value));

    public static Lane512 Round(Lane512 value) => new(Vector512.Round(value.value));

    public static Lane512 Sqrt(Lane512 value) => new(Vector512.Sqrt(value.value));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lane512 Scale(Lane512 value, Lane512 exponent)
    {
        if (Avx512F.IsSupported)
        {
            return new(Avx512F.Scale(value.value, exponent.value));
        }

        // Added to the exponent bits, which holds for normal results; NaN passes, since its exponent fails both comparisons.
        var scaled = (value.value.AsInt32() + (Vector512.ConvertToInt32Native(exponent.value) << LaneMath.MantissaBits)).AsSingle();
        scaled = Vector512.ConditionalSelect(Vector512.LessThan(exponent.value, Vector512.Create(LaneMath.LowestExponent)), Vector512<float>.Zero, scaled);
        return new(Vector512.ConditionalSelect(
            Vector512.GreaterThan(exponent.value, Vector512.Create(LaneMath.HighestExponent)), Vector512.Create(float.PositiveInfinity), scaled));
    }

    public static Lane512 AtLeast(Lane512 limit, Lane512 value) => new(Vector512.ConditionalSelect(Vector512.LessThan(value.value, limit.value), limit.value, value.value));

    public static Lane512 AtMost(Lane512 limit, Lane512 value) => new(Vector512.ConditionalSelect(Vector512.GreaterThan(value.value, limit.value), limit.value, value.value));

    public static Lane512 WhereLess(Lane512 left, Lane512 right, Lane512 chosen, Lane512 otherwise) =>
        new(Vector512.ConditionalSelect(Vector512.LessThan(left.value, right.value), chosen.value, otherwise.value));

    public static float Sum(Lane512 value) => Vector512.Sum(value.value);
}

internal readonly unsafe struct Lane256(Vector256<float> value) : ILane<Lane256>
{
    private readonly Vector256<float> value = value;

    public static int Count => Vector256<float>.Count;

    public static Lane256 Zero => new(Vector256<float>.Zero);

    public static Lane256 Broadcast(float value) => new(Vector256.Create(value));

    public static Lane256 Load(float* source) => new(Vector256.Load(source));

    public static Lane256 LoadBFloat16(ushort* source) =>
        new((Vector256.WidenLower(Vector256.Create(Vector128.Load(source), Vector128<ushort>.Zero)) << BFloat16.Shift).AsSingle());

    public static void Store(Lane256 value, float* target) => value.value.Store(target);

    public static Lane256 operator +(Lane256 left, Lane256 right) => new(left.value + right.value);

    public static Lane256 operator -(Lane256 left, Lane256 right) => new(left.value - right.value);

    public static Lane256 operator *(Lane256 left, Lane256 right) => new(left.value * right.value);

    public static Lane256 operator /(Lane256 left, Lane256 right) => new(left.value / right.value);

    public static Lane256 MultiplyAdd(Lane256 left, Lane256 right, Lane256 addend) =>
        new(Vector256.MultiplyAddEstimate(left.value, right.value, addend.value));

    public static Lane256 Round(Lane256 value) => new(Vector256.Round(value.value));

    public static Lane256 Sqrt(Lane256 value) => new(Vector256.Sqrt(value.value));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lane256 Scale(Lane256 value, Lane256 exponent)
    {
        // Added to the exponent bits, which holds for normal results; NaN passes, since its exponent fails both comparisons.
        var scaled = (value.value.AsInt32() + (Vector256.ConvertToInt32Native(exponent.value) << LaneMath.MantissaBits)).AsSingle();
        scaled = Vector256.ConditionalSelect(Vector256.LessThan(exponent.value, Vector256.Create(LaneMath.LowestExponent)), Vector256<float>.Zero, scaled);
        return new(Vector256.ConditionalSelect(
            Vector256.GreaterThan(exponent.value, Vector256.Create(LaneMath.HighestExponent)), Vector256.Create(float.PositiveInfinity), scaled));
    }

    public static Lane256 AtLeast(Lane256 limit, Lane256 value) => new(Vector256.ConditionalSelect(Vector256.LessThan(value.value, limit.value), limit.value, value.value));

    public static Lane256 AtMost(Lane256 limit, Lane256 value) => new(Vector256.ConditionalSelect(Vector256.GreaterThan(value.value, limit.value), limit.value, value.value));

    public static Lane256 WhereLess(Lane256 left, Lane256 right, Lane256 chosen, Lane256 otherwise) =>
        new(Vector256.ConditionalSelect(Vector256.LessThan(left.value, right.value), chosen.value, otherwise.value));

    public static float Sum(Lane256 value) => Vector256.Sum(value.value);
}

internal readonly unsafe struct Lane128(Vector128<float> value) : ILane<Lane128>
{
    private readonly Vector128<float> value = value;

    public static int Count => Vector128<float>.Count;

    public static Lane128 Zero => new(Vector128<float>.Zero);

    public static Lane128 Broadcast(float value) => new(Vector128.Create(value));

    public static Lane128 Load(float* source) => new(Vector128.Load(source));

    public static Lane128 LoadBFloat16(ushort* source) =>
        new((Vector128.WidenLower(Vector128.Create(Vector64.Load(source), Vector64<ushort>.Zero)) << BFloat16.Shift).AsSingle());

    public static void Store(Lane128 value, float* target) => value.value.Store(target);

    public static Lane128 operator +(Lane128 left, Lane128 right) => new(left.value + right.value);

    public static Lane128 operator -(Lane128 left, Lane128 right) => new(left.value - right.value);

    public static Lane128 operator *(Lane128 left, Lane128 right) => new(left.value * right.value);

    public static Lane128 operator /(Lane128 left, Lane128 right) => new(left.value / right.value);

    public static Lane128 MultiplyAdd(Lane128 left, Lane128 right, Lane128 addend) =>
        new(Vector128.MultiplyAddEstimate(left.value, right.value, addend.value));

    public static Lane128 Round(Lane128 value) => new(Vector128.Round(value.value));

    public static Lane128 Sqrt(Lane128 value) => new(Vector128.Sqrt(value.value));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lane128 Scale(Lane128 value, Lane128 exponent)
    {
        // Added to the exponent bits, which holds for normal results; NaN passes, since its exponent fails both comparisons.
        var scaled = (value.value.AsInt32() + (Vector128.ConvertToInt32Native(exponent.value) << LaneMath.MantissaBits)).AsSingle();
        scaled = Vector128.ConditionalSelect(Vector128.LessThan(exponent.value, Vector128.Create(LaneMath.LowestExponent)), Vector128<float>.Zero, scaled);
        return new(Vector128.ConditionalSelect(
            Vector128.GreaterThan(exponent.value, Vector128.Create(LaneMath.HighestExponent)), Vector128.Create(float.PositiveInfinity), scaled));
    }

    public static Lane128 AtLeast(Lane128 limit, Lane128 value) => new(Vector128.ConditionalSelect(Vector128.LessThan(value.value, limit.value), limit.value, value.value));

    public static Lane128 AtMost(Lane128 limit, Lane128 value) => new(Vector128.ConditionalSelect(Vector128.GreaterThan(value.value, limit.value), limit.value, value.value));

    public static Lane128 WhereLess(Lane128 left, Lane128 right, Lane128 chosen, Lane128 otherwise) =>
        new(Vector128.ConditionalSelect(Vector128.LessThan(left.value, right.value), chosen.value, otherwise.value));

    public static float Sum(Lane128 value) => Vector128.Sum(value.value);
}
