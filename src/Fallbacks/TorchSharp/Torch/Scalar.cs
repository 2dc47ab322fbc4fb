using System.Numerics;
using TorchSharp.Native;

namespace TorchSharp;

/// <summary>A number with an element type. Natively it is a long, a double, a bool or a complex number.</summary>
public sealed class Scalar : IDisposable
{
    internal Tag Kind { get; }
    internal long Integer { get; }
    internal double Real { get; }
    internal double[] Parts { get; } = [];

    public torch.ScalarType Type { get; }

    internal Scalar(long value, torch.ScalarType type)
    {
        Kind = type == torch.ScalarType.Bool ? Tag.Bool : Tag.Int;
        Integer = value;
        Real = value;
        Type = type;
    }

    internal Scalar(double value, torch.ScalarType type)
    {
        Kind = Tag.Double;
        Integer = double.IsFinite(value) ? (long)value : 0;
        Real = value;
        Type = type;
    }

    internal Scalar(Complex value, torch.ScalarType type)
    {
        Kind = Tag.Complex;
        Parts = [value.Real, value.Imaginary];
        Real = value.Real;
        Integer = (long)value.Real;
        Type = type;
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
    public static Scalar ToScalar(this byte value) => new(value, torch.ScalarType.Byte);
    public static Scalar ToScalar(this sbyte value) => new(value, torch.ScalarType.Int8);
    public static Scalar ToScalar(this short value) => new(value, torch.ScalarType.Int16);
    public static Scalar ToScalar(this int value) => new(value, torch.ScalarType.Int32);
    public static Scalar ToScalar(this long value) => new(value, torch.ScalarType.Int64);
    public static Scalar ToScalar(this bool value) => new(value ? 1L : 0L, torch.ScalarType.Bool);
    public static Scalar ToScalar(this Half value) => new((double)value, torch.ScalarType.Float16);
    public static Scalar ToScalar(this BFloat16 value) => new((double)value, torch.ScalarType.BFloat16);
    public static Scalar ToBFloat16Scalar(this float value) => new((double)(BFloat16)value, torch.ScalarType.BFloat16);
    public static Scalar ToScalar(this float value) => new((double)value, torch.ScalarType.Float32);
    public static Scalar ToScalar(this double value) => new(value, torch.ScalarType.Float64);
    public static Scalar ToScalar(this (float, float) value) => new(new Complex(value.Item1, value.Item2), torch.ScalarType.ComplexFloat32);
    public static Scalar ToScalar(this Complex value) => new(value, torch.ScalarType.ComplexFloat64);

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
