namespace TorchSharp;

/// <summary>The dispose scopes of a thread, innermost first.</summary>
public class DisposeScopeManager
{
    [ThreadStatic] private static DisposeScopeManager? ofThread;

    internal static DisposeScopeManager OfThread => ofThread ??= new DisposeScopeManager();

    public static ThreadDisposeScopeStatistics Statistics => OfThread.StatisticsOfThread;

    internal ThreadDisposeScopeStatistics StatisticsOfThread { get; } = new();

    internal DisposeScope? Current { get; private set; }

    internal DisposeScope NewScope() => Current = new DisposeScope(this, Current);

    /// <summary>The scope a new tensor belongs to, if any.</summary>
    internal DisposeScope? Register(torch.Tensor tensor)
    {
        if (Current is null) StatisticsOfThread.TensorStatistics.CreatedOutsideScopeCount++;
        else
        {
            StatisticsOfThread.TensorStatistics.CreatedInScopeCount++;
            Current.Hold(tensor);
        }
        return Current;
    }

    internal void CountDisposal(torch.Tensor tensor)
    {
        if (tensor.OwningDisposeScope is null) StatisticsOfThread.TensorStatistics.DisposedOutsideScopeCount++;
        else StatisticsOfThread.TensorStatistics.DisposedInScopeCount++;
    }

    /// <summary>Takes a scope out of the chain, also when scopes inside it are still open.</summary>
    internal void Remove(DisposeScope scope)
    {
        if (Current == scope)
        {
            Current = scope.Outer;
            return;
        }
        for (var inner = Current; inner is not null; inner = inner.Outer)
            if (inner.Outer == scope) inner.Outer = scope.Outer;
    }
}

public static partial class torch
{
    public static DisposeScope NewDisposeScope() => DisposeScopeManager.OfThread.NewScope();

    public static DisposeScope? CurrentDisposeScope => DisposeScopeManager.OfThread.Current;

    /// <summary>Runs an expression and keeps of the tensors it made only its result.</summary>
    public static Tensor WrappedTensorDisposeScope(Func<Tensor> expr)
    {
        using var scope = NewDisposeScope();
        return expr().MoveToOuterDisposeScope();
    }
}
