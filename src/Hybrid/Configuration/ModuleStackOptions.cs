namespace Hybrid.Configuration;

/// <summary>A module of a <see cref="ModuleStack"/>.</summary>
/// <param name="Name">A name of <see cref="MixerRegistry"/>.</param>
/// <param name="Options">An options record of that mixer.</param>
public sealed record StackedModule(string Name, object Options);

/// <summary>Options of a <see cref="ModuleStack"/>; the [modules] table of a TOML file binds to it.</summary>
public sealed record ModuleStackOptions
{
    /// <summary>Width D of every module; at least 1. Default 768.</summary>
    public long HiddenSize { get; init; } = 768;

    /// <summary>The modules in the order in which they run; at least one, each name once.</summary>
    public IReadOnlyList<StackedModule> Active { get; init; } = [];

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.AtLeast(nameof(ModuleStackOptions), nameof(HiddenSize), HiddenSize, 1);
        var names = Active.Select(module => module.Name).ToArray();
        if (names.Length == 0 || names.Distinct().Count() != names.Length)
        {
            throw new ArgumentException(
                $"ModuleStackOptions: Active must be one module or more, each once; got [{string.Join(", ", names)}].", nameof(Active));
        }
    }
}
