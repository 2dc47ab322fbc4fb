using System.Text;

namespace Hybrid.Configuration;

/// <summary>Writes a configuration as TOML that the reader turns back into an equal one.</summary>
internal static class HybridConfigWriter
{
    /// <inheritdoc cref="HybridConfig.ToToml"/>
    public static string Write(HybridConfig config)
    {
        var text = new StringBuilder();
        if (config.Model is { } model)
        {
            WriteLayered(text, "model", model, model.Mixers);
        }

        if (config.Backbone is { } backbone)
        {
            WriteLayered(text, "backbone", backbone, backbone.Mixers);
        }

        if (config.Training is { } training)
        {
            WriteRecord(text, "training", training);
        }

        if (config.Modules is { } modules)
        {
            WriteHeader(text, "modules");
            WriteLine(text, "active", modules.Active.Select(module => module.Name).ToArray());
            foreach (var module in modules.Active)
            {
                WriteRecord(text, $"modules.{module.Name}", module.Options, ("hidden_size", modules.HiddenSize));
            }
        }

        return text.ToString();
    }

    /// <summary>A file with one table.</summary>
    public static string WriteTable(string name, object record)
    {
        var text = new StringBuilder();
        WriteRecord(text, name, record);
        return text.ToString();
    }

    private static void WriteLayered(StringBuilder text, string path, object record, IReadOnlyDictionary<string, object> mixers)
    {
        WriteRecord(text, path, record);
        foreach (var (name, options) in mixers.OrderBy(mixer => mixer.Key, StringComparer.Ordinal))
        {
            WriteRecord(text, $"{path}.{name}", options);
        }
    }

    /// <summary>A table: values first, for what follows a sub-table would belong to that.</summary>
    private static void WriteRecord(StringBuilder text, string path, object record, params (string Key, object Value)[] more)
    {
        WriteHeader(text, path);
        foreach (var (key, value) in more)
        {
            WriteLine(text, key, value);
        }

        var properties = OptionProperty.Of(record.GetType());
        foreach (var property in properties.Where(property => !property.IsRecord))
        {
            if (property.Get(record) is { } value)
            {
                WriteLine(text, property.Key, value);
            }
        }

        foreach (var property in properties.Where(property => property.IsRecord))
        {
            if (property.Get(record) is { } inner)
            {
                WriteRecord(text, $"{path}.{property.Key}", inner);
            }
        }
    }

    private static void WriteHeader(StringBuilder text, string path) => text.Append(text.Length > 0 ? "\n" : "").Append($"[{path}]\n");

    private static void WriteLine(StringBuilder text, string key, object value) => text.Append($"{key} = {TomlLiteral.Of(value)}\n");
}
