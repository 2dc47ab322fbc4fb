using System.Runtime.InteropServices;
using Hybrid.Checkpoints;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Checkpoints;

public sealed class SafeTensorsRoundTripTests : IDisposable
{
    private readonly TemporaryFolder folder = new();

    public static TheoryData<ScalarType, string, int> Types => new()
    {
        { ScalarType.Bool, "BOOL", 1 },
        { ScalarType.Byte, "U8", 1 },
        { ScalarType.Int8, "I8", 1 },
        { ScalarType.Int16, "I16", 2 },
        { ScalarType.Int32, "I32", 4 },
        { ScalarType.Int64, "I64", 8 },
        { ScalarType.Float16, "F16", 2 },
        { ScalarType.BFloat16, "BF16", 2 },
        { ScalarType.Float32, "F32", 4 },
        { ScalarType.Float64, "F64", 8 },
    };

    private string Target => folder.File("x.safetensors");

    [Theory]
    [MemberData(nameof(Types))]
    public void EveryTypeAndShapeComesBack(ScalarType type, string name, int size)
    {
        using var scope = NewDisposeScope();
        long[][] shapes = [[], [1], [7], [0], [3, 0, 2], [2, 3], [1, 5, 1, 2], [65, 3]];
        var written = shapes.Select((shape, i) => ($"tensor.{i}", Random(type, shape))).ToArray();
        SafeTensorsFile.Write(Target, written);

        var bytes = File.ReadAllBytes(Target);
        using var file = SafeTensorsFile.Open(Target);
        Assert.Equal(shapes.Length, file.Names.Count);
        for (var i = 0; i < shapes.Length; i++)
        {
            var (key, tensor) = written[i];
            var read = file.Read(key);
            Assert.Equal(type, read.dtype);
            Assert.Equal(shapes[i], read.shape);
            Assert.Equal(Numbers(tensor), Numbers(read));

            var target = Random(type, shapes[i]);
            file.ReadInto(key, target);
            Assert.Equal(Numbers(tensor), Numbers(target));

            var raw = RawSafeTensors.Tensor(bytes, key);
            Assert.Equal(name, raw.Type);
            Assert.Equal(shapes[i], raw.Shape);
            Assert.Equal(size * tensor.numel(), raw.Data.Length);
            Assert.Equal(0, raw.Begin % size);
            Assert.Equal((type, (long)raw.Data.Length), (file.Entry(key).Type, file.Entry(key).ByteSize));
            Assert.Equal(shapes[i], file.Entry(key).Shape);
        }
    }

    [Fact]
    public void ATensorIsReadIntoOneOfItsTypeAndShapeHoweverThatLiesInMemory()
    {
        using var scope = NewDisposeScope();
        var x = rand(3, 5);
        SafeTensorsFile.Write(Target, [("x", x)]);
        using var file = SafeTensorsFile.Open(Target);
        var stack = zeros(4, 3, 5);
        file.ReadInto("x", stack[2]);
        Assert.Equal(Numbers(x), Numbers(stack[2]));
        Assert.Equal(Numbers(x).Sum(), Numbers(stack).Sum(), 1e-9);
        var columns = zeros(5, 3).t();
        file.ReadInto("x", columns);
        Assert.Equal(Numbers(x), Numbers(columns));

        var error = Assert.Throws<ArgumentException>(() => file.ReadInto("x", zeros(5, 3)));
        Assert.Contains("the target must be Float32 [3, 5]; got Float32 [5, 3].", error.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => file.ReadInto("x", zeros(3, 5, dtype: ScalarType.Float64)));
    }

    [Fact]
    public void ValuesAreStoredLittleEndianRowMajor()
    {
        using var scope = NewDisposeScope();
        SafeTensorsFile.Write(Target,
        [
            ("f32", tensor(new[] { 1f, -2f, 0.5f, -0f }, [2, 2])),
            ("i16", tensor(new short[] { 1, -2 })),
            ("bf16", tensor(new[] { 1f, -2f }).to_type(ScalarType.BFloat16)),
            ("f16", tensor(new[] { 1f, -2f }).to_type(ScalarType.Float16)),
            ("bool", tensor(new[] { true, false, true })),
            ("scalar", tensor(-3L)),
        ]);
        var bytes = File.ReadAllBytes(Target);
        Assert.Equal("0000803F000000C00000003F00000080", Hex("f32"));
        Assert.Equal("0100FEFF", Hex("i16"));
        Assert.Equal("803F00C0", Hex("bf16"));
        Assert.Equal("003C00C0", Hex("f16"));
        Assert.Equal("010001", Hex("bool"));
        Assert.Equal("FDFFFFFFFFFFFFFF", Hex("scalar"));

        string Hex(string name) => Convert.ToHexString(RawSafeTensors.Tensor(bytes, name).Data);
    }

    [Fact]
    public void BitsOfSpecialNumbersStay()
    {
        using var scope = NewDisposeScope();
        var payload = BitConverter.UInt32BitsToSingle(0xFFC01234);
        float[] values = [float.NaN, payload, -0f, float.PositiveInfinity, float.NegativeInfinity, float.Epsilon, float.MaxValue];
        SafeTensorsFile.Write(Target, [("x", tensor(values))]);
        using var file = SafeTensorsFile.Open(Target);
        Assert.Equal(Bytes(values), RawSafeTensors.Tensor(File.ReadAllBytes(Target), "x").Data);
        Assert.Equal(Bytes(values), Bytes(file.Read("x").data<float>().ToArray()));

        static byte[] Bytes(float[] numbers) => MemoryMarshal.AsBytes<float>(numbers).ToArray();
    }

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Int64)]
    [InlineData(ScalarType.Bool)]
    public void ViewsAreStoredAsWhatTheyShow(ScalarType type)
    {
        using var scope = NewDisposeScope();
        var whole = (arange(60, dtype: ScalarType.Int64).reshape(3, 4, 5) % 7).to_type(type);
        (string Name, Tensor Tensor)[] views =
        [
            ("offset", whole[2]),
            ("transposed", whole.transpose(0, 2)),
            ("narrow", whole.narrow(1, 1, 2)),
            ("expanded", whole.select(0, 1).unsqueeze(0).expand(2, 4, 5)),
            ("last", whole[2, 3, 4]),
            ("tail", whole.reshape(60).narrow(0, 59, 1)),
            ("empty", whole.narrow(0, 1, 0)),
        ];
        SafeTensorsFile.Write(Target, views);
        using var file = SafeTensorsFile.Open(Target);
        foreach (var (name, view) in views)
        {
            var read = file.Read(name);
            Assert.Equal(view.shape, read.shape);
            Assert.True(read.is_contiguous());
            Assert.Equal(Numbers(view), Numbers(read));
        }
    }

    [Fact]
    public void TrainedParametersAreStoredWithoutTheirGraph()
    {
        using var scope = NewDisposeScope();
        var weight = ones(2, 3).requires_grad_(true);
        SafeTensorsFile.Write(Target, [("leaf", weight), ("result", (weight * 2).t())]);
        using var file = SafeTensorsFile.Open(Target);
        Assert.False(file.Read("leaf").requires_grad);
        Assert.Equal(Enumerable.Repeat(2f, 6), file.Read("result").data<float>().ToArray());
    }

    [Fact]
    public void ReadingTwiceGivesTensorsWithMemoryOfTheirOwn()
    {
        using var scope = NewDisposeScope();
        SafeTensorsFile.Write(Target, [("x", ones(4))]);
        Tensor first, second;
        using (var file = SafeTensorsFile.Open(Target))
        {
            (first, second) = (file.Read("x"), file.Read("x"));
        }

        first.mul_(3);
        Assert.Equal(3f, first[0].ToSingle());
        Assert.Equal(1f, second[0].ToSingle());
        Assert.Equal(1f, BitConverter.ToSingle(RawSafeTensors.Tensor(File.ReadAllBytes(Target), "x").Data));
    }

    [Fact]
    public void NamesAndMetadataKeepAnyText()
    {
        using var scope = NewDisposeScope();
        string[] names = ["", "a.b/c", "schön", "層.0", "\"quoted\\\"", "line\nbreak\t\u0001", "\U0001F600"];
        var metadata = new Dictionary<string, string> { ["k"] = "v", ["json"] = "{\"a\": 1}", ["\U0001F600"] = "層\n", [""] = "" };
        SafeTensorsFile.Write(Target, names.Select((name, i) => (name, tensor((long)i))), metadata);
        using var file = SafeTensorsFile.Open(Target);
        Assert.Equal(names.Order(StringComparer.Ordinal), file.Names.Order(StringComparer.Ordinal));
        Assert.All(names.Index(), entry => Assert.Equal(entry.Index, file.Read(entry.Item).ToInt64()));
        Assert.Equal(metadata, file.Metadata);
    }

    [Fact]
    public void AFileWithoutTensorsIsAFile()
    {
        SafeTensorsFile.Write(Target, []);
        using var file = SafeTensorsFile.Open(Target);
        Assert.Empty(file.Names);
        Assert.Empty(file.Metadata);
    }

    [Theory]
    [InlineData(ScalarType.Float16)]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.Float64)]
    public void NumbersThatAreNoneAreCounted(ScalarType type)
    {
        using var scope = NewDisposeScope();
        double[] values = [0, double.NaN, 1, -65504, double.PositiveInfinity, 6e-8, double.NegativeInfinity, -0.0, 1.5];
        SafeTensorsFile.Write(Target, [("x", tensor(values).to_type(type)), ("fine", ones(5, 3).to_type(type)), ("none", zeros(0).to_type(type)), ("ids", tensor(new[] { -1L }))]);
        using var file = SafeTensorsFile.Open(Target);
        Assert.Equal([("x", 3L), ("fine", 0), ("none", 0), ("ids", 0)], new[] { "x", "fine", "none", "ids" }.Select(name => (name, file.CountNonFinite(name))));
    }

    [Fact]
    public void SeveralThreadsReadOneFile()
    {
        using (NewDisposeScope())
        {
            SafeTensorsFile.Write(Target, Enumerable.Range(0, 32).Select(i => ($"{i}", full([257], (float)i))));
        }

        using var file = SafeTensorsFile.Open(Target);
        Parallel.For(0, 256, new ParallelOptions { MaxDegreeOfParallelism = 4 }, i =>
        {
            using var scope = NewDisposeScope();
            Assert.Equal(257f * (i % 32), file.Read($"{i % 32}").sum().ToSingle());
        });
    }

    [Fact]
    public void NoTensorStaysBehind()
    {
        using var scope = NewDisposeScope();
        var (x, view) = (randn(3, 5), randn(5, 3).t());
        var before = LiveTensors.Before();
        for (var i = 0; i < 20; i++)
        {
            SafeTensorsFile.Write(Target, [("x", x), ("view", view)]);
            using var file = SafeTensorsFile.Open(Target);
            using (NewDisposeScope())
            {
                _ = file.Read("x");
                _ = file.Read("view", CPU);
            }
        }

        Assert.Equal(before, Tensor.TotalCount);
        using (var file = SafeTensorsFile.Open(Target))
        {
            using var outside = file.Read("x").DetachFromDisposeScope();
            Assert.Equal(before + 1, Tensor.TotalCount);
        }
    }

    [Fact]
    public void AnUnknownNameIsSaid()
    {
        SafeTensorsFile.Write(Target, []);
        using var file = SafeTensorsFile.Open(Target);
        Assert.False(file.Contains("weight"));
        var error = Assert.Throws<KeyNotFoundException>(() => file.Read("weight"));
        Assert.Contains(Target, error.Message, StringComparison.Ordinal);
        Assert.Contains("'weight'", error.Message, StringComparison.Ordinal);
    }

    public void Dispose() => folder.Dispose();

    private static double[] Numbers(Tensor tensor) =>
        tensor.numel() == 0 ? [] : tensor.to_type(ScalarType.Float64).contiguous().data<double>().ToArray();

    private static Tensor Random(ScalarType type, long[] shape)
    {
        var (low, high) = type switch
        {
            ScalarType.Bool => (0L, 2L),
            ScalarType.Byte => (0L, 256L),
            ScalarType.Int8 => (-128L, 128L),
            ScalarType.Int16 => (-32768L, 32768L),
            _ => (-100000L, 100000L),
        };
        var integers = randint(low, high, shape, dtype: ScalarType.Int64, generator: new Generator(11));
        return is_floating_point(type) ? integers.to_type(ScalarType.Float64).div(37).to_type(type) : integers.to_type(type);
    }
}
