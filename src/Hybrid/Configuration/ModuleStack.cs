using static TorchSharp.torch;

namespace Hybrid.Configuration;

/// <summary>
/// The modules that [modules] of a TOML file names, run one after the other: <c>[B, T, D] -> [B, T, D]</c>. Each is registered under its
/// name. Nothing stands between them: norms and residuals are those of the modules themselves.
/// </summary>
public sealed class ModuleStack : nn.Module<Tensor, Tensor>
{
    private readonly string[] names;
    private readonly SequenceMixer[] mixers;

    /// <param name="options">Modules and width.</param>
    /// <exception cref="ArgumentException">There is no module, one is there twice or unknown, or an option is out of its range.</exception>
    public ModuleStack(ModuleStackOptions options)
        : base(nameof(ModuleStack))
    {
        options.Validate();
        Width = options.HiddenSize;
        names = [.. options.Active.Select(module => module.Name)];
        mixers = [.. options.Active.Select(module => MixerRegistry.Create(module.Name, Width, module.Options))];
        foreach (var (name, mixer) in names.Zip(mixers))
        {
            register_module(name, mixer);
        }
    }

    /// <summary>Width D of input and output.</summary>
    public long Width { get; }

    /// <summary>The names of the modules, first to run first.</summary>
    public IReadOnlyList<string> Names => names;

    /// <summary>A module by its name.</summary>
    /// <param name="name">One of <see cref="Names"/>.</param>
    /// <exception cref="ArgumentException">The stack has no module of that name.</exception>
    public SequenceMixer this[string name] =>
        Array.IndexOf(names, name) is >= 0 and var i
            ? mixers[i]
            : throw new ArgumentException($"ModuleStack: there is no module '{name}'{NearestName.HintOrNames(name, names)}", nameof(name));

    /// <summary>Creates the state of all modules for sequences that have seen no token yet.</summary>
    /// <param name="batchSize">Number of sequences B; at least 1.</param>
    /// <returns>The state; the caller disposes it.</returns>
    public CompositeState CreateState(long batchSize) => new(batchSize, mixers.Select(mixer => mixer.CreateState(batchSize)));

    /// <summary>Runs the modules without carrying state.</summary>
    /// <param name="input">[B, T, D].</param>
    /// <returns>[B, T, D].</returns>
    public override Tensor forward(Tensor input) => forward(input, MixerContext.None);

    /// <summary>Runs the modules.</summary>
    /// <param name="input">[B, T, D].</param>
    /// <param name="context">State (from <see cref="CreateState"/>), padding, packed rows.</param>
    /// <returns>[B, T, D].</returns>
    /// <exception cref="ArgumentException">The shape, dtype or context does not fit.</exception>
    public Tensor forward(Tensor input, MixerContext context)
    {
        var shape = input.shape;
        if (shape is not [>= 1, >= 1, var width] || width != Width)
        {
            throw new ArgumentException(
                $"ModuleStack: the input must be [B, T, {Width}] with B, T >= 1; got [{string.Join(", ", shape)}].", nameof(input));
        }

        using var scope = NewDisposeScope();
        var state = RequireState(context.State, shape[0]);
        state?.EnsureRoom(shape[1], context.Lengths);
        var x = input;
        for (var i = 0; i < mixers.Length; i++)
        {
            x = mixers[i].forward(x, context.WithState(state?.Parts[i]));
        }

        state?.Advance(shape[1], context.Lengths);
        return x.MoveToOuterDisposeScope();
    }

    private CompositeState? RequireState(MixerState? state, long batchSize) => state switch
    {
        null => null,
        CompositeState composite when composite.Parts.Count == mixers.Length && composite.BatchSize == batchSize =>
            composite.RequireWhole(nameof(ModuleStack)),
        _ => throw new ArgumentException(
            $"ModuleStack: the state must be made by CreateState({batchSize}) of this stack; got a {state.GetType().Name} of " +
            $"{state.BatchSize} sequences.",
            nameof(state)),
    };
}
