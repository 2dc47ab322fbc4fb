using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;

namespace TorchSharp.Native;

/// <summary>
/// One argument of an operator. It converts from everything an operator takes; <c>default</c> stands for the default of the
/// operator's schema. Lists are not copied: <see cref="Op"/> pins them for the call.
/// </summary>
internal readonly unsafe ref struct Arg
{
    /// <summary>What must outlive the call.</summary>
    public readonly object? Owner;

    private readonly ref readonly byte list;
    private readonly long bits;
    private readonly Tag tag;
    private readonly int count;

    private Arg(Tag tag, long bits, object? owner = null)
    {
        this.tag = tag;
        this.bits = bits;
        Owner = owner;
    }

    private Arg(Tag tag, ref readonly byte list, int count, object? owner = null)
    {
        this.tag = tag;
        this.list = ref list;
        this.count = count;
        Owner = owner;
    }

    public static Arg None => new(Tag.None, 0);

    public ref readonly byte GetPinnableReference() => ref list;

    /// <summary>The form that crosses the boundary, given where the list is pinned.</summary>
    public Value At(byte* pinned) => new() { Tag = tag, Count = count, Integer = tag >= Tag.Complex ? (long)pinned : bits };

    public static implicit operator Arg(torch.Tensor? tensor) => tensor is null ? None : new(Tag.Tensor, tensor.Handle, tensor);
    public static implicit operator Arg(long value) => new(Tag.Int, value);
    public static implicit operator Arg(long? value) => value is { } number ? number : None;
    public static implicit operator Arg(double value) => new(Tag.Double, BitConverter.DoubleToInt64Bits(value));
    public static implicit operator Arg(double? value) => value is { } number ? number : None;
    public static implicit operator Arg(bool value) => new(Tag.Bool, value ? 1 : 0);
    public static implicit operator Arg(bool? value) => value is { } flag ? flag : None;
    public static implicit operator Arg(torch.ScalarType type) => new(Tag.Int, (long)type);
    public static implicit operator Arg(torch.ScalarType? type) => type is { } known ? known : None;
    public static implicit operator Arg(torch.Device? device) => device is null ? None : new(Tag.Device, device.Packed);

    public static implicit operator Arg(torch.Generator? generator) =>
        generator is null ? None : new(Tag.Generator, generator.Handle, generator);

    public static implicit operator Arg(Scalar? scalar) => scalar is null ? None : scalar.Kind switch
    {
        Tag.Complex => new Arg(Tag.Complex, ref As(scalar.Parts), 2),
        Tag.Double => scalar.Real,
        _ => new Arg(scalar.Kind, scalar.Integer),
    };

    public static implicit operator Arg(string? text)
    {
        if (text is null) return None;
        var bytes = Encoding.UTF8.GetBytes(text);
        return new Arg(Tag.String, ref MemoryMarshal.GetArrayDataReference(bytes), bytes.Length);
    }

    public static implicit operator Arg(long[]? list) => list is null ? None : Ints(list);
    public static implicit operator Arg(ReadOnlySpan<long> list) => Ints(list);
    public static implicit operator Arg(torch.Tensor[] list) => Tensors(list);

    public static Arg Ints(ReadOnlySpan<long> list) =>
        new(Tag.IntList, ref Unsafe.As<long, byte>(ref MemoryMarshal.GetReference(list)), list.Length);

    public static Arg Tensors(IEnumerable<torch.Tensor> tensors)
    {
        var owner = tensors as torch.Tensor[] ?? tensors.ToArray();
        return new Arg(Tag.TensorList, ref As(Handles.Of(owner)), owner.Length, owner);
    }

    /// <summary>Tensors of which some may be absent.</summary>
    public static Arg OptionalTensors(torch.Tensor?[] tensors) =>
        new(Tag.OptionalTensorList, ref As(Handles.Of(tensors)), tensors.Length, tensors);

    private static ref byte As<T>(T[] array) => ref Unsafe.As<T, byte>(ref MemoryMarshal.GetArrayDataReference(array));
}

internal static class Handles
{
    /// <summary>The native handles of some tensors, 0 for an absent one. The tensors must outlive their use.</summary>
    public static nint[] Of(IEnumerable<torch.Tensor?> tensors) => tensors.Select(tensor => tensor is null ? 0 : tensor.Handle).ToArray();
}
