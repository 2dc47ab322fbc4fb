using Hybrid.Routing;

namespace Hybrid.Modeling;

/// <summary>
/// Keeps the states of recent prompts within a budget of bytes, and finds for a new prompt the one that spares most of its computation:
/// the one that agrees with it in the longest prefix. Only what gives the same result is used: attention alone can forget the tokens after the
/// common prefix; a recurrence folds its tokens together, so a model with one goes on only from where a stored state ends.
/// </summary>
/// <remarks>Thread-safe. States depend on the weights: call <see cref="Clear"/> after a change of them.</remarks>
public sealed class PromptStateCache : IDisposable
{
    /// <summary>The budget unless another is given: 256 MiB.</summary>
    public const long DefaultMaxBytes = 256L << 20;

    private readonly Lock gate = new();
    private readonly LinkedList<Entry> entries = new();
    private readonly long maxBytes;
    private long byteSize;
    private long hits;
    private long misses;
    private bool disposed;

    /// <param name="model">The model whose states are kept.</param>
    /// <param name="maxBytes">Bytes of all states together; the ones not used for longest make room. At least 0.</param>
    public PromptStateCache(CausalLanguageModel model, long maxBytes = DefaultMaxBytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(maxBytes);
        this.maxBytes = maxBytes;
        Model = model;
        using var state = model.CreateState(1);
        Obstacle = state.Parts.Any(HasRoute)
            ? "HybridAttention chooses its branch for the whole prompt; the state of a part of it may be that of the other branch"
            : null;
    }

    /// <summary>Why no prompt of this model can be shortened; null where one can. Such a cache stays empty.</summary>
    public string? Obstacle { get; }

    /// <summary>Number of states.</summary>
    public int Count => Locked(() => entries.Count);

    /// <summary>Bytes of all states; at most the budget.</summary>
    public long ByteSize => Locked(() => byteSize);

    /// <summary>Prompts that found a state.</summary>
    public long Hits => Locked(() => hits);

    /// <summary>Prompts that found none.</summary>
    public long Misses => Locked(() => misses);

    /// <summary>The model whose states these are.</summary>
    internal CausalLanguageModel Model { get; }

    /// <summary>Keeps a copy of a state.</summary>
    /// <param name="tokens">The tokens that it has consumed.</param>
    /// <param name="state">A state of one sequence; it stays the caller's.</param>
    /// <returns>False where it is larger than the budget, or the model has an <see cref="Obstacle"/>.</returns>
    /// <exception cref="ArgumentException">The state has consumed another number of tokens, or is of several sequences.</exception>
    public bool Store(IReadOnlyList<int> tokens, CompositeState state)
    {
        if (state.BatchSize != 1 || state.Position != tokens.Count)
        {
            throw new ArgumentException(
                $"PromptStateCache: the state must be of one sequence of {tokens.Count} tokens; got {state.BatchSize} of {state.Position}.", nameof(state));
        }

        return tokens.Count > 0 && Obstacle is null && state.ByteSize <= maxBytes && Add([.. tokens], (CompositeState)state.Clone());
    }

    /// <summary>Finds the state that spares most of a prompt.</summary>
    /// <param name="prompt">Token ids. The last one is never covered: what follows depends on its logits, which no state holds.</param>
    /// <returns>A copy of the state, or the reason why there is none; the caller disposes it.</returns>
    public PromptStateMatch Find(IReadOnlyList<int> prompt)
    {
        if (Obstacle is not null)
        {
            return new PromptStateMatch(null, 0, Obstacle);
        }

        lock (gate)
        {
            ObjectDisposedException.ThrowIf(disposed, this);
            var (best, length, unusable) = (default(LinkedListNode<Entry>), 0, default(Entry));
            for (var node = entries.First; node is not null; node = node.Next)
            {
                var common = Math.Min(CommonPrefix(node.Value.Tokens, prompt), prompt.Count - 1);
                if (common <= length)
                {
                    continue;
                }

                if (common == node.Value.Tokens.Length || node.Value.State.CanTrim)
                {
                    (best, length) = (node, common);
                }
                else
                {
                    unusable = node.Value;
                }
            }

            return best is null ? Miss(prompt, unusable) : Hit(best, length);
        }
    }

    /// <summary>Frees all states.</summary>
    public void Clear()
    {
        lock (gate)
        {
            while (entries.Last is { } last)
            {
                Remove(last);
            }
        }
    }

    /// <summary>Frees all states.</summary>
    public void Dispose()
    {
        lock (gate)
        {
            Clear();
            disposed = true;
        }
    }

    /// <summary>Takes a state over; frees it where it does not fit.</summary>
    internal bool Add(int[] tokens, CompositeState state)
    {
        lock (gate)
        {
            var size = state.ByteSize;
            if (disposed || size > maxBytes)
            {
                state.Dispose();
                return false;
            }

            for (var node = entries.First; node is not null; node = node.Next)
            {
                if (node.Value.Tokens.AsSpan().SequenceEqual(tokens))
                {
                    Remove(node);
                    break;
                }
            }

            while (byteSize + size > maxBytes)
            {
                Remove(entries.Last!);
            }

            entries.AddFirst(new Entry(tokens, state, size));
            byteSize += size;
            return true;
        }
    }

    private static bool HasRoute(MixerState state) => state is RoutedState || (state is CompositeState composite && composite.Parts.Any(HasRoute));

    private static int CommonPrefix(int[] tokens, IReadOnlyList<int> prompt)
    {
        var length = 0;
        while (length < tokens.Length && length < prompt.Count && tokens[length] == prompt[length])
        {
            length++;
        }

        return length;
    }

    private PromptStateMatch Hit(LinkedListNode<Entry> node, int length)
    {
        hits++;
        entries.Remove(node);
        entries.AddFirst(node);
        var copy = (CompositeState)node.Value.State.Clone();
        if (length < node.Value.Tokens.Length)
        {
            copy.Trim(length);
        }

        return new PromptStateMatch(copy, length, $"the first {length} tokens are those of a stored prompt");
    }

    private PromptStateMatch Miss(IReadOnlyList<int> prompt, Entry? unusable)
    {
        misses++;
        return new PromptStateMatch(null, 0, unusable is null
            ? "no stored prompt begins alike"
            : $"{CommonPrefix(unusable.Tokens, prompt)} tokens are those of a stored prompt, but its state is that of {unusable.Tokens.Length}, and "
                + $"{unusable.State.Parts.First(part => !part.CanTrim).GetType().Name} cannot be taken back");
    }

    private void Remove(LinkedListNode<Entry> node)
    {
        entries.Remove(node);
        byteSize -= node.Value.ByteSize;
        node.Value.State.Dispose();
    }

    private T Locked<T>(Func<T> read)
    {
        lock (gate)
        {
            return read();
        }
    }

    private sealed record Entry(int[] Tokens, CompositeState State, long ByteSize);
}

/// <summary>What a <see cref="PromptStateCache"/> has for a prompt.</summary>
public sealed class PromptStateMatch : IDisposable
{
    private CompositeState? state;

    internal PromptStateMatch(CompositeState? state, int length, string reason) => (this.state, Length, Reason) = (state, length, reason);

    /// <summary>A state that has consumed the first <see cref="Length"/> tokens; null where there is none.</summary>
    public CompositeState? State => state;

    /// <summary>Tokens of the prompt that need not be computed.</summary>
    public int Length { get; }

    /// <summary>Why it is this many.</summary>
    public string Reason { get; }

    /// <summary>Frees the state.</summary>
    public void Dispose() => TakeState()?.Dispose();

    /// <summary>Hands the state to the caller, who disposes it from then on.</summary>
    /// <returns>The state; null where there is none.</returns>
    public CompositeState? TakeState() => Interlocked.Exchange(ref state, null);
}
