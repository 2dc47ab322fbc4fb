using Hybrid.Kernels.Cpu;
using static TorchSharp.torch;

namespace Hybrid.Modeling;

/// <summary>
/// Continues several prompts of any lengths together: one padded prefill, then one step a token for all rows that have not ended; those that
/// have are taken out of the batch. A row gives the tokens that a <see cref="TokenGenerator"/> gives alone: row r draws with
/// <see cref="GenerationOptions.Seed"/> + r, so that equal prompts differ. Dispose frees the state.
/// </summary>
public sealed class BatchGenerator : IDisposable
{
    private readonly CausalLanguageModel model;
    private readonly GenerationOptions options;
    private readonly Row[] rows;
    private MixerState state;
    private bool started;

    /// <param name="model">The model; it is put into evaluation mode.</param>
    /// <param name="prompts">Token ids; at least one prompt, of at least one token each.</param>
    /// <param name="options">How to choose tokens; null means the defaults. No stop strings: tokens are no text.</param>
    /// <exception cref="ArgumentException">A prompt is empty, too long, or has ids outside the vocabulary.</exception>
    public BatchGenerator(CausalLanguageModel model, IReadOnlyList<IReadOnlyList<int>> prompts, GenerationOptions? options = null)
    {
        this.model = model;
        this.options = options ?? model.GenerationDefaults;
        if (prompts.Count == 0)
        {
            throw new ArgumentException("BatchGenerator: there must be at least one prompt; got none.", nameof(prompts));
        }

        if (this.options.StopStrings.Count > 0)
        {
            throw new ArgumentException("BatchGenerator: stop strings need text; use TextGeneration.GenerateBatch.", nameof(options));
        }

        foreach (var prompt in prompts)
        {
            PromptCheck.Require(nameof(BatchGenerator), model, prompt);
        }

        rows = [.. prompts.Select((prompt, row) => new Row(prompt, new TokenSampler(this.options with { Seed = this.options.Seed + row })))];
        state = model.CreateState(rows.Length);
    }

    /// <summary>Why each row ended; null for one that has not, or was stopped by <see cref="Stop"/>.</summary>
    public IReadOnlyList<FinishReason?> FinishReasons => [.. rows.Select(row => row.FinishReason)];

    /// <summary>Generates until every row has ended. May be called once.</summary>
    /// <returns>Rows and their new tokens: for each step one token of each row that goes on, in the order of the rows.</returns>
    /// <exception cref="InvalidOperationException">It was called before.</exception>
    public IEnumerable<(int Row, int Token)> Generate()
    {
        if (started)
        {
            throw new InvalidOperationException("BatchGenerator: the prompts are used up; make another generator.");
        }

        started = true;
        return Run();
    }

    /// <summary>Ends a row; tokens of the present step may still come.</summary>
    /// <param name="row">Row number, 0..B-1.</param>
    public void Stop(int row) => rows[row].Ended = true;

    /// <summary>Frees the state.</summary>
    public void Dispose() => state.Dispose();

    private IEnumerable<(int Row, int Token)> Run()
    {
        var active = Enumerable.Range(0, rows.Length).ToArray();
        for (var count = 0; ; count++)
        {
            foreach (var row in active.Select(index => rows[index]))
            {
                row.EndAtLimits(count, options.MaxNewTokens, model.Options.MaxSeqLen);
            }

            // All rows run the prefill together, so that none is selected from a state that has seen nothing.
            var left = active.Where(row => !rows[row].Ended).ToArray();
            if (left.Length == 0)
            {
                yield break;
            }

            if (count > 0)
            {
                Keep(active, left);
                active = left;
            }

            Step(active, isPrefill: count == 0);
            foreach (var row in active)
            {
                if (!rows[row].Ended)
                {
                    yield return (row, rows[row].Last);
                }
            }
        }
    }

    private void Keep(int[] active, int[] left)
    {
        if (left.Length < active.Length)
        {
            var selected = state.Select([.. left.Select(row => (long)Array.IndexOf(active, row))]);
            state.Dispose();
            state = selected;
        }
    }

    private void Step(int[] active, bool isPrefill)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        if (model.training)
        {
            model.eval();
        }

        var width = (int)model.Options.VocabSize;
        var logits = (isPrefill ? Prefill() : Advance(active)).to_type(ScalarType.Float32).cpu().contiguous();
        for (var i = 0; i < active.Length; i++)
        {
            var row = rows[active[i]];
            if (!row.Ended)
            {
                row.Take(TensorMemory.Floats(logits).Slice(i * width, width), options.StopTokens);
            }
        }
    }

    /// <summary>Logits [B, V] after the prompts.</summary>
    private Tensor Prefill()
    {
        var longest = rows.Max(row => row.Length);
        long[] lengths = [.. rows.Select(row => row.Length)];
        var padded = rows.SelectMany(row => row.Prompt.Select(token => (long)token).Concat(Enumerable.Repeat(0L, (int)(longest - row.Length))));
        var ids = tensor(padded.ToArray(), dtype: ScalarType.Int64, device: model.Device).view(rows.Length, longest);
        var isRagged = Array.Exists(lengths, length => length != longest);
        return model.NextTokenLogits(ids, new MixerContext { State = state, Lengths = isRagged ? lengths : null });
    }

    /// <summary>Logits [rows, V] after one more token of each row.</summary>
    private Tensor Advance(int[] active)
    {
        var ids = tensor([.. active.Select(row => (long)rows[row].Last)], dtype: ScalarType.Int64, device: model.Device).unsqueeze(1);
        return model.NextTokenLogits(ids, new MixerContext { State = state });
    }

    private sealed class Row(IReadOnlyList<int> prompt, TokenSampler sampler)
    {
        private readonly HashSet<int> seen = [.. prompt];

        public IReadOnlyList<int> Prompt => prompt;

        /// <summary>Tokens of prompt and continuation.</summary>
        public long Length { get; private set; } = prompt.Count;

        public int Last { get; private set; } = prompt[^1];

        public bool Ended { get; set; }

        public FinishReason? FinishReason { get; private set; }

        public void EndAtLimits(int count, int maxNewTokens, long maxLength)
        {
            if (!Ended && (count == maxNewTokens || Length >= maxLength))
            {
                End(count == maxNewTokens ? Modeling.FinishReason.MaxNewTokens : Modeling.FinishReason.MaxSeqLen);
            }
        }

        public void Take(ReadOnlySpan<float> logits, IReadOnlyCollection<int> stopTokens)
        {
            var token = sampler.Sample(logits, seen);
            if (stopTokens.Contains(token))
            {
                End(Modeling.FinishReason.StopToken);
                return;
            }

            seen.Add(token);
            Last = token;
            Length++;
        }

        private void End(FinishReason reason) => (Ended, FinishReason) = (true, reason);
    }
}
