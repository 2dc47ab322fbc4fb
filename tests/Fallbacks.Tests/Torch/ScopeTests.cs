using TorchSharp;
using static TorchSharp.torch;

namespace Fallbacks.Tests.Torch;

public class ScopeTests
{
    [Fact]
    public void AScopeDisposesWhatWasMadeInIt()
    {
        var before = Expect.Live;
        Tensor kept;
        Tensor lost;
        using (var scope = NewDisposeScope())
        {
            lost = ones(2);
            kept = ones(2).MoveToOuterDisposeScope();
            _ = lost + kept;
            Assert.Equal(2, scope.DisposablesCount);
            Assert.True(scope.Contains(lost));
            Assert.False(scope.Contains(kept));
            Assert.Same(scope, CurrentDisposeScope);
        }
        Assert.True(lost.IsInvalid);
        Assert.False(kept.IsInvalid);
        Assert.Equal(before + 1, Expect.Live);
        kept.Dispose();
        Assert.Equal(before, Expect.Live);
        Assert.Null(CurrentDisposeScope);
    }

    [Fact]
    public void TensorsMoveOutwardScopeByScope()
    {
        using var outer = NewDisposeScope();
        Tensor x;
        Tensor detached;
        using (var inner = NewDisposeScope())
        {
            x = ones(1).MoveToOuterDisposeScope();
            detached = ones(1).DetachFromDisposeScope();
            var (a, b, c) = inner.MoveToOuter(ones(1), ones(1), ones(1));
            Assert.True(outer.Contains(a) && outer.Contains(b) && outer.Contains(c));
        }
        Assert.True(outer.Contains(x));
        Assert.False(outer.Contains(detached));
        outer.DisposeEverythingBut(x);
        Assert.Equal(1, outer.DisposablesCount);
        Assert.False(x.IsInvalid);
        outer.Attach(detached);
        Assert.True(outer.Contains(detached));
        outer.DisposeEverything();
        Assert.True(x.IsInvalid && detached.IsInvalid);
        Assert.Equal(0, outer.DisposablesCount);
    }

    [Fact]
    public void TensorsMoveBetweenScopes()
    {
        using var first = NewDisposeScope();
        var anchor = ones(1);
        using var second = NewDisposeScope();
        var x = ones(1).MoveToOtherDisposeScope(anchor);
        Assert.True(first.Contains(x));
        x.MoveToOtherDisposeScope(second);
        Assert.True(second.Contains(x) && !first.Contains(x));
        x.MoveToOtherDisposeScope((DisposeScope?)null);
        Assert.False(second.Contains(x));
        x.Dispose();
    }

    [Fact]
    public void DisposingATensorTakesItOutOfItsScope()
    {
        using var scope = NewDisposeScope();
        var x = ones(1);
        x.Dispose();
        x.Dispose();
        Assert.Equal(0, scope.DisposablesCount);
        Assert.Throws<InvalidOperationException>(() => x.shape);
        Assert.Throws<InvalidOperationException>(() => x + 1);
        Assert.Throws<InvalidOperationException>(() => ones(1) + x);
    }

    [Fact]
    public void AClosedScopeIsClosed()
    {
        var scope = NewDisposeScope();
        scope.Dispose();
        scope.Dispose();
        Assert.Throws<ObjectDisposedException>(() => scope.DisposablesCount);
        Assert.Throws<ObjectDisposedException>(() => scope.DisposeEverything());
    }

    [Fact]
    public void AnOuterScopeMayEndFirst()
    {
        var outer = NewDisposeScope();
        var inner = NewDisposeScope();
        var x = ones(1);
        outer.Dispose();
        Assert.Same(inner, CurrentDisposeScope);
        Assert.False(x.IsInvalid);
        inner.Dispose();
        Assert.True(x.IsInvalid);
        Assert.Null(CurrentDisposeScope);
    }

    [Fact]
    public void ScopesBelongToTheirThread()
    {
        using var scope = NewDisposeScope();
        var before = scope.DisposablesCount;
        var thread = new Thread(() =>
        {
            Assert.Null(CurrentDisposeScope);
            using var own = NewDisposeScope();
            _ = ones(1);
            Assert.Equal(1, own.DisposablesCount);
        });
        thread.Start();
        thread.Join();
        Assert.Equal(before, scope.DisposablesCount);
    }

    [Fact]
    public void WrappedExpressionsKeepTheirResult()
    {
        using var scope = NewDisposeScope();
        var x = ones(2);
        var y = WrappedTensorDisposeScope(() => (x + 1) * (x + 2));
        Expect.Values(y, 6, 6);
        Assert.Equal(2, scope.DisposablesCount);
    }

    [Fact]
    public void StatisticsCountByThread()
    {
        var statistics = DisposeScopeManager.Statistics;
        statistics.Reset();
        var outside = ones(1);
        using (NewDisposeScope())
        {
            _ = ones(1);
            ones(1).Dispose();
            ones(1).DetachFromDisposeScope().Dispose();
        }
        Assert.Equal(1, statistics.CreatedOutsideScopeCount);
        Assert.Equal(3, statistics.CreatedInScopeCount);
        Assert.Equal(2, statistics.DisposedInScopeCount);
        Assert.Equal(1, statistics.DetachedFromScopeCount);
        Assert.Equal(1, statistics.DisposedOutsideScopeCount);
        Assert.Equal(1, statistics.TensorStatistics.ThreadTotalLiveCount);
        using (var scope = NewDisposeScope()) scope.Attach(outside);
        Assert.Equal(1, statistics.AttachedToScopeCount);
        Assert.Equal(0, statistics.ThreadTotalLiveCount);
        Assert.Equal(0, statistics.PackedSequenceStatistics.CreatedInScopeCount);
    }
}
