namespace Hybrid;

/// <summary>Cost of a computation over T tokens in the order of magnitude, as a parallel machine sees it.</summary>
/// <param name="Work">All operations, for example <c>O(T)</c>.</param>
/// <param name="Depth">The longest chain of operations that wait for each other.</param>
public readonly record struct ComputeComplexity(string Work, string Depth)
{
    /// <inheritdoc/>
    public override string ToString() => $"work {Work}, depth {Depth}";
}
