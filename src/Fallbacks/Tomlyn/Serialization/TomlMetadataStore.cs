using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using Tomlyn.Model;

namespace Tomlyn.Serialization;

public interface ITomlMetadataStore
{
    bool TryGetProperties(object instance, [NotNullWhen(true)] out TomlPropertiesMetadata? metadata);

    void SetProperties(object instance, TomlPropertiesMetadata? metadata);
}

// By reference, and without keeping the instances alive.
public sealed class TomlMetadataStore : ITomlMetadataStore
{
    private readonly ConditionalWeakTable<object, TomlPropertiesMetadata> _properties = [];

    public bool TryGetProperties(object instance, [NotNullWhen(true)] out TomlPropertiesMetadata? metadata) =>
        _properties.TryGetValue(instance, out metadata);

    public void SetProperties(object instance, TomlPropertiesMetadata? metadata)
    {
        if (metadata is null)
        {
            _properties.Remove(instance);
        }
        else
        {
            _properties.AddOrUpdate(instance, metadata);
        }
    }
}
