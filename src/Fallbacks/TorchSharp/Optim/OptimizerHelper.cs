#nullable disable
using TorchSharp.Utils;
using static TorchSharp.torch;

namespace TorchSharp.Modules;

/// <summary>An optimizer's groups, its state by parameter, saving and loading.</summary>
public abstract class OptimizerHelper : optim.Optimizer
{
    protected OptimizerOptions _defaults;
    protected OrderedDict<IntPtr, OptimizerState> _state = new();

    public OptimizerHelper() : base(IntPtr.Zero)
    {
    }

    public override IEnumerable<Parameter> parameters() => _parameter_groups.SelectMany(group => group.Parameters);

    public override void add_param_group(ParamGroup param_group) => _parameter_groups.Add(param_group);

    // Zeroes, and keeps, the gradients: a step after it still sees every parameter that ever had one.
    public override void zero_grad()
    {
        using var scope = NewDisposeScope();
        foreach (var parameter in parameters()) parameter.grad?.zero_();
    }

    protected Tensor _step<T>(Action<T> body, Func<Tensor> loss_closure = null) where T : ParamGroup
    {
        Tensor loss = null;
        if (loss_closure is not null)
        {
            using var _ = enable_grad();
            loss = loss_closure();
        }

        using (no_grad())
        using (NewDisposeScope())
            foreach (var group in _parameter_groups) body(group as T);
        return loss;
    }

    public virtual StateDictionary state_dict()
    {
        var result = new StateDictionary();
        foreach (var group in _parameter_groups)
        {
            result.Options.Add(group.Options);
            result.StateIndexRef.Add([]);
            foreach (var parameter in group.Parameters)
            {
                result.StateIndexRef[^1].Add(result.State.Count);
                result.State.Add(_state[parameter.Handle]);
            }
        }
        return result;
    }

    public virtual void load_state_dict(StateDictionary state_dict)
    {
        var own = this.state_dict();
        RequireSameShape(own, state_dict.Options.Count, state_dict.State.Count);
        for (int i = 0; i < own.Options.Count; i++)
            if (own.Options[i] != state_dict.Options[i]) own.Options[i].LoadStateDict(state_dict.Options[i]);
        for (int i = 0; i < own.State.Count; i++)
            if (own.State[i] != state_dict.State[i]) own.State[i].LoadStateDict(state_dict.State[i]);
    }

    /// <summary>The optimizer's type name, both counts (LEB128), the options of each group, the state of each parameter.</summary>
    public void save_state_dict(BinaryWriter writer)
    {
        var state = state_dict();
        writer.Write(GetType().Name);
        writer.Encode(state.Options.Count);
        writer.Encode(state.State.Count);
        foreach (var options in state.Options) options.SaveStateDict(writer);
        foreach (var entry in state.State) entry.SaveStateDict(writer);
    }

    public void load_state_dict(BinaryReader reader)
    {
        string found = reader.ReadString();
        if (found != GetType().Name)
            throw new InvalidDataException($"Mismatched optimizer type: expected '{GetType().Name}', but found '{found}' in the loaded stream.");

        var own = state_dict();
        long options = reader.Decode(), states = reader.Decode();
        RequireSameShape(own, options, states);
        foreach (var entry in own.Options) entry.LoadStateDict(reader);
        foreach (var entry in own.State) entry.LoadStateDict(reader);
    }

    private static void RequireSameShape(StateDictionary own, long options, long states)
    {
        if (options != own.Options.Count) throw new ArgumentException("Invalid optimizer state -- different number of parameter groups.");
        if (states != own.State.Count) throw new ArgumentException("Invalid optimizer state -- different number of states.");
    }
}
