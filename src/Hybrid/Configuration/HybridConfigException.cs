namespace Hybrid.Configuration;

/// <summary>
/// A TOML configuration is wrong: says in which file, where, at which key, what was expected there and what was found. Its message
/// has it all: <c>configs/tiny.toml(12,1): [model.mamba] d_sate: unknown key; did you mean 'd_state'?</c>
/// </summary>
public sealed class HybridConfigException : Exception
{
    internal HybridConfigException(ConfigPlace place, string expected, string found, string detail, Exception? innerException)
        : base(place.Label.Length == 0 ? $"{place}: {detail}" : $"{place}: {place.Label}: {detail}", innerException)
    {
        File = place.File;
        Line = place.Line;
        Column = place.Column;
        Key = place.Path;
        Expected = expected;
        Found = found;
    }

    /// <summary>The file, or the source name that was given in its place.</summary>
    public string File { get; }

    /// <summary>Line of the key, from 1. Of a key that is missing: the line of its table.</summary>
    public int Line { get; }

    /// <summary>Column of the key, from 1.</summary>
    public int Column { get; }

    /// <summary>Dotted path, such as <c>model.mamba.d_state</c> or <c>model.layers[2]</c>; empty for the whole file.</summary>
    public string Key { get; }

    /// <summary>What would have been right, such as <c>an integer</c>.</summary>
    public string Expected { get; }

    /// <summary>What stands there, such as <c>"six"</c>.</summary>
    public string Found { get; }
}

/// <summary>Where a table or a key stands.</summary>
/// <param name="File">File or source name.</param>
/// <param name="Table">Dotted path of the table; empty for the top of the file.</param>
/// <param name="Key">Key in the table; null for the table itself.</param>
/// <param name="Line">Line from 1.</param>
/// <param name="Column">Column from 1.</param>
internal readonly record struct ConfigPlace(string File, string Table, string? Key, int Line, int Column)
{
    /// <summary>Dotted path from the top of the file.</summary>
    public string Path => Key is null ? Table : Table.Length == 0 ? Key : $"{Table}.{Key}";

    /// <summary>The place in an error text: <c>[model.mamba] d_state</c>.</summary>
    public string Label => string.Join(' ', new[] { Table.Length == 0 ? null : $"[{Table}]", Key }.Where(part => part is not null));

    /// <summary>The key of this table, standing where the table does: for a key that is not written in it.</summary>
    public ConfigPlace Under(string key) => this with { Key = Key is null ? key : $"{Key}.{key}" };

    /// <summary>The error of this place. Its text is "expected ...; found ..." unless a detail says it better.</summary>
    public HybridConfigException Wrong(string expected, string found, string? detail = null, Exception? innerException = null) =>
        new(this, expected, found, detail ?? $"expected {expected}; found {found}", innerException);

    /// <inheritdoc/>
    public override string ToString() => $"{File}({Line},{Column})";
}
