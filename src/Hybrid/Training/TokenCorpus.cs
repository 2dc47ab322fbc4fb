using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Training;

/// <summary>
/// A text as tokens, its end held out for validation. The batch of a step depends on the seed and the step alone, so that a resumed
/// run sees what an uninterrupted one would.
/// </summary>
public sealed class TokenCorpus
{
    private readonly int[] tokens;
    private readonly int trainingCount;

    /// <param name="tokens">The token ids of the whole text.</param>
    /// <param name="validationFraction">Share at the end that is held out, above 0 and below 1.</param>
    public TokenCorpus(int[] tokens, double validationFraction)
    {
        OptionRange.Positive(nameof(TokenCorpus), nameof(validationFraction), validationFraction);
        OptionRange.DropRate(nameof(TokenCorpus), nameof(validationFraction), validationFraction);
        this.tokens = tokens;
        trainingCount = (int)(tokens.Length * (1 - validationFraction));
    }

    /// <summary>Tokens to train on.</summary>
    public int TrainingCount => trainingCount;

    /// <summary>Tokens held out.</summary>
    public int ValidationCount => tokens.Length - trainingCount;

    /// <summary>Random windows of the training part.</summary>
    /// <param name="step">Optimizer step.</param>
    /// <param name="seed">Seed of the run.</param>
    /// <param name="batch">Rows B.</param>
    /// <param name="length">Tokens T of a row.</param>
    /// <param name="device">Where the tensors go.</param>
    /// <returns>Ids and the ids that follow each of them, int64 [B, T].</returns>
    /// <exception cref="ArgumentException">The text is shorter than a window.</exception>
    public (Tensor Ids, Tensor Targets) TrainingBatch(long step, long seed, int batch, int length, Device device)
    {
        RequireWindow(trainingCount, length, "training");
        var random = new Random(unchecked((int)(seed * 1_000_003) ^ (int)(step * 7_919)));
        return Windows([.. Enumerable.Range(0, batch).Select(_ => random.Next(trainingCount - length))], length, device);
    }

    /// <summary>Evenly spread windows of the held-out part, the same at every call.</summary>
    /// <param name="count">Windows at most.</param>
    /// <param name="batch">Rows of a batch.</param>
    /// <param name="length">Tokens T of a row.</param>
    /// <param name="device">Where the tensors go.</param>
    /// <returns>Batches of ids and targets, int64 [B or fewer, T].</returns>
    /// <exception cref="ArgumentException">The text is shorter than a window.</exception>
    public IEnumerable<(Tensor Ids, Tensor Targets)> ValidationBatches(int count, int batch, int length, Device device)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(count, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(batch, 1);
        RequireWindow(ValidationCount, length, "validation");
        var available = (ValidationCount - 1) / length;
        var used = Math.Min(count, available);
        var starts = Enumerable.Range(0, used).Select(i => trainingCount + (int)((long)i * available / used * length));
        return starts.Chunk(batch).Select(chunk => Windows(chunk, length, device));
    }

    private static void RequireWindow(int available, int length, string part)
    {
        if (available < length + 1)
        {
            throw new ArgumentException($"TokenCorpus: the {part} part must have at least {length + 1} tokens; got {available}.");
        }
    }

    private (Tensor Ids, Tensor Targets) Windows(int[] starts, int length, Device device)
    {
        using var scope = NewDisposeScope();
        var ids = new long[starts.Length * (length + 1)];
        for (var row = 0; row < starts.Length; row++)
        {
            for (var i = 0; i <= length; i++)
            {
                ids[(row * (length + 1)) + i] = tokens[starts[row] + i];
            }
        }

        var windows = tensor(ids, dtype: ScalarType.Int64).view(starts.Length, length + 1).to(device);
        return (windows.narrow(1, 0, length).contiguous().MoveToOuterDisposeScope(), windows.narrow(1, 1, length).contiguous().MoveToOuterDisposeScope());
    }
}
