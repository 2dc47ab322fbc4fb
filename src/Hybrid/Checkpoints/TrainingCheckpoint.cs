using System.Text;
using Hybrid.Checkpoints.HuggingFace;
using Hybrid.Configuration;
using Hybrid.Modeling;
using Hybrid.Training;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Hybrid.Checkpoints;

/// <summary>
/// A training run at one step, from which it goes on as if it had never stopped. It is a folder of <c>model.safetensors</c> (the weights,
/// a shared one once), <c>config.toml</c>, <c>optimizer.safetensors</c> (the moments of AdamW and the master weights of mixed precision by
/// parameter name), <c>training.json</c> (step, options of the optimizer, loss scale) and the folder <c>hub</c> (the tokenizer's files, and the
/// configuration of a model that was loaded from a hub, so that a resumed one is saved in the same form).
/// <see cref="LanguageModelTrainer"/> seeds torch anew at each step,
/// so that there is no generator to restore.
/// </summary>
/// <remarks>
/// <see cref="Save"/> leaves a complete checkpoint, the old one or the new one, whenever it is cut short: it writes the folder
/// <c>NAME.new</c>, renames <c>NAME</c> to <c>NAME.old</c> and <c>NAME.new</c> to <c>NAME</c>, and deletes <c>NAME.old</c>.
/// <see cref="Open"/> takes <c>NAME</c>, or <c>NAME.new</c> where a crash fell between the two renames; the next save tidies up.
/// </remarks>
public sealed class TrainingCheckpoint
{
    private const string ModelFile = "model.safetensors";
    private const string ConfigFile = "config.toml";
    private const string OptimizerFile = "optimizer.safetensors";
    private const string StateFile = "training.json";
    private const string HubFolder = "hub";
    private static readonly string[] Required = [ModelFile, ConfigFile, OptimizerFile, StateFile];

    // The last one is written last.
    private static readonly string[] Files = [.. HubOrigin.FileNames.Select(name => $"{HubFolder}/{name}"), .. Required];

    private readonly string folder;
    private readonly TrainingState state;
    private readonly LanguageModelOptions options;

    private TrainingCheckpoint(string folder)
    {
        this.folder = folder;
        foreach (var file in Required)
        {
            if (!File.Exists(PathOf(file)))
            {
                throw new InvalidDataException($"{folder}: a checkpoint has the files {string.Join(", ", Required)}; there is no {file}.");
            }
        }

        state = TrainingState.Read(PathOf(StateFile));
        Config = HybridConfig.Load(PathOf(ConfigFile));
        options = Config.Model ?? throw new InvalidDataException($"{PathOf(ConfigFile)}: expected a [model]; found none.");
        OpenTensors(ModelFile).Dispose();
        OpenTensors(OptimizerFile).Dispose();
    }

    /// <summary>The configuration of the run.</summary>
    public HybridConfig Config { get; }

    /// <summary>Optimizer steps done.</summary>
    public long Step => state.Step;

    /// <summary>Loss on held-out data at this step; null if it was not given.</summary>
    public double? ValidationLoss => state.ValidationLoss;

    /// <summary>Writes a checkpoint, in place of one that was there.</summary>
    /// <param name="folder">A folder that holds nothing else.</param>
    /// <param name="model">The model.</param>
    /// <param name="config">The configuration whose model this is.</param>
    /// <param name="optimizer">The optimizer of parameters of the model.</param>
    /// <param name="step">Optimizer steps done; 0 or more.</param>
    /// <param name="validationLoss">Loss on held-out data at this step, if known.</param>
    /// <param name="masters">What the optimizer updates in the place of half-precision parameters; null means none.</param>
    /// <param name="scaler">The loss scaler of a float16 run; null means none.</param>
    /// <exception cref="ArgumentException">Model, configuration and optimizer do not belong together.</exception>
    /// <exception cref="IOException">The folder holds other files, which would be lost, or cannot be written.</exception>
    public static void Save(
        string folder, CausalLanguageModel model, HybridConfig config, AdamW optimizer, long step, double? validationLoss = null,
        MasterWeights? masters = null, LossScaler? scaler = null)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(step);
        if (!model.IsMadeOfOptions)
        {
            throw new ArgumentException(
                "TrainingCheckpoint: the model's layers share weights in a way that no configuration states; save it with SavePretrained.", nameof(model));
        }

        if (config with { Model = model.Options } != config)
        {
            throw new ArgumentException(
                "TrainingCheckpoint: the configuration must describe the model; its [model] differs from the model's options.",
                nameof(config));
        }

        var snapshot = new OptimizerSnapshot(model, optimizer, masters);
        var training = new TrainingState
        {
            Version = TrainingState.CurrentVersion,
            Step = step,
            ValidationLoss = validationLoss,
            LossScaler = scaler is null
                ? null
                : new() { Scale = scaler.Scale, GrowthSteps = scaler.GrowthSteps, SkippedSteps = scaler.SkippedSteps },
            OptimizerGroups = snapshot.Groups,
        };
        new CheckpointFolder(folder, Files).Replace(target =>
        {
            // "format" is what other libraries look for before they read weights of PyTorch's layout.
            var metadata = new Dictionary<string, string> { ["format"] = "pt", ["step"] = $"{step}" };
            var weights = Distinct(model).Select(group => (group.Names[0], group.Tensor));
            SafeTensorsFile.Write(Path.Combine(target, ModelFile), weights, metadata);
            snapshot.Write(Path.Combine(target, OptimizerFile), metadata);
            var text = Encoding.UTF8.GetBytes(config.ToToml());
            AtomicFile.Write(Path.Combine(target, ConfigFile), text.Length, stream => stream.Write(text));
            HubOrigin.Write(model, Path.Combine(target, HubFolder));
            training.Write(Path.Combine(target, StateFile));
        });
    }

    /// <summary>Opens a checkpoint and checks its files.</summary>
    /// <param name="folder">The folder given to <see cref="Save"/>.</param>
    /// <returns>The checkpoint; it holds no file open.</returns>
    /// <exception cref="DirectoryNotFoundException">There is no checkpoint.</exception>
    /// <exception cref="InvalidDataException">A file is missing or broken.</exception>
    /// <exception cref="HybridConfigException">The configuration is broken.</exception>
    public static TrainingCheckpoint Open(string folder) => new(new CheckpointFolder(folder, Files).Find());

    /// <summary>Makes the model of <see cref="Config"/> with the saved weights.</summary>
    /// <param name="device">Where it is to be; null means the CPU.</param>
    /// <returns>The model.</returns>
    /// <exception cref="InvalidDataException">The file does not fit the model.</exception>
    public CausalLanguageModel LoadModel(Device? device = null)
    {
        var model = new CausalLanguageModel(options);
        try
        {
            LoadInto(model);
            return device is null ? model : model.to(device);
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Sets the weights of a model. Everything is checked before anything is changed. A model without a tokenizer of its own gets that of the
    /// checkpoint, and one of a model that was loaded from a hub is saved in that form again.
    /// </summary>
    /// <param name="model">A model of the same options, on any device.</param>
    /// <exception cref="InvalidDataException">The file lacks a tensor, has one too many, or one of another dtype or shape.</exception>
    public void LoadInto(CausalLanguageModel model)
    {
        using var file = OpenTensors(ModelFile);
        var path = PathOf(ModelFile);
        var weights = Distinct(model).Select(group => (Name: group.Names.Find(file.Contains) ?? group.Names[0], group.Tensor)).ToArray();
        FileContent.Require(file, path, weights);
        foreach (var (name, target) in weights)
        {
            file.ReadInto(name, target);
        }

        HubOrigin.Restore(model, PathOf(HubFolder));
    }

    /// <summary>
    /// Sets the state and the options of an optimizer, learning rates included, and the gradients to what zero_grad would leave of those
    /// of the run. Everything is checked before anything is changed.
    /// </summary>
    /// <param name="optimizer">An optimizer with the same parameters in the same groups.</param>
    /// <param name="model">The model whose parameters it has.</param>
    /// <param name="masters">What it updates in the place of half-precision parameters; null means none.</param>
    /// <param name="scaler">The loss scaler of a float16 run; null means none.</param>
    /// <exception cref="InvalidDataException">The checkpoint does not fit the optimizer, or has no loss scale for the scaler, or one without.</exception>
    public void LoadOptimizer(AdamW optimizer, CausalLanguageModel model, MasterWeights? masters = null, LossScaler? scaler = null)
    {
        var (path, saved) = (PathOf(StateFile), state.LossScaler);
        if ((saved is null) != (scaler is null))
        {
            throw new InvalidDataException($"{path}: expected {(scaler is null ? "no" : "a")} loss scale; found {(saved is null ? "none" : "one")}.");
        }

        if (saved is { Scale: not (> 0 and < double.PositiveInfinity) } or { GrowthSteps: < 0 } or { SkippedSteps: < 0 })
        {
            throw new InvalidDataException($"{path}: expected a positive loss scale and counts of 0 or more; found {saved}.");
        }

        using var file = OpenTensors(OptimizerFile);
        new OptimizerSnapshot(model, optimizer, masters).Restore(file, PathOf(OptimizerFile), state.OptimizerGroups);
        if (saved is not null)
        {
            scaler!.Restore(saved.Scale, saved.GrowthSteps, saved.SkippedSteps);
        }
    }

    /// <summary>The tensors of a model with all their names: one that two modules share has two.</summary>
    private static IEnumerable<(List<string> Names, Tensor Tensor)> Distinct(nn.Module model) =>
        model.state_dict().GroupBy(entry => entry.Value.Handle)
            .Select(group => (group.Select(entry => entry.Key).ToList(), group.First().Value));

    private string PathOf(string file) => Path.Combine(folder, file);

    // Another process may have saved since Open: files of different steps must not be mixed.
    private SafeTensorsFile OpenTensors(string name)
    {
        var file = SafeTensorsFile.Open(PathOf(name));
        if (file.Metadata.GetValueOrDefault("step") == $"{Step}")
        {
            return file;
        }

        file.Dispose();
        throw new InvalidDataException(
            $"{PathOf(name)}: expected step {Step}; found '{file.Metadata.GetValueOrDefault("step")}'. "
            + "If the checkpoint was saved anew meanwhile, open it again.");
    }
}
