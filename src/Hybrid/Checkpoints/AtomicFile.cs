namespace Hybrid.Checkpoints;

/// <summary>Writes files that are either complete or not there.</summary>
internal static class AtomicFile
{
    /// <summary>
    /// Writes a temporary file beside the target, flushes it to disk and renames it. On an error the temporary file is removed and a
    /// target that was there before stays.
    /// </summary>
    /// <param name="path">The target.</param>
    /// <param name="length">Its size in bytes, reserved on disk before anything is written.</param>
    /// <param name="write">Writes the content.</param>
    public static void Write(string path, long length, Action<FileStream> write)
    {
        var target = Path.GetFullPath(path);
        var temporary = $"{target}.{Path.GetRandomFileName()}";
        var stream = new FileStream(
            temporary,
            new FileStreamOptions { Mode = FileMode.CreateNew, Access = FileAccess.Write, BufferSize = 0, PreallocationSize = length });
        try
        {
            using (stream)
            {
                write(stream);
                stream.Flush(flushToDisk: true);
            }

            File.Move(temporary, target, overwrite: true);
        }
        catch
        {
            File.Delete(temporary);
            throw;
        }
    }
}
