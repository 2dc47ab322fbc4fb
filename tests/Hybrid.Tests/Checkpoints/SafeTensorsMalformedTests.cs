using System.Text;
using Hybrid.Checkpoints;
using Hybrid.Tests.Infrastructure;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Checkpoints;

/// <summary>Every broken file is refused when it is opened, by a message that names the file, the tensor and what is wrong.</summary>
public sealed class SafeTensorsMalformedTests : IDisposable
{
    private readonly TemporaryFolder folder = new();

    /// <summary>Header, bytes of data, what the message must say.</summary>
    public static TheoryData<string, int, string[]> Headers => new()
    {
        { "", 0, ["begins with '{'", "found nothing"] },
        { "[]", 0, ["begins with '{'", "found '['"] },
        { " {}", 0, ["begins with '{'", "found ' '"] },
        { "3", 0, ["begins with '{'", "found '3'"] },
        { "{", 0, ["must be JSON"] },
        { "{}x", 0, ["must be JSON"] },
        { "{}{}", 0, ["must be JSON"] },
        { "{}\0", 0, ["must be JSON"] },
        { "{'a':1}", 0, ["must be JSON"] },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},}", 1, ["must be JSON"] },
        { "{\"\\ud800\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, ["must be JSON"] },
        { "{\"a\":{\"dtype\":\"\\udc00\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, ["must be JSON"] },
        { "{\"a\":1}", 0, ["tensor 'a'", "expected an object", "found 1"] },
        { "{\"a\":null}", 0, ["tensor 'a'", "expected an object", "found null"] },
        { "{\"a\":{}}", 0, ["tensor 'a'", "found no dtype"] },
        { "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, ["tensor 'a'", "found no shape"] },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, ["tensor 'a'", "found no data_offsets"] },
        { "{\"a\":{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, ["tensor 'a', dtype", "a string", "found 8"] },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}}", 1, ["tensor 'a', shape", "an array", "found 1"] },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":{}}}", 1, ["tensor 'a', data_offsets", "an array", "found an object"] },

        // Names.
        { Entry("a", "U8", "1", "0,1") + "," + Entry("a", "U8", "1", "1,2"), 2, ["'a' twice"] },
        { "\"__metadata__\":{},\"__metadata__\":{}", 0, ["'__metadata__' twice"] },
        { "\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}", 0, ["'__metadata__.k' twice"] },
        { "\"a\":{\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}", 1, ["tensor 'a'", "'dtype' once"] },
        { "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,1]}", 1, ["tensor 'a'", "'shape' once"] },
        { Entry("a", "U8", "1", "0,1")[..^1] + ",\"data_offsets\":[0,1]}", 1, ["tensor 'a'", "'data_offsets' once"] },
        { "\"__metadata__\":[]", 0, ["__metadata__", "an object of strings", "found an array"] },
        { "\"__metadata__\":{\"k\":1}", 0, ["__metadata__.k", "a string", "found 1"] },
        { "\"__metadata__\":{\"k\":null}", 0, ["__metadata__.k", "a string", "found null"] },

        // Types.
        { Entry("a", "F8_E4M3", "1", "0,1"), 1, ["tensor 'a'", "BOOL, U8, I8, I16, F16, BF16, I32, F32, F64, I64", "'F8_E4M3'"] },
        { Entry("a", "F8_E5M2", "1", "0,1"), 1, ["'F8_E5M2'", "8-bit floating point"] },
        { Entry("a", "U16", "1", "0,2"), 2, ["tensor 'a'", "found 'U16'"] },
        { Entry("a", "f32", "1", "0,4"), 4, ["tensor 'a'", "found 'f32'"] },
        { Entry("a", "", "1", "0,4"), 4, ["tensor 'a'", "found ''"] },

        // Shapes.
        { Entry("a", "U8", "-1", "0,1"), 1, ["tensor 'a'", "shape", "found -1"] },
        { Entry("a", "U8", "1.0", "0,1"), 1, ["tensor 'a'", "shape", "found 1.0"] },
        { Entry("a", "U8", "1e0", "0,1"), 1, ["tensor 'a'", "shape", "found 1e0"] },
        { Entry("a", "U8", "true", "0,1"), 1, ["tensor 'a'", "shape", "found true"] },
        { Entry("a", "U8", "[1]", "0,1"), 1, ["tensor 'a'", "shape", "found an array"] },
        { Entry("a", "U8", "9223372036854775808", "0,1"), 1, ["tensor 'a'", "shape", "found 9223372036854775808"] },
        { Entry("a", "F32", "9223372036854775807", "0,4"), 4, ["tensor 'a'", "less than 2^63 bytes"] },
        { Entry("a", "U8", "4294967296,4294967296", "0,0"), 0, ["tensor 'a'", "less than 2^63 bytes"] },
        { Entry("a", "U8", "0,4294967296,4294967296", "0,0"), 0, ["tensor 'a'", "less than 2^63 bytes"] },
        { Entry("a", "U8", string.Join(",", Enumerable.Repeat("1", 65)), "0,1"), 1, ["tensor 'a'", "at most 64 numbers in shape"] },

        // Offsets.
        { Entry("a", "U8", "1", "0"), 1, ["tensor 'a'", "two data_offsets", "found 1"] },
        { Entry("a", "U8", "1", ""), 1, ["tensor 'a'", "two data_offsets", "found 0"] },
        { Entry("a", "U8", "1", "0,1,1"), 1, ["tensor 'a'", "at most 2 numbers in data_offsets"] },
        { Entry("a", "U8", "1", "1,0"), 1, ["tensor 'a'", "begin <= end", "found [1, 0]"] },
        { Entry("a", "U8", "1", "-1,0"), 1, ["tensor 'a'", "data_offsets", "found -1"] },
        { Entry("a", "U8", "2", "0,2"), 1, ["tensor 'a'", "end <= 1", "found [0, 2]"] },
        { Entry("a", "U8", "1", "9223372036854775806,9223372036854775807"), 1, ["tensor 'a'", "end <= 1"] },
        { Entry("a", "F32", "2", "0,4"), 4, ["tensor 'a'", "expected 8 bytes for F32 [2]", "found 4"] },
        { Entry("a", "F32", "", "0,8"), 8, ["tensor 'a'", "expected 4 bytes for F32 []", "found 8"] },
        { Entry("a", "F32", "3,0", "0,4"), 4, ["tensor 'a'", "expected 0 bytes for F32 [3, 0]", "found 4"] },
        { Entry("a", "U8", "2", "0,2") + "," + Entry("b", "U8", "2", "1,3"), 3, ["tensor 'b'", "at byte 2", "found 1, which overlaps"] },
        { Entry("a", "U8", "2", "0,2") + "," + Entry("b", "U8", "2", "0,2"), 2, ["overlaps"] },
        { Entry("a", "U8", "1", "0,1") + "," + Entry("b", "U8", "1", "2,3"), 3, ["tensor 'b'", "at byte 1", "2, which leaves a hole"] },
        { Entry("a", "U8", "1", "1,2"), 2, ["tensor 'a'", "begin at byte 0", "leaves a hole"] },
        { Entry("a", "U8", "3", "0,3") + "," + Entry("b", "U8", "0", "1,1"), 3, ["tensor 'b'", "begin at byte 3", "overlaps"] },
        { Entry("a", "U8", "1", "0,1"), 3, ["expected 1 bytes of data", "found 3"] },
        { "{}", 1, ["expected 0 bytes of data", "found 1"] },
    };

    private string Target => folder.File("x.safetensors");

    [Theory]
    [MemberData(nameof(Headers))]
    public void ABrokenHeaderIsRefused(string header, int dataLength, string[] said)
    {
        var text = header.StartsWith('"') ? "{" + header + "}" : header;
        File.WriteAllBytes(Target, RawSafeTensors.File(text, dataLength));
        AssertRefused(said);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(7)]
    public void AFileShorterThanItsPrefixIsRefused(int length)
    {
        File.WriteAllBytes(Target, new byte[length]);
        AssertRefused("at least 8 bytes", $"found {length}");
    }

    [Theory]
    [InlineData(3UL)]
    [InlineData(100_000_001UL)]
    [InlineData(0x7FFF_FFFF_FFFF_FFFFUL)]
    [InlineData(0xFFFF_FFFF_FFFF_FFFFUL)]
    public void AHeaderLengthBeyondTheFileIsRefused(ulong length)
    {
        File.WriteAllBytes(Target, RawSafeTensors.File("{}"u8.ToArray(), [], length));
        AssertRefused("the file's 10 bytes", $"found a length of {length}");
    }

    [Fact]
    public void AHeaderOverTheLimitIsRefusedEvenIfTheFileIsLongEnough()
    {
        using (var stream = File.Create(Target))
        {
            stream.Write(RawSafeTensors.File("{}"u8.ToArray(), [], 100_000_001));
            stream.SetLength(100_000_100);
        }

        AssertRefused("100000000", "found a length of 100000001");
    }

    [Fact]
    public void BytesThatAreNoUtf8AreRefused()
    {
        byte[] header = [.. "{\"__metadata__\":{\"k\":\""u8, 0xC3, 0x28, .. "\"}}"u8];
        File.WriteAllBytes(Target, RawSafeTensors.File(header, []));
        AssertRefused("must be UTF-8");
    }

    [Fact]
    public void DeepNestingInAnUnknownFieldIsRefused()
    {
        var deep = new string('[', 100_000) + new string(']', 100_000);
        var header = $"{{\"a\":{{\"note\":{deep},\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}}}";
        File.WriteAllBytes(Target, RawSafeTensors.File(header, 1));
        AssertRefused("must be JSON");
    }

    [Fact]
    public void AByteThatIsNoBooleanIsRefusedWhenItIsRead()
    {
        File.WriteAllBytes(Target, RawSafeTensors.File(Encoding.UTF8.GetBytes("{" + Entry("mask", "BOOL", "3", "0,3") + "}"), [1, 0, 2]));
        using var file = SafeTensorsFile.Open(Target);
        var before = LiveTensors.Before();
        var error = Assert.Throws<InvalidDataException>(() => file.Read("mask"));
        Assert.Contains("'mask'", error.Message, StringComparison.Ordinal);
        Assert.Contains("found 2 at element 2", error.Message, StringComparison.Ordinal);
        Assert.Equal(before, Tensor.TotalCount);
    }

    [Fact]
    public void AFileCutAfterItWasOpenedIsRefusedWhenItIsRead()
    {
        using var scope = NewDisposeScope();
        SafeTensorsFile.Write(Target, [("x", zeros(100_000))]);
        using var file = SafeTensorsFile.Open(Target);
        using (var stream = new FileStream(Target, FileMode.Open, FileAccess.Write, FileShare.ReadWrite))
        {
            stream.SetLength(1000);
        }

        var error = Assert.Throws<InvalidDataException>(() => file.Read("x"));
        Assert.Contains("found 1000", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void ALargeShapeIsRefusedWithoutReservingItsMemory()
    {
        File.WriteAllBytes(Target, RawSafeTensors.File("{" + Entry("a", "F32", "1099511627776", "0,4") + "}", 4));
        AssertRefused("expected 4398046511104 bytes", "found 4");
    }

    public void Dispose() => folder.Dispose();

    private static string Entry(string name, string type, string shape, string offsets) =>
        $"\"{name}\":{{\"dtype\":\"{type}\",\"shape\":[{shape}],\"data_offsets\":[{offsets}]}}";

    private void AssertRefused(params string[] said)
    {
        var error = Assert.Throws<InvalidDataException>(() => SafeTensorsFile.Open(Target));
        Assert.StartsWith(Target, error.Message, StringComparison.Ordinal);
        Assert.All(said, text => Assert.Contains(text, error.Message, StringComparison.Ordinal));

        // The file is not held open: it can be opened for writing alone.
        using var exclusive = new FileStream(Target, FileMode.Open, FileAccess.ReadWrite, FileShare.None);
    }
}
