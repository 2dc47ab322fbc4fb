using System.Buffers.Binary;
using System.IO.MemoryMappedFiles;
using Hybrid.Kernels.Cpu;
using Microsoft.Win32.SafeHandles;
using static TorchSharp.torch;

namespace Hybrid.Checkpoints;

/// <summary>
/// A file of named tensors in the safetensors format (https://github.com/huggingface/safetensors): 8 bytes with the length of the
/// header, little-endian; the header, which is JSON; the data. The header is checked when the file is opened; a tensor is read when it
/// is asked for, straight into its own memory: pages of a mapping would count as memory of the process beside it.
/// </summary>
/// <remarks>Several threads may read from one file.</remarks>
public sealed partial class SafeTensorsFile : IDisposable
{
    private const int PrefixLength = 8;
    private const int MaxHeaderLength = 100_000_000;
    private readonly string path;
    private readonly long dataStart;
    private readonly long length;
    private readonly SafeFileHandle handle;
    private readonly MemoryMappedFile mapping;
    private readonly MemoryMappedViewAccessor view;
    private readonly SafeTensorsHeader header;

    private unsafe SafeTensorsFile(string path, SafeFileHandle handle)
    {
        this.path = path;
        this.handle = handle;
        length = RandomAccess.GetLength(handle);
        var headerLength = ReadHeaderLength();
        dataStart = PrefixLength + headerLength;
        mapping = MemoryMappedFile.CreateFromFile(
            handle, null, 0, MemoryMappedFileAccess.Read, HandleInheritability.None, leaveOpen: true);
        try
        {
            view = mapping.CreateViewAccessor(0, length, MemoryMappedFileAccess.Read);
            var found = default(SafeTensorsHeader);
            Use(PrefixLength, address => found = SafeTensorsHeaderReader.Read(path, new(address, headerLength), length - dataStart));
            header = found!;
        }
        catch
        {
            view?.Dispose();
            mapping.Dispose();
            throw;
        }
    }

    private unsafe delegate void AddressAction(byte* address);

    /// <summary>Names of the tensors, in the order of the header.</summary>
    public IReadOnlyList<string> Names => header.Names;

    /// <summary>The free text that came along; empty if there was none.</summary>
    public IReadOnlyDictionary<string, string> Metadata => header.Metadata;

    /// <summary>Opens a file and checks its header.</summary>
    /// <param name="path">The file.</param>
    /// <returns>The open file.</returns>
    /// <exception cref="InvalidDataException">The file is not in the format, or holds a dtype that TorchSharp lacks.</exception>
    public static SafeTensorsFile Open(string path)
    {
        var handle = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete);
        try
        {
            return new SafeTensorsFile(path, handle);
        }
        catch
        {
            handle.Dispose();
            throw;
        }
    }

    /// <summary>True where the file has a tensor of this name.</summary>
    /// <param name="name">Name of the tensor.</param>
    /// <returns>Whether it is there.</returns>
    public bool Contains(string name) => header.Entries.ContainsKey(name);

    /// <summary>What the header says of a tensor.</summary>
    /// <param name="name">Name of the tensor.</param>
    /// <returns>Its dtype, shape and size.</returns>
    /// <exception cref="KeyNotFoundException">There is no tensor of this name.</exception>
    public SafeTensorsEntry Entry(string name) =>
        header.Entries.TryGetValue(name, out var entry)
            ? entry
            : throw new KeyNotFoundException($"{path}: there is no tensor '{name}' among the {Names.Count} of the file.");

    /// <summary>Reads a tensor.</summary>
    /// <param name="name">Name of the tensor.</param>
    /// <param name="device">Where it is to be; null means the CPU.</param>
    /// <returns>A new tensor with memory of its own, in the current dispose scope.</returns>
    /// <exception cref="KeyNotFoundException">There is no tensor of this name.</exception>
    /// <exception cref="InvalidDataException">
    /// The file was cut after it was opened, or a BOOL tensor has bytes other than 0 and 1.
    /// </exception>
    public Tensor Read(string name, Device? device = null)
    {
        var entry = Entry(name);
        using var scope = NewDisposeScope();
        var tensor = empty([.. entry.Shape], dtype: entry.Type, device: CPU);
        ReadData(name, entry, tensor);
        return (device is null ? tensor : tensor.to(device)).MoveToOuterDisposeScope();
    }

    /// <summary>Reads a tensor into one that is there, whatever autograd knows of it; on the CPU without a copy in between.</summary>
    /// <param name="name">Name of the tensor.</param>
    /// <param name="target">A tensor of the same dtype and shape, on any device. After an error of reading its values mean nothing.</param>
    /// <exception cref="KeyNotFoundException">There is no tensor of this name.</exception>
    /// <exception cref="ArgumentException">The target has another dtype or shape.</exception>
    /// <exception cref="InvalidDataException">As for <see cref="Read"/>.</exception>
    public void ReadInto(string name, Tensor target)
    {
        var entry = Entry(name);
        var (type, shape) = (target.dtype, target.shape);
        if (type != entry.Type || !shape.SequenceEqual(entry.Shape))
        {
            throw new ArgumentException(
                $"{path}: tensor '{name}': the target must be {entry.Type} [{string.Join(", ", entry.Shape)}]; got {type} [{string.Join(", ", shape)}].",
                nameof(target));
        }

        if (type != ScalarType.Bool && target.device_type == TorchSharp.DeviceType.CPU && target.is_contiguous())
        {
            ReadData(name, entry, target);
            return;
        }

        using var scope = NewDisposeScope();
        using var guard = no_grad();
        target.copy_(Read(name));
    }

    /// <summary>Closes the file. Tensors that were read stay.</summary>
    public void Dispose()
    {
        view.Dispose();
        mapping.Dispose();
        handle.Dispose();
    }

    private int ReadHeaderLength()
    {
        if (length < PrefixLength)
        {
            throw new InvalidDataException($"{path}: a safetensors file has at least {PrefixLength} bytes; found {length}.");
        }

        Span<byte> prefix = stackalloc byte[PrefixLength];
        RandomAccess.Read(handle, prefix, 0);
        var headerLength = BinaryPrimitives.ReadUInt64LittleEndian(prefix);
        var most = (ulong)Math.Min(MaxHeaderLength, length - PrefixLength);
        return headerLength <= most
            ? (int)headerLength
            : throw new InvalidDataException(
                $"{path}: the header must fit into the file's {length} bytes and into {MaxHeaderLength}; found a length of "
                + $"{headerLength}.");
    }

    private unsafe void ReadData(string name, SafeTensorsEntry entry, Tensor tensor)
    {
        const int most = 1 << 30;
        var address = entry.ByteSize == 0 ? null : TensorMemory.Address(tensor);
        for (var done = 0L; done < entry.ByteSize;)
        {
            var rest = new Span<byte>(address + done, (int)Math.Min(most, entry.ByteSize - done));
            var count = RandomAccess.Read(handle, rest, dataStart + entry.Begin + done);
            if (count == 0)
            {
                throw Cut(RandomAccess.GetLength(handle));
            }

            done += count;
        }

        if (entry.Type == ScalarType.Bool)
        {
            CheckBooleans(name, address, entry.ByteSize);
        }

        GC.KeepAlive(tensor);
    }

    // Touching a mapped page that the file no longer has would end the process.
    private void RequireUncut()
    {
        var now = RandomAccess.GetLength(handle);
        if (now < length)
        {
            throw Cut(now);
        }
    }

    private InvalidDataException Cut(long now) =>
        new($"{path}: expected the {length} bytes that the file had when it was opened; found {now}.");

    // Compiled code takes a bool for a byte of 0 or 1 and may do anything with another.
    private unsafe void CheckBooleans(string name, byte* source, long count)
    {
        for (var done = 0L; done < count; done += int.MaxValue)
        {
            var part = new ReadOnlySpan<byte>(source + done, (int)Math.Min(int.MaxValue, count - done));
            var place = part.IndexOfAnyExceptInRange((byte)0, (byte)1);
            if (place >= 0)
            {
                throw new InvalidDataException(
                    $"{path}: tensor '{name}': expected 0 or 1 in a BOOL; found {part[place]} at element {done + place}.");
            }
        }
    }

    // Holds the mapping while it is in use: another thread may dispose the file meanwhile.
    private unsafe void Use(long offset, AddressAction action)
    {
        byte* address = null;
        view.SafeMemoryMappedViewHandle.AcquirePointer(ref address);
        try
        {
            action(address + view.PointerOffset + offset);
        }
        finally
        {
            view.SafeMemoryMappedViewHandle.ReleasePointer();
        }
    }
}
