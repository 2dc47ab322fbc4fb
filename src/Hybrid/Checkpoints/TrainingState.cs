using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization;
using TorchSharp.Modules;

namespace Hybrid.Checkpoints;

/// <summary>What <c>training.json</c> says: everything that resuming needs and that is no tensor.</summary>
internal sealed record TrainingState
{
    /// <summary>The version that this library writes, and the only one that it reads.</summary>
    public const int CurrentVersion = 1;

    private static readonly JsonSerializerOptions Json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        WriteIndented = true,
        DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
        UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow,
        RespectNullableAnnotations = true,
        NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals,
    };

    /// <summary>Version of the format.</summary>
    public required int Version { get; init; }

    /// <summary>Optimizer steps done.</summary>
    public required long Step { get; init; }

    /// <summary>Loss on held-out data at this step, if it was measured.</summary>
    public double? ValidationLoss { get; init; }

    /// <summary>The loss scaler of a float16 run.</summary>
    public LossScalerState? LossScaler { get; init; }

    /// <summary>The parameter groups of the optimizer.</summary>
    public required IReadOnlyList<OptimizerGroup> OptimizerGroups { get; init; }

    /// <summary>Reads and checks a file.</summary>
    public static TrainingState Read(string path)
    {
        try
        {
            var text = File.ReadAllBytes(path);
            using (var document = JsonDocument.Parse(text))
            {
                // First, since another version may have other fields.
                var root = document.RootElement;
                if (root.ValueKind != JsonValueKind.Object || !root.TryGetProperty("version", out var version) ||
                    version.ValueKind != JsonValueKind.Number || !version.TryGetInt32(out var number) || number != CurrentVersion)
                {
                    throw new InvalidDataException($"{path}: expected \"version\": {CurrentVersion}; found another or none.");
                }
            }

            var state = JsonSerializer.Deserialize<TrainingState>(text, Json)!;
            return state.Step >= 0 ? state : throw new InvalidDataException($"{path}: expected a step of 0 or more; found {state.Step}.");
        }
        catch (JsonException error)
        {
            throw new InvalidDataException($"{path}: {error.Message}", error);
        }
    }

    /// <summary>Writes a file.</summary>
    public void Write(string path)
    {
        var text = Encoding.UTF8.GetBytes(JsonSerializer.Serialize(this, Json) + "\n");
        AtomicFile.Write(path, text.Length, stream => stream.Write(text));
    }
}

/// <summary>Where a loss scaler stands.</summary>
internal sealed record LossScalerState
{
    /// <summary>The scale.</summary>
    public required double Scale { get; init; }

    /// <summary>Steps without overflow since it changed.</summary>
    public required int GrowthSteps { get; init; }

    /// <summary>Steps left out so far.</summary>
    public required long SkippedSteps { get; init; }
}

/// <summary>The options of a parameter group of AdamW, and the names of its parameters.</summary>
internal sealed record OptimizerGroup
{
    /// <summary>Learning rate at the time.</summary>
    public required double LearningRate { get; init; }

    /// <summary>Learning rate from which schedulers compute theirs.</summary>
    public required double InitialLearningRate { get; init; }

    /// <summary>Decay of the first moment.</summary>
    public required double Beta1 { get; init; }

    /// <summary>Decay of the second moment.</summary>
    public required double Beta2 { get; init; }

    /// <summary>Added to the denominator.</summary>
    public required double Epsilon { get; init; }

    /// <summary>Weight decay.</summary>
    public required double WeightDecay { get; init; }

    /// <summary>Whether the largest second moment counts.</summary>
    public required bool Amsgrad { get; init; }

    /// <summary>Whether the loss is maximised.</summary>
    public required bool Maximize { get; init; }

    /// <summary>Names of the parameters in the model.</summary>
    public required IReadOnlyList<string> Parameters { get; init; }

    /// <summary>Describes a group.</summary>
    public static OptimizerGroup Of(AdamW.Options options, IReadOnlyList<string> parameters) => new()
    {
        LearningRate = options.LearningRate!.Value,
        InitialLearningRate = options.InitialLearningRate,
        Beta1 = options.beta1!.Value,
        Beta2 = options.beta2!.Value,
        Epsilon = options.eps!.Value,
        WeightDecay = options.weight_decay!.Value,
        Amsgrad = options.amsgrad!.Value,
        Maximize = options.maximize!.Value,
        Parameters = parameters,
    };

    /// <summary>Sets the options of a group, all but amsgrad, which decides what state there is.</summary>
    public void ApplyTo(AdamW.Options options)
    {
        options.LearningRate = LearningRate;
        options.InitialLearningRate = InitialLearningRate;
        options.beta1 = Beta1;
        options.beta2 = Beta2;
        options.eps = Epsilon;
        options.weight_decay = WeightDecay;
        options.maximize = Maximize;
    }
}
