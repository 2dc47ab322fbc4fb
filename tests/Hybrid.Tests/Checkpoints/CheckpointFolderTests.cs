using Hybrid.Checkpoints;
using Xunit;

namespace Hybrid.Tests.Checkpoints;

/// <summary>A folder is replaced as a whole: whenever that is cut short, one complete version can be found.</summary>
public sealed class CheckpointFolderTests : IDisposable
{
    private static readonly string[] Files = ["data", "done"];
    private readonly TemporaryFolder parent = new();

    private string Target => parent.File("run");

    private CheckpointFolder Folder => new(Target, Files);

    [Fact]
    public void ReplacesWhatWasThere()
    {
        Folder.Replace(Writer("1"));
        Assert.Equal("1", Found());
        Folder.Replace(Writer("2"));
        Assert.Equal("2", Found());
        Assert.Equal(["run"], parent.Names());
    }

    [Fact]
    public void AFolderNamedWithASeparatorIsTheSame()
    {
        new CheckpointFolder(Target + Path.DirectorySeparatorChar, Files).Replace(Writer("1"));
        Assert.Equal("1", Found());
        Assert.Equal(["run"], parent.Names());
    }

    /// <summary>
    /// The states that a crash can leave, each as NAME.old, NAME and NAME.new; "-" is a folder that is not there, "x" one without its
    /// last file.
    /// </summary>
    [Theory]
    [InlineData("-", "1", "-", "1")]
    [InlineData("-", "1", "x", "1")]
    [InlineData("-", "1", "2", "1")]
    [InlineData("1", "-", "2", "2")]
    [InlineData("1", "2", "-", "2")]
    [InlineData("-", "-", "2", "2")]
    [InlineData("1", "-", "-", "1")]
    [InlineData("1", "-", "x", "1")]
    public void ACrashLeavesACompleteVersion(string old, string current, string next, string found)
    {
        Lay(Target + ".old", old);
        Lay(Target, current);
        Lay(Target + ".new", next);
        Assert.Equal(found, Found());

        // A save that fails now must not lose it, one that succeeds tidies up.
        Assert.Throws<InvalidOperationException>(() => Folder.Replace(_ => throw new InvalidOperationException()));
        Assert.Equal(found, Found());
        Folder.Replace(Writer("3"));
        Assert.Equal("3", Found());
        Assert.Equal(["run"], parent.Names());
    }

    [Theory]
    [InlineData("-")]
    [InlineData("x")]
    public void WithoutACompleteVersionThereIsNone(string next)
    {
        Lay(Target + ".new", next);
        var error = Assert.Throws<DirectoryNotFoundException>(() => Folder.Find());
        Assert.Contains(Target, error.Message, StringComparison.Ordinal);
        Folder.Replace(Writer("1"));
        Assert.Equal("1", Found());
    }

    [Fact]
    public void AFailedWriteLeavesTheOldVersionAndNothingElse()
    {
        Folder.Replace(Writer("1"));
        Assert.Throws<InvalidOperationException>(() => Folder.Replace(folder =>
        {
            File.WriteAllText(Path.Combine(folder, "data"), "2");
            throw new InvalidOperationException();
        }));
        Assert.Equal("1", Found());
        Assert.Equal(["run"], parent.Names());
    }

    [Theory]
    [InlineData("")]
    [InlineData(".new")]
    [InlineData(".old")]
    public void FilesOfSomeoneElseAreNotDeleted(string suffix)
    {
        Folder.Replace(Writer("1"));
        Directory.CreateDirectory(Target + suffix);
        var foreign = Path.Combine(Target + suffix, "thesis.txt");
        File.WriteAllText(foreign, "mine");
        var error = Assert.Throws<IOException>(() => Folder.Replace(Writer("2")));
        Assert.Contains("'thesis.txt'", error.Message, StringComparison.Ordinal);
        Assert.Equal("mine", File.ReadAllText(foreign));
        Assert.Equal("1", Found());
    }

    [Fact]
    public void ATemporaryFileOfACrashIsNoForeignFile()
    {
        Lay(Target + ".new", "x");
        File.WriteAllText(Path.Combine(Target + ".new", "data.k3j2h1"), "half");
        Folder.Replace(Writer("1"));
        Assert.Equal(["run"], parent.Names());
    }

    [Fact]
    public void AFileInPlaceOfTheFolderIsKept()
    {
        File.WriteAllText(Target, "mine");
        Assert.Throws<IOException>(() => Folder.Replace(Writer("1")));
        Assert.Equal("mine", File.ReadAllText(Target));
        Assert.Equal(["run"], parent.Names());
    }

    public void Dispose() => parent.Dispose();

    private static Action<string> Writer(string version) => folder =>
    {
        File.WriteAllText(Path.Combine(folder, "data"), version);
        File.WriteAllText(Path.Combine(folder, "done"), "");
    };

    private static void Lay(string folder, string version)
    {
        if (version != "-")
        {
            Directory.CreateDirectory(folder);
            File.WriteAllText(Path.Combine(folder, "data"), version);
        }

        if (version is not ("-" or "x"))
        {
            File.WriteAllText(Path.Combine(folder, "done"), "");
        }
    }

    private string Found() => File.ReadAllText(Path.Combine(Folder.Find(), "data"));
}
