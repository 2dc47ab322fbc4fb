namespace Hybrid.Checkpoints;

/// <summary>
/// A folder whose files are replaced as a whole. The new ones are written to <c>NAME.new</c>; then <c>NAME</c> becomes <c>NAME.old</c>,
/// <c>NAME.new</c> becomes <c>NAME</c>, and <c>NAME.old</c> is deleted. Whenever that is cut short, one of the three is complete:
/// <c>NAME</c> if it is there, else <c>NAME.new</c>, which is complete before <c>NAME</c> is moved. <see cref="Find"/> returns that one,
/// and the next <see cref="Replace"/> tidies up. Nothing is to be repaired by hand.
/// </summary>
internal sealed class CheckpointFolder
{
    private readonly string current;
    private readonly string next;
    private readonly string previous;
    private readonly IReadOnlyList<string> files;
    private readonly Func<string, bool> isEarlier;

    /// <param name="folder">The folder.</param>
    /// <param name="files">The files it may hold, those of a folder in it as FOLDER/NAME; the last one is written last and marks it as complete.</param>
    /// <param name="isEarlier">True for other files that an earlier save may have left, which are replaced too; null means none.</param>
    public CheckpointFolder(string folder, IReadOnlyList<string> files, Func<string, bool>? isEarlier = null)
    {
        current = Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder));
        next = current + ".new";
        previous = current + ".old";
        this.files = files;
        this.isEarlier = isEarlier ?? (_ => false);
    }

    /// <summary>The folder that is complete.</summary>
    /// <exception cref="DirectoryNotFoundException">There is none.</exception>
    public string Find()
    {
        if (Directory.Exists(current))
        {
            return current;
        }

        return IsComplete(next) ? next
            : Directory.Exists(previous) ? previous
            : throw new DirectoryNotFoundException($"{current}: there is no checkpoint.");
    }

    /// <summary>Replaces the folder by what <paramref name="write"/> puts into the folder that it is given.</summary>
    /// <exception cref="IOException">The folder holds something else, which would be lost.</exception>
    public void Replace(Action<string> write)
    {
        if (File.Exists(current))
        {
            throw new IOException($"{current}: a checkpoint is a folder; there is a file of this name.");
        }

        RefuseForeignFiles(current);
        Recover();
        Directory.CreateDirectory(next);
        try
        {
            write(next);
        }
        catch
        {
            Delete(next);
            throw;
        }

        Swap();
    }

    private void Recover()
    {
        if (!Directory.Exists(current))
        {
            if (IsComplete(next))
            {
                Directory.Move(next, current);
            }
            else if (Directory.Exists(previous))
            {
                Directory.Move(previous, current);
            }
        }

        Delete(next);
        Delete(previous);
    }

    private void Swap()
    {
        if (Directory.Exists(current))
        {
            Directory.Move(current, previous);
        }

        Directory.Move(next, current);
        Delete(previous);
    }

    private bool IsComplete(string folder) => File.Exists(Path.Combine(folder, files[^1]));

    private void Delete(string folder)
    {
        if (Directory.Exists(folder))
        {
            RefuseForeignFiles(folder);
            Directory.Delete(folder, recursive: true);
        }
    }

    private void RefuseForeignFiles(string folder)
    {
        if (!Directory.Exists(folder))
        {
            return;
        }

        if (Entries(folder).FirstOrDefault(name => !IsKnown(name)) is { } foreign)
        {
            throw new IOException($"{folder}: saving a checkpoint replaces its folder, which must hold nothing else; found '{foreign}'.");
        }
    }

    // A crash may leave the temporary file NAME.SOMETHING of a file NAME.
    private bool IsKnown(string name) =>
        files.Any(file => name == file || name.StartsWith(file + ".", StringComparison.Ordinal)) || IsFolder(name) || isEarlier(name);

    private bool IsFolder(string name) => files.Any(file => file.StartsWith(name + "/", StringComparison.Ordinal));

    /// <summary>Names of what a folder holds, and of what its own folders hold as FOLDER/NAME.</summary>
    private IEnumerable<string> Entries(string folder)
    {
        foreach (var path in Directory.EnumerateFileSystemEntries(folder))
        {
            var name = Path.GetFileName(path);
            yield return name;
            var inner = IsFolder(name) && Directory.Exists(path) ? Directory.EnumerateFileSystemEntries(path) : [];
            foreach (var entry in inner)
            {
                yield return $"{name}/{Path.GetFileName(entry)}";
            }
        }
    }
}
