using System.Collections.Concurrent;
using System.Diagnostics.CodeAnalysis;
using Hybrid.Attention;
using Hybrid.Backbone;
using Hybrid.Configuration;
using Hybrid.Mixers;
using Hybrid.Routing;

namespace Hybrid;

/// <summary>How a mixer is made: the type of its options record and a factory.</summary>
/// <param name="OptionsType">A record with a public parameterless constructor; a TOML table binds to its init properties.</param>
/// <param name="Create">Makes the mixer from the width D and an options record of that type.</param>
public sealed record MixerRegistration(Type OptionsType, Func<long, object, SequenceMixer> Create);

/// <summary>
/// The mixers that a name in TOML or in a builder can mean. The library's own and those of users are registered in the same way:
/// <c>MixerRegistry.Register&lt;MyOptions&gt;("mine", (width, options) => new MyMixer(width, options))</c>.
/// </summary>
public static class MixerRegistry
{
    private static readonly ConcurrentDictionary<string, MixerRegistration> Registrations = new(StringComparer.Ordinal)
    {
        ["mamba"] = Make<MambaOptions>((width, options) => new MambaMixer(width, options)),
        ["griffin_lru"] = Make<GriffinOptions>((width, options) => new GriffinMixer(width, options)),
        ["gru"] = Make<GruOptions>((width, options) => new GruMixer(width, options)),
        ["gated_ssm"] = Make<GatedSsmOptions>((width, options) => new GatedSsmMixer(width, options)),
        ["rwkv"] = Make<RwkvOptions>((width, options) => new RwkvMixer(width, options)),
        ["rwkv_channel_mix"] = Make<RwkvChannelOptions>((width, options) => new RwkvChannelMixer(width, options)),
        ["delta_net"] = Make<DeltaNetOptions>((width, options) => new DeltaNetMixer(width, options)),
        ["gated_delta_net"] = Make<GatedDeltaNetOptions>((width, options) => new GatedDeltaNetMixer(width, options)),
        ["mamba2"] = Make<Mamba2Options>((width, options) => new Mamba2Mixer(width, options)),
        ["attention"] = Make<AttentionOptions>((width, options) => new MultiHeadAttention(width, options)),
        ["mixed_heads"] = Make<MixedHeadOptions>((width, options) => new MixedHeadAttention(width, options)),
        ["hybrid_attention"] = Make<HybridAttentionOptions>(SharedWeights.Create),
        ["falcon_h1"] = Make<FalconH1Options>((width, options) => new FalconH1Mixer(width, options)),
        ["parallel"] = Make<ParallelMixerOptions>((width, options) => new ParallelMixer(width, options)),
        ["parallel_hybrid"] = Make<ParallelHybridOptions>((width, options) => new ParallelHybrid(width, options)),
        ["trans_point"] = Make<TransPointOptions>((width, options) => new TransPointMixer(width, options)),
    };

    /// <summary>All registered names, sorted.</summary>
    public static IReadOnlyList<string> Names => [.. Registrations.Keys.Order(StringComparer.Ordinal)];

    /// <summary>Registers a mixer under a new name.</summary>
    /// <typeparam name="TOptions">Its options record.</typeparam>
    /// <param name="name">Name in TOML: lower-case letters, digits and underscores, as in <c>my_mixer</c>.</param>
    /// <param name="create">Makes the mixer from the width D and its options.</param>
    /// <exception cref="ArgumentException">The name is malformed, reserved or taken.</exception>
    public static void Register<TOptions>(string name, Func<long, TOptions, SequenceMixer> create)
        where TOptions : class, new()
    {
        if (string.IsNullOrEmpty(name) || !name.All(c => char.IsAsciiLetterLower(c) || char.IsAsciiDigit(c) || c == '_'))
        {
            throw new ArgumentException($"MixerRegistry: a name must be lower-case letters, digits and underscores; got '{name}'.", nameof(name));
        }

        if (LayerPattern.ReservedNames.Contains(name))
        {
            throw new ArgumentException($"MixerRegistry: '{name}' has a meaning of its own in a pattern of layers; take another name.", nameof(name));
        }

        if (!Registrations.TryAdd(name, Make(create)))
        {
            throw new ArgumentException($"MixerRegistry: '{name}' is registered already.", nameof(name));
        }
    }

    /// <summary>Looks a name up.</summary>
    /// <param name="name">The name.</param>
    /// <param name="registration">What is registered under it.</param>
    /// <returns>True where the name is registered.</returns>
    public static bool TryGet(string name, [NotNullWhen(true)] out MixerRegistration? registration) =>
        Registrations.TryGetValue(name, out registration);

    /// <summary>Makes a mixer.</summary>
    /// <param name="name">A registered name.</param>
    /// <param name="width">Model width D.</param>
    /// <param name="options">Its options record; null means the defaults.</param>
    /// <returns>The mixer.</returns>
    /// <exception cref="ArgumentException">The name is unknown, or the options are of another mixer.</exception>
    public static SequenceMixer Create(string name, long width, object? options = null)
    {
        if (!TryGet(name, out var registration))
        {
            throw new ArgumentException(
                $"MixerRegistry: there is no mixer '{name}'{NearestName.Hint(name, Names)}; known: {string.Join(", ", Names)}.", nameof(name));
        }

        options ??= Activator.CreateInstance(registration.OptionsType)!;
        if (!registration.OptionsType.IsInstanceOfType(options))
        {
            throw new ArgumentException(
                $"MixerRegistry: '{name}' takes {registration.OptionsType.Name}; got {options.GetType().Name}.", nameof(options));
        }

        return registration.Create(width, options);
    }

    private static MixerRegistration Make<TOptions>(Func<long, TOptions, SequenceMixer> create)
        where TOptions : class, new() =>
        new(typeof(TOptions), (width, options) => create(width, (TOptions)options));
}
