using System.Globalization;

namespace Tomlyn;

public enum TomlDateTimeKind
{
    OffsetDateTimeByZ = 0,
    OffsetDateTimeByNumber = 1,
    LocalDateTime = 2,
    LocalDate = 3,
    LocalTime = 4,
}

// Of a local kind only DateTime.DateTime (LocalDateTime, LocalDate) or its TimeOfDay (LocalTime) means anything.
public record struct TomlDateTime(DateTimeOffset DateTime, int SecondPrecision, TomlDateTimeKind Kind) : IConvertible
{
    public override string ToString() => ToText(CultureInfo.InvariantCulture);

    private readonly string ToText(IFormatProvider? provider)
    {
        string fraction = SecondPrecision == 0 ? "" : "." + new string('f', Math.Min(SecondPrecision, 7));
        string format = Kind switch
        {
            TomlDateTimeKind.LocalDate => "yyyy-MM-dd",
            TomlDateTimeKind.LocalTime => $"HH:mm:ss{fraction}",
            TomlDateTimeKind.LocalDateTime => $"yyyy-MM-dd'T'HH:mm:ss{fraction}",
            TomlDateTimeKind.OffsetDateTimeByNumber => $"yyyy-MM-dd'T'HH:mm:ss{fraction}zzz",
            _ => $"yyyy-MM-dd'T'HH:mm:ss{fraction}Z",
        };
        DateTimeOffset time = Kind == TomlDateTimeKind.OffsetDateTimeByZ ? DateTime.ToUniversalTime() : DateTime;
        return time.ToString(format, provider);
    }

    readonly TypeCode IConvertible.GetTypeCode() => TypeCode.Object;
    readonly string IConvertible.ToString(IFormatProvider? provider) => ToText(provider);
    readonly DateTime IConvertible.ToDateTime(IFormatProvider? provider) => DateTime.DateTime;

    readonly object IConvertible.ToType(Type conversionType, IFormatProvider? provider)
    {
        if (conversionType == typeof(DateTime))
        {
            return DateTime.DateTime;
        }

        if (conversionType == typeof(DateTimeOffset))
        {
            return DateTime;
        }

        if (conversionType == typeof(DateOnly))
        {
            return DateOnly.FromDateTime(DateTime.DateTime);
        }

        return conversionType == typeof(TimeOnly)
            ? TimeOnly.FromDateTime(DateTime.DateTime)
            : throw new InvalidCastException($"TomlDateTime: cannot be converted to {conversionType}.");
    }

    readonly bool IConvertible.ToBoolean(IFormatProvider? provider) => throw new NotSupportedException();
    readonly byte IConvertible.ToByte(IFormatProvider? provider) => throw new NotSupportedException();
    readonly char IConvertible.ToChar(IFormatProvider? provider) => throw new NotSupportedException();
    readonly decimal IConvertible.ToDecimal(IFormatProvider? provider) => throw new NotSupportedException();
    readonly double IConvertible.ToDouble(IFormatProvider? provider) => throw new NotSupportedException();
    readonly short IConvertible.ToInt16(IFormatProvider? provider) => throw new NotSupportedException();
    readonly int IConvertible.ToInt32(IFormatProvider? provider) => throw new NotSupportedException();
    readonly long IConvertible.ToInt64(IFormatProvider? provider) => throw new NotSupportedException();
    readonly sbyte IConvertible.ToSByte(IFormatProvider? provider) => throw new NotSupportedException();
    readonly float IConvertible.ToSingle(IFormatProvider? provider) => throw new NotSupportedException();
    readonly ushort IConvertible.ToUInt16(IFormatProvider? provider) => throw new NotSupportedException();
    readonly uint IConvertible.ToUInt32(IFormatProvider? provider) => throw new NotSupportedException();
    readonly ulong IConvertible.ToUInt64(IFormatProvider? provider) => throw new NotSupportedException();
}
