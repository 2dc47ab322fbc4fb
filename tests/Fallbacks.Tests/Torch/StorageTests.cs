using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;

namespace Fallbacks.Tests.Torch;

public unsafe class StorageTests
{
    private sealed class Raw(Tensor tensor) : Storage(tensor)
    {
        public override int element_size() => 2;
    }

    [Fact]
    public void AStorageBeginsBeforeAViewDoes()
    {
        using var scope = NewDisposeScope();
        var x = Expect.Range(4, 3);
        var view = x[2];
        var storage = view.storage<float>();
        Assert.Equal(6, view.storage_offset());
        Assert.Equal(12, storage.Count);
        Assert.Equal(48UL, storage.nbytes());
        var first = (float*)storage.data_ptr() + view.storage_offset();
        Assert.Equal(6f, first[0]);
        first[1] = 70;
        Expect.Values(x[2, 1], 70);
        storage[0] = -1;
        Expect.Values(x[0, 0], -1);
    }

    [Fact]
    public void AStorageOfAnotherTypeIsACopy()
    {
        using var scope = NewDisposeScope();
        var x = tensor(new[] { 1, 2 });
        var storage = x.storage<long>();
        storage.fill_(9);
        Assert.Equal([9L, 9L], storage.ToArray());
        Expect.Values(x, 1, 2);
        Assert.Throws<NotSupportedException>(() => x.storage<short>());
    }

    [Fact]
    public void HalvesAndBFloat16AreReachedThroughADerivedStorage()
    {
        using var scope = NewDisposeScope();
        var halves = tensor(new[] { 1.5f, -2f }).half();
        var raw = new Raw(halves);
        Assert.Equal(4UL, raw.nbytes());
        var pointer = (Half*)raw.data_ptr();
        Assert.Equal((Half)1.5, pointer[0]);
        pointer[1] = (Half)3;
        Expect.Values(halves, 1.5, 3);

        var brain = tensor(new[] { 1.5f, -2f }).bfloat16();
        var bits = (ushort*)new Raw(brain).data_ptr();
        Assert.Equal(0x3FC0, bits[0]);
        Assert.Equal(0xC000, bits[1]);
        bits[0] = 0x4040;
        Expect.Values(brain, 3, -2);
    }

    [Fact]
    public void BytesAreTheMemoryOfAContiguousTensor()
    {
        using var scope = NewDisposeScope();
        var x = tensor(new[] { 1, 2, 3 });
        Assert.Equal([1, 2, 3], MemoryMarshal.Cast<byte, int>(x.bytes).ToArray());
        MemoryMarshal.Cast<byte, int>(x.bytes)[1] = 20;
        Expect.Values(x, 1, 20, 3);
        x.bytes = MemoryMarshal.AsBytes(new[] { 4, 5, 6 }.AsSpan());
        Expect.Values(x, 4, 5, 6);
        Assert.Throws<ArgumentException>(() => x.bytes = new byte[5]);
        Assert.Throws<InvalidOperationException>(() => ones(2, 3).t().bytes.Length);
    }

    [Fact]
    public void DataReadsAndWritesThroughStrides()
    {
        using var scope = NewDisposeScope();
        var x = Expect.Range(2, 3);
        var data = x.t().data<float>();
        Assert.Equal(6, data.Count);
        Assert.Equal([0f, 3f, 1f, 4f, 2f, 5f], data.ToArray());
        Assert.Equal(4f, data[1, 1]);
        data[2, 0] = 20;
        Expect.Values(x[0, 2], 20);
        Assert.Equal(data.ToArray(), data.AsEnumerable());
        Assert.Equal(3f, x.data<float>()[3]);
        data.CopyFrom([9f, 8f]);
        Expect.Values(x, 9, 1, 20, 8, 4, 5);
        Assert.Equal(1f, ((float[,])x.data<float>().ToNDArray())[0, 1]);
        Assert.Throws<ArgumentException>(() => x.data<double>());
        Assert.Throws<IndexOutOfRangeException>(() => data[3, 0]);
    }

    [Fact]
    public void ItemsNeedTheRightType()
    {
        using var scope = NewDisposeScope();
        Assert.Equal(2.5f, full(1, 1, 2.5f).item<float>());
        Assert.Equal(3L, tensor(3L).item<long>());
        Assert.Equal((BFloat16)2f, ones(1, dtype: bfloat16).mul(2).item<BFloat16>());
        Assert.Equal((Half)2, ones(1, dtype: float16).mul(2).item<Half>());
        Assert.Throws<ArgumentException>(() => tensor(3L).item<int>());
        Assert.Throws<ArgumentException>(() => ones(2).item<float>());
    }

    [Theory]
    [InlineData(1f, 0x3F80)]
    [InlineData(-2.5f, 0xC020)]
    [InlineData(1.00390625f, 0x3F80)] // halfway, to even
    [InlineData(1.01171875f, 0x3F82)] // halfway, to even
    [InlineData(3.4e38f, 0x7F80)]
    [InlineData(float.NegativeInfinity, 0xFF80)]
    public void BFloat16RoundsToNearestEven(float value, int bits)
    {
        using var scope = NewDisposeScope();
        Assert.Equal(BFloat16.FromRawValue((ushort)bits), (BFloat16)value);
        Assert.Equal(bits, *(ushort*)new Raw(tensor(value).bfloat16()).data_ptr());
        Assert.True(BFloat16.IsNaN((BFloat16)float.NaN));
    }

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Int64)]
    [InlineData(ScalarType.Bool)]
    public void TensorsAreSavedAndLoaded(ScalarType type)
    {
        using var scope = NewDisposeScope();
        var x = Expect.Range(2, 3).to(type);
        using var stream = new MemoryStream();
        using var writer = new BinaryWriter(stream);
        x.Save(writer);
        x.t().contiguous().Save(writer);
        Assert.Throws<InvalidOperationException>(() => x.t().WriteBytesToStream(stream));
        Assert.Equal([(byte)type, 2, 2, 3], stream.ToArray()[..4]);
        Assert.Equal(2 * (4 + 6 * x.ElementSize), stream.Length);

        stream.Position = 0;
        using var reader = new BinaryReader(stream);
        var target = zeros(2, 3, dtype: type);
        target.Load(reader);
        Assert.True(target.Equals(x));
        Assert.True(TensorExtensionMethods.Load(reader).Equals(x.t()));

        stream.Position = 0;
        Assert.Throws<ArgumentException>(() => zeros(3, 2, dtype: type).Load(reader));
        stream.Position = 0;
        Assert.Throws<ArgumentException>(() => zeros(2, 3, dtype: ScalarType.Float64).Load(reader));
    }
}
