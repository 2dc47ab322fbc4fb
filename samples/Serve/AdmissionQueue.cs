namespace Hybrid.Samples;

/// <summary>Lets so many requests run and so many wait; the others are turned away at once.</summary>
internal sealed class AdmissionQueue(int workers, int length) : IDisposable
{
    private readonly SemaphoreSlim free = new(workers);
    private int admitted;

    /// <summary>Requests that run.</summary>
    public int Running => workers - free.CurrentCount;

    /// <summary>Requests that wait.</summary>
    public int Waiting => Math.Max(0, Volatile.Read(ref admitted) - Running);

    /// <summary>Waits for a turn.</summary>
    /// <returns>Ends the turn when it is disposed; null where the queue is full.</returns>
    public async Task<IDisposable?> EnterAsync(CancellationToken cancellation)
    {
        if (Interlocked.Increment(ref admitted) > workers + length)
        {
            Interlocked.Decrement(ref admitted);
            return null;
        }

        try
        {
            await free.WaitAsync(cancellation);
            return new Turn(this);
        }
        catch
        {
            Interlocked.Decrement(ref admitted);
            throw;
        }
    }

    public void Dispose() => free.Dispose();

    private sealed class Turn(AdmissionQueue queue) : IDisposable
    {
        public void Dispose()
        {
            queue.free.Release();
            Interlocked.Decrement(ref queue.admitted);
        }
    }
}
