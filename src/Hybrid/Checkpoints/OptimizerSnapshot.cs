using Hybrid.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Hybrid.Checkpoints;

/// <summary>
/// The state of an AdamW by parameter name. Each parameter has <c>NAME.exp_avg</c> and <c>NAME.exp_avg_sq</c>, the moments in the shape of
/// the parameter, <c>NAME.max_exp_avg_sq</c> with amsgrad, and the int64 number <c>NAME.step</c>: a parameter that got no gradient in
/// some steps, such as one of a branch not taken, has fewer than the others. One that is half precision in the model has <c>NAME.master</c>,
/// the float32 weight that the optimizer updates.
/// </summary>
internal sealed class OptimizerSnapshot
{
    private readonly List<(AdamW.Options Options, List<Entry> Entries)> groups = [];

    /// <param name="model">Gives the names.</param>
    /// <param name="optimizer">An optimizer of parameters of the model, or of their master weights.</param>
    /// <param name="masters">The master weights; null means none.</param>
    public OptimizerSnapshot(nn.Module model, AdamW optimizer, MasterWeights? masters)
    {
        var (names, copies) = (new Dictionary<IntPtr, string>(), new HashSet<IntPtr>());
        foreach (var (name, parameter) in model.named_parameters())
        {
            var updated = masters?.Of(parameter) ?? parameter;
            names.TryAdd(updated.Handle, name);
            if (updated.Handle != parameter.Handle)
            {
                copies.Add(updated.Handle);
            }
        }

        var states = new Queue<OptimizerState>(optimizer.state_dict().State);
        foreach (var group in optimizer.ParamGroups.Cast<AdamW.ParamGroup>())
        {
            var entries = group.Parameters.Select(parameter =>
                new Entry(NameOf(parameter), parameter, (AdamW.State)states.Dequeue(), copies.Contains(parameter.Handle)));
            groups.Add((group.Options, [.. entries]));
        }

        string NameOf(Parameter parameter) => names.TryGetValue(parameter.Handle, out var name)
            ? name
            : throw new ArgumentException(
                "TrainingCheckpoint: the optimizer must be of the parameters that the model has now; got another one, of shape "
                + $"[{string.Join(", ", parameter.shape)}]. Make the optimizer after moving the model; give the master weights of one in mixed precision.",
                nameof(optimizer));
    }

    /// <summary>The groups.</summary>
    public IReadOnlyList<OptimizerGroup> Groups =>
        [.. groups.Select(group => OptimizerGroup.Of(group.Options, [.. group.Entries.Select(entry => entry.Name)]))];

    private IEnumerable<Entry> Entries => groups.SelectMany(group => group.Entries);

    /// <summary>Writes the tensors.</summary>
    public void Write(string path, IReadOnlyDictionary<string, string> metadata)
    {
        using var scope = NewDisposeScope();
        var steps = Entries.Select(entry => (entry.Name + ".step", tensor(entry.State.step, dtype: ScalarType.Int64)));
        SafeTensorsFile.Write(path, Entries.SelectMany(Tensors).Concat(steps), metadata);
    }

    /// <summary>Sets the optimizer to what a file and the groups beside it say. Everything is checked before anything is set.</summary>
    public void Restore(SafeTensorsFile file, string path, IReadOnlyList<OptimizerGroup> saved)
    {
        CheckGroups(path, saved);
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var like = tensor(0L, dtype: ScalarType.Int64);
        var expected = Entries.SelectMany(Tensors).Concat(Entries.Select(entry => (entry.Name + ".step", like))).ToArray();
        FileContent.Require(file, path, expected);

        var reader = new StateReader(file, path);
        foreach (var (name, target) in Entries.SelectMany(Tensors))
        {
            using var inner = NewDisposeScope();
            target.copy_(reader.Read(name, target, []));
        }

        foreach (var (name, parameter, state, _) in Entries)
        {
            // AdamW moves a parameter whose gradient is zero and passes over one that has none. zero_grad leaves zero where there ever
            // was a gradient, that is, where steps were counted: so must the gradients of the resumed run be.
            state.step = reader.Read(name + ".step", like, []).item<long>();
            parameter.grad = state.step > 0 ? zeros_like(parameter) : null;
        }

        for (var i = 0; i < groups.Count; i++)
        {
            saved[i].ApplyTo(groups[i].Options);
        }
    }

    private static IEnumerable<(string Name, Tensor Tensor)> Tensors(Entry entry)
    {
        var (name, parameter, state, isMaster) = entry;
        if (isMaster)
        {
            yield return (name + ".master", parameter);
        }

        yield return (name + ".exp_avg", state.exp_avg);
        yield return (name + ".exp_avg_sq", state.exp_avg_sq);
        if (state.max_exp_avg_sq is not null)
        {
            yield return (name + ".max_exp_avg_sq", state.max_exp_avg_sq);
        }
    }

    private void CheckGroups(string path, IReadOnlyList<OptimizerGroup> saved)
    {
        var own = Groups;
        if (own.Count != saved.Count)
        {
            throw new InvalidDataException($"{path}: expected {own.Count} parameter groups, as the optimizer has; found {saved.Count}.");
        }

        for (var i = 0; i < own.Count; i++)
        {
            if (own[i].Parameters.Except(saved[i].Parameters).FirstOrDefault() is { } missing)
            {
                throw new InvalidDataException(
                    $"{path}: parameter group {i}: expected '{missing}', as in the optimizer; found no such name.");
            }

            if (saved[i].Parameters.Except(own[i].Parameters).FirstOrDefault() is { } surplus)
            {
                throw new InvalidDataException(
                    $"{path}: parameter group {i}: expected the names of the optimizer; found '{surplus}' too.");
            }

            if (own[i].Amsgrad != saved[i].Amsgrad)
            {
                throw new InvalidDataException(
                    $"{path}: parameter group {i}: expected amsgrad {own[i].Amsgrad}, as in the optimizer; found {saved[i].Amsgrad}.");
            }
        }
    }

    private sealed record Entry(string Name, Parameter Parameter, AdamW.State State, bool IsMaster);
}
