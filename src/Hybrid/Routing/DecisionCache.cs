namespace Hybrid.Routing;

/// <summary>
/// The latest decisions of a policy, by request; the least recently used one gives way. Thread-safe; warm, it allocates nothing.
/// </summary>
/// <remarks>
/// A bare length rule is a few comparisons, a tenth of a lookup; short lists of rules are cheaper than one too. The cache pays for
/// policies that cost more than the some 50 ns of a lookup.
/// </remarks>
public sealed class DecisionCache
{
    private const int None = -1;

    private readonly record struct Key(string PolicyId, int PolicyVersion, RoutingRequest Request);

    private struct Node
    {
        public Key Key;
        public RoutingDecision Decision;
        public int Newer;
        public int Older;
    }

    private readonly Lock access = new();
    private readonly Dictionary<Key, int> places;
    private readonly Node[] nodes;
    private int newest = None;
    private int oldest = None;
    private long hits;
    private long misses;

    /// <param name="capacity">Decisions that it holds at most; at least 1. Default 1000.</param>
    public DecisionCache(int capacity = 1000)
    {
        OptionRange.AtLeast(nameof(DecisionCache), nameof(capacity), capacity, 1);
        nodes = new Node[capacity];
        places = new Dictionary<Key, int>(capacity);
    }

    /// <summary>Decisions that it holds at most.</summary>
    public int Capacity => nodes.Length;

    /// <summary>The decision of a policy, from the cache or from the policy, which is then asked outside of the lock.</summary>
    /// <param name="policy">The policy; its id and version are part of the key.</param>
    /// <param name="request">The request.</param>
    /// <returns>The decision.</returns>
    public RoutingDecision Decide(RoutingPolicy policy, in RoutingRequest request)
    {
        var key = new Key(policy.Id, policy.Version, request);
        lock (access)
        {
            if (places.TryGetValue(key, out var place))
            {
                hits++;
                MoveToFront(place);
                return nodes[place].Decision;
            }

            misses++;
        }

        var decision = policy.Decide(request);
        lock (access)
        {
            Add(key, decision);
        }

        return decision;
    }

    /// <summary>The counts so far.</summary>
    /// <returns>A snapshot.</returns>
    public DecisionCacheMetrics GetMetrics()
    {
        lock (access)
        {
            return new DecisionCacheMetrics(places.Count, hits, misses);
        }
    }

    /// <summary>Sets the counts to zero; the decisions stay.</summary>
    public void ResetMetrics()
    {
        lock (access)
        {
            (hits, misses) = (0, 0);
        }
    }

    /// <summary>Forgets all decisions and sets the counts to zero.</summary>
    public void Clear()
    {
        lock (access)
        {
            places.Clear();
            Array.Clear(nodes);
            (newest, oldest, hits, misses) = (None, None, 0, 0);
        }
    }

    private void Add(in Key key, in RoutingDecision decision)
    {
        // Another thread may have asked the same meanwhile.
        if (places.ContainsKey(key))
        {
            return;
        }

        var place = places.Count;
        if (place == nodes.Length)
        {
            place = oldest;
            Unlink(place);
            places.Remove(nodes[place].Key);
        }

        nodes[place].Key = key;
        nodes[place].Decision = decision;
        places.Add(key, place);
        LinkInFront(place);
    }

    private void MoveToFront(int place)
    {
        if (place != newest)
        {
            Unlink(place);
            LinkInFront(place);
        }
    }

    private void LinkInFront(int place)
    {
        (nodes[place].Newer, nodes[place].Older) = (None, newest);
        if (newest == None)
        {
            oldest = place;
        }
        else
        {
            nodes[newest].Newer = place;
        }

        newest = place;
    }

    private void Unlink(int place)
    {
        var (newer, older) = (nodes[place].Newer, nodes[place].Older);
        if (newer == None)
        {
            newest = older;
        }
        else
        {
            nodes[newer].Older = older;
        }

        if (older == None)
        {
            oldest = newer;
        }
        else
        {
            nodes[older].Newer = newer;
        }
    }
}
