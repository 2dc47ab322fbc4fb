using TorchSharp.Native;

namespace TorchSharp;

public static partial class torch
{
    public partial class Tensor : IDisposable
    {
        private static long totalCount;
        private static long peakCount;

        internal nint handle;

        /// <summary>Takes the handle over; 0 makes an invalid tensor, which no count and no scope sees.</summary>
        internal Tensor(nint handle)
        {
            this.handle = handle;
            if (handle == 0) return;
            CountNew();
            OwningDisposeScope = DisposeScopeManager.OfThread.Register(this);
        }

        /// <summary>Takes the handle of another tensor over, and its place in a dispose scope; the other one is empty then.</summary>
        private protected Tensor(Tensor source)
        {
            handle = source.Handle;
            source.handle = 0;
            GC.SuppressFinalize(source);
            DisposeScope.Replace(source, this);
        }

        internal DisposeScope? OwningDisposeScope { get; set; }

        /// <summary>A name for debugging.</summary>
        public string? name { get; set; }

        public static long TotalCount => Interlocked.Read(ref totalCount);
        public static long PeakCount => Interlocked.Read(ref peakCount);

        public bool IsInvalid => handle == 0;

        public nint Handle => handle != 0 ? handle : throw new InvalidOperationException("Tensor invalid -- empty handle.");

        public static Tensor UnsafeCreateTensor(nint handle) => new(handle);

        /// <summary>Gives the native handle away.</summary>
        public nint DecoupleFromNativeHandle()
        {
            GC.SuppressFinalize(this);
            var owned = Handle;
            handle = 0;
            Interlocked.Decrement(ref totalCount);
            return owned;
        }

        ~Tensor() => Dispose(false);

        public void Dispose()
        {
            Dispose(true);
            GC.SuppressFinalize(this);
        }

        protected virtual void Dispose(bool disposing)
        {
            if (handle == 0) return;
            if (disposing)
            {
                DisposeScopeManager.OfThread.CountDisposal(this);
                OwningDisposeScope?.MarkAsDisposed(this);
            }
            Interlocked.Decrement(ref totalCount);
            Shim.hy_tensor_free(handle);
            handle = 0;
        }

        public Tensor MoveToOuterDisposeScope()
        {
            OwningDisposeScope?.MoveToOuter(this);
            return this;
        }

        public Tensor DetachFromDisposeScope()
        {
            OwningDisposeScope?.Detach(this);
            return this;
        }

        public Tensor MoveToOtherDisposeScope(DisposeScope? other)
        {
            if (OwningDisposeScope is { } owner) owner.MoveToOther(other, this);
            else other?.Attach(this);
            return this;
        }

        public Tensor MoveToOtherDisposeScope(Tensor other) => MoveToOtherDisposeScope(other.OwningDisposeScope);

        /// <summary>Another handle of the same tensor.</summary>
        public Tensor alias()
        {
            var other = new Tensor(Shim.hy_tensor_alias(Handle));
            GC.KeepAlive(this);
            return other;
        }

        public override bool Equals(object? obj) => obj is Tensor other && Equals(other);

        /// <summary>Whether both have the same shape and elements.</summary>
        public bool Equals(Tensor target) => Ops.equal.Calls(this, target).Bool;

        public override int GetHashCode() => base.GetHashCode();

        private static void CountNew()
        {
            var count = Interlocked.Increment(ref totalCount);
            if (count > peakCount) peakCount = count;
        }
    }
}
