using System.Numerics;
using TorchSharp.Native;

namespace TorchSharp;

/// <summary>A long, a double, a bool or a complex number; its type is one of those four, whatever it was made from.</summary>
public sealed class Scalar : IDisposable
{
    internal Tag Kind { get; }
    internal long Integer { get; }
    internal double Real { get; }
    internal double[] Parts { get; } = [];

    public torch.ScalarType Type => Kind switch
    {
        Tag.Bool => torch.ScalarType.Bool,
        Tag.Int => torch.ScalarType.Int64,
        Tag.Complex => torch.ScalarType.ComplexFloat64,
        _ => torch.ScalarType.Float64,
    };

    internal Scalar(bool value)
    {
        Kind = Tag.Bool;
        Integer = value ? 1 : 0;
        Real = Integer;
    }

    internal Scalar(long value)
    {
        Kind = Tag.Int;
        Integer = value;
        Real = value;
    }

    internal Scalar(double value)
    {
        Kind = Tag.Double;
        Integer = double.IsFinite(value) ? (long)value : 0;
        Real = value;
    }

    internal Scalar(Complex value)
    {
        Kind = Tag.Complex;
        Parts = [value.Real, value.Imaginary];
        Real = value.Real;
        Integer = (long)value.Real;
    }

    public static implicit operator Scalar(byte value) => value.ToScalar();
    public static implicit operator Scalar(sbyte value) => value.ToScalar();
    public static implicit operator Scalar(short value) => value.ToScalar();
    public static implicit operator Scalar(int value) => value.ToScalar();
    public static implicit operator Scalar(long value) => value.ToScalar();
    public static implicit operator Scalar(Half value) => value.ToScalar();
    public static implicit operator Scalar(BFloat16 value) => value.ToScalar();
    public static implicit operator Scalar(float value) => value.ToScalar();
    public static implicit operator Scalar(double value) => value.ToScalar();
    public static implicit operator Scalar((float, float) value) => value.ToScalar();
    public static implicit operator Scalar(Complex value) => value.ToScalar();
    public static implicit operator Scalar(bool value) => value.ToScalar();

    public void Dispose() { }
}

public static class ScalarExtensionMethods
{
    public static Scalar ToScalar(this byte value) => new((long)value);
    public static Scalar ToScalar(this sbyte value) => new((long)value);
    public static Scalar ToScalar(this short value) => new((long)value);
    public static Scalar ToScalar(this int value) => new((long)value);
    public static Scalar ToScalar(this long value) => new(value);
    public static Scalar ToScalar(this bool value) => new(value);
    public static Scalar ToScalar(this Half value) => new((double)value);
    public static Scalar ToScalar(this BFloat16 value) => new((double)value);
    public static Scalar ToBFloat16Scalar(this float value) => new((double)(BFloat16)value);
    public static Scalar ToScalar(this float value) => new((double)value);
    public static Scalar ToScalar(this double value) => new(value);
    public static Scalar ToScalar(this (float, float) value) => new(new Complex(value.Item1, value.Item2));
    public static Scalar ToScalar(this Complex value) => new(value);

    public static bool ToBoolean(this Scalar value) => value.Kind == Tag.Double ? value.Real != 0 : value.Integer != 0;
    public static byte ToByte(this Scalar value) => (byte)value.Integer;
    public static sbyte ToSByte(this Scalar value) => (sbyte)value.Integer;
    public static short ToInt16(this Scalar value) => (short)value.Integer;
    public static int ToInt32(this Scalar value) => (int)value.Integer;
    public static long ToInt64(this Scalar value) => value.Integer;
    public static Half ToHalf(this Scalar value) => (Half)value.Real;
    public static BFloat16 ToBFloat16(this Scalar value) => (BFloat16)value.Real;
    public static float ToSingle(this Scalar value) => (float)value.Real;
    public static double ToDouble(this Scalar value) => value.Real;
    public static (float Real, float Imaginary) ToComplexFloat32(this Scalar value) =>
        value.Kind == Tag.Complex ? ((float)value.Parts[0], (float)value.Parts[1]) : ((float)value.Real, 0);
    public static Complex ToComplexFloat64(this Scalar value) =>
        value.Kind == Tag.Complex ? new(value.Parts[0], value.Parts[1]) : new(value.Real, 0);
}
