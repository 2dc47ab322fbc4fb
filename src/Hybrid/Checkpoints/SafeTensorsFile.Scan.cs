using System.Numerics;
using static TorchSharp.torch;

namespace Hybrid.Checkpoints;

/// <content>Looking for numbers that are none.</content>
public sealed partial class SafeTensorsFile
{
    /// <summary>
    /// Counts the elements of a tensor that are NaN or infinite, in the mapped file and without making a tensor: what a checkpoint of a run
    /// that diverged has.
    /// </summary>
    /// <param name="name">Name of the tensor.</param>
    /// <returns>Their number; 0 for whole numbers and booleans.</returns>
    /// <exception cref="KeyNotFoundException">There is no tensor of this name.</exception>
    /// <exception cref="InvalidDataException">The file was cut after it was opened.</exception>
    public unsafe long CountNonFinite(string name)
    {
        var entry = Entry(name);
        RequireUncut();
        var count = 0L;
        Use(dataStart + entry.Begin, address => count = entry.Type switch
        {
            ScalarType.Float16 => Count(address, entry.ByteSize, (ushort)0x7c00),
            ScalarType.BFloat16 => Count(address, entry.ByteSize, (ushort)0x7f80),
            ScalarType.Float32 => Count(address, entry.ByteSize, 0x7f80_0000u),
            ScalarType.Float64 => Count(address, entry.ByteSize, 0x7ff0_0000_0000_0000ul),
            _ => 0,
        });
        return count;
    }

    /// <summary>Numbers whose exponent has all bits set. A tensor may begin at any byte of the file.</summary>
    private static unsafe long Count<T>(byte* address, long byteSize, T exponent)
        where T : unmanaged, IBinaryInteger<T>
    {
        var count = 0L;
        for (var place = 0L; place < byteSize; place += sizeof(T))
        {
            count += (System.Runtime.CompilerServices.Unsafe.ReadUnaligned<T>(address + place) & exponent) == exponent ? 1 : 0;
        }

        return count;
    }
}
