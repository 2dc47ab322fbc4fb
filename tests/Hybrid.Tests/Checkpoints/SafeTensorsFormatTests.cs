using System.Text;
using Hybrid.Checkpoints;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Checkpoints;

/// <summary>The bytes are those that other implementations of the format write and read.</summary>
public sealed class SafeTensorsFormatTests : IDisposable
{
    private readonly TemporaryFolder folder = new();

    private string Target => folder.File("x.safetensors");

    [Fact]
    public void TheFileIsLengthHeaderPaddingData()
    {
        using var scope = NewDisposeScope();
        SafeTensorsFile.Write(
            Target,
            [("bb", tensor(new byte[] { 7, 8, 9 })), ("a", tensor(new[] { 1f, 2f })), ("c", tensor(5L))],
            new Dictionary<string, string> { ["format"] = "pt" });

        // Falling alignment, so that each tensor begins at a multiple of its element size; no white space but the padding.
        const string header = """
            {"__metadata__":{"format":"pt"},"c":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},"bb":{"dtype":"U8","shape":[3],"data_offsets":[16,19]}}
            """;
        var padded = header.PadRight((header.Length + 7) / 8 * 8);
        byte[] data = [5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 128, 63, 0, 0, 0, 64, 7, 8, 9];
        Assert.NotEqual(header.Length, padded.Length);
        Assert.Equal(RawSafeTensors.File(Encoding.UTF8.GetBytes(padded), data), File.ReadAllBytes(Target));
    }

    [Fact]
    public void AFileWithoutTensorsHasAnEmptyObject()
    {
        SafeTensorsFile.Write(Target, []);
        Assert.Equal(RawSafeTensors.File("{}      ", 0), File.ReadAllBytes(Target));
    }

    [Theory]
    [InlineData("L1_N16")]
    [InlineData("base_L37_N16")]
    public void AFileOfTheReferenceLibraryIsReadAndWrittenByteForByte(string name)
    {
        var source = Path.Combine(AppContext.BaseDirectory, "Golden", "ops", "selective_scan", name + ".safetensors");
        using var scope = NewDisposeScope();
        using var file = SafeTensorsFile.Open(source);
        Assert.Equal("selective_scan", file.Metadata["op"]);
        SafeTensorsFile.Write(Target, file.Names.Select(key => (key, file.Read(key))), file.Metadata);
        Assert.Equal(File.ReadAllBytes(source), File.ReadAllBytes(Target));
    }

    [Fact]
    public void WhatTheFormatAllowsButThisWriterDoesNotDoIsRead()
    {
        // Tensors in any order, white space, an unknown field, an escape, no padding, an empty tensor between others.
        const string header = """
            { "second" : {"data_offsets":[2,4], "shape":[ 2 ], "dtype":"U8", "note": [{"x": 1}]},
              "empty":{"dtype":"F64","shape":[4,0],"data_offsets":[2,2]},
              "f\u0069rst":{"dtype":"U8","shape":[2,1],"data_offsets":[0,2]}}
            """;
        File.WriteAllBytes(Target, RawSafeTensors.File(Encoding.UTF8.GetBytes(header), [1, 2, 3, 4]));
        using var scope = NewDisposeScope();
        using var file = SafeTensorsFile.Open(Target);
        Assert.Equal(["second", "empty", "first"], file.Names);
        Assert.Equal([1, 2], file.Read("first").data<byte>().ToArray());
        Assert.Equal([3, 4], file.Read("second").data<byte>().ToArray());
        Assert.Equal([4, 0], file.Read("empty").shape);
        Assert.Empty(file.Metadata);
    }

    public void Dispose() => folder.Dispose();
}
