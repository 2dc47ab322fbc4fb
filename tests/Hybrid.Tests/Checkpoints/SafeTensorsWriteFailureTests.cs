using Hybrid.Checkpoints;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Checkpoints;

/// <summary>A write that fails leaves the old file as it was and nothing else.</summary>
public sealed class SafeTensorsWriteFailureTests : IDisposable
{
    private readonly TemporaryFolder folder = new();
    private readonly DisposeScope scope = NewDisposeScope();
    private readonly byte[] old;

    public SafeTensorsWriteFailureTests()
    {
        SafeTensorsFile.Write(Target, [("old", ones(3))]);
        old = File.ReadAllBytes(Target);
    }

    private string Target => folder.File("x.safetensors");

    [Fact]
    public void AWriteThatSucceedsReplacesTheFileAndLeavesNoOther()
    {
        SafeTensorsFile.Write(Target, [("new", ones(3))]);
        using var file = SafeTensorsFile.Open(Target);
        Assert.Equal(["new"], file.Names);
        Assert.Equal(["x.safetensors"], folder.Names());
    }

    [Fact]
    public void AReaderOfTheOldFileKeepsIt()
    {
        using var file = SafeTensorsFile.Open(Target);
        SafeTensorsFile.Write(Target, [("new", zeros(3))]);
        Assert.Equal([1f, 1f, 1f], file.Read("old").data<float>().ToArray());
    }

    [Fact]
    public void ASourceThatThrowsLeavesTheOldFile()
    {
        var error = Assert.Throws<InvalidOperationException>(() => SafeTensorsFile.Write(Target, Broken()));
        Assert.Equal("the source broke", error.Message);
        AssertUnchanged();

        static IEnumerable<(string Name, Tensor Tensor)> Broken()
        {
            yield return ("a", ones(3));
            throw new InvalidOperationException("the source broke");
        }
    }

    [Fact]
    public void ATensorWithoutDataLeavesTheOldFileWhenOthersAreAlreadyWritten()
    {
        // "a" is stored first; that "meta" has no memory shows when its turn comes.
        Assert.ThrowsAny<Exception>(() => SafeTensorsFile.Write(Target, [("a", ones(100_000)), ("meta", empty([3], device: META))]));
        AssertUnchanged();
    }

    [Fact]
    public void ADisposedTensorLeavesTheOldFile()
    {
        var disposed = ones(3);
        disposed.Dispose();
        Assert.Throws<InvalidOperationException>(() => SafeTensorsFile.Write(Target, [("a", ones(3)), ("b", disposed)]));
        AssertUnchanged();
    }

    [Fact]
    public void ANameThatComesTwiceIsRefused()
    {
        var error = Assert.Throws<ArgumentException>(() => SafeTensorsFile.Write(Target, [("a", ones(3)), ("b", ones(3)), ("a", ones(4))]));
        Assert.Contains("'a' 2 times", error.Message, StringComparison.Ordinal);
        AssertUnchanged();
    }

    [Fact]
    public void TheNameOfTheMetadataIsRefused()
    {
        var error = Assert.Throws<ArgumentException>(() => SafeTensorsFile.Write(Target, [("__metadata__", ones(3))]));
        Assert.Contains("'__metadata__'", error.Message, StringComparison.Ordinal);
        AssertUnchanged();
    }

    [Fact]
    public void ADtypeThatTheFormatLacksIsRefused()
    {
        var complex = zeros([2], dtype: ScalarType.ComplexFloat32);
        var error = Assert.Throws<ArgumentException>(() => SafeTensorsFile.Write(Target, [("z", complex)]));
        Assert.Contains("'z'", error.Message, StringComparison.Ordinal);
        Assert.Contains("BOOL, U8, I8, I16, F16, BF16, I32, F32, F64, I64; got ComplexFloat32", error.Message, StringComparison.Ordinal);
        AssertUnchanged();
    }

    [Fact]
    public void HalfACharacterInANameIsRefused()
    {
        Assert.ThrowsAny<ArgumentException>(() => SafeTensorsFile.Write(Target, [("\ud800", ones(3))]));
        AssertUnchanged();
    }

    [Fact]
    public void ATargetThatCannotBeReplacedLeavesNoTemporaryFile()
    {
        var occupied = folder.File("occupied");
        Directory.CreateDirectory(occupied);
        Assert.ThrowsAny<Exception>(() => SafeTensorsFile.Write(occupied, [("a", ones(3))]));
        Assert.Equal(["occupied", "x.safetensors"], folder.Names());
        Assert.Empty(Directory.EnumerateFileSystemEntries(occupied));
    }

    [Fact]
    public void AFolderThatIsNotThereIsSaid()
    {
        Assert.Throws<DirectoryNotFoundException>(() => SafeTensorsFile.Write(folder.File("missing/x.safetensors"), [("a", ones(3))]));
        AssertUnchanged();
    }

    public void Dispose()
    {
        scope.Dispose();
        folder.Dispose();
    }

    private void AssertUnchanged()
    {
        Assert.Equal(["x.safetensors"], folder.Names());
        Assert.Equal(old, File.ReadAllBytes(Target));
    }
}
