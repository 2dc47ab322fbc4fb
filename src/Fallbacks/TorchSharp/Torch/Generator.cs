using TorchSharp.Native;

namespace TorchSharp;

public static partial class torch
{
    public class Generator : IDisposable
    {
        private nint handle;

        public Generator(ulong seed = 0, Device? device = null)
        {
            this.device = device ?? new Device(DeviceType.CPU);
            handle = Shim.Check(Shim.hy_generator(this.device.Packed, seed));
        }

        private Generator(nint handle, Device device)
        {
            this.handle = handle;
            this.device = device;
        }

        /// <summary>The generator that is used where none is given.</summary>
        public static Generator Default => DefaultOf(CPU);

        public Device device { get; }

        public nint Handle => handle != 0 ? handle : throw new InvalidOperationException("Generator invalid -- empty handle.");

        public Generator manual_seed(long seed)
        {
            Shim.Check(Shim.hy_generator_set_seed(Handle, (ulong)seed));
            return this;
        }

        /// <summary>Seeds from the system's randomness and returns that seed.</summary>
        public long seed() => (long)Shim.hy_generator_seed(Handle);

        public long initial_seed() => (long)Shim.hy_generator_initial_seed(Handle);

        public Tensor get_state() => new(Shim.Check(Shim.hy_generator_state(Handle)));

        public void set_state(Tensor value) => Shim.Check(Shim.hy_generator_set_state(Handle, value.Handle));

        internal static Generator DefaultOf(Device device) => new(Shim.Check(Shim.hy_default_generator(device.Packed)), device);

        public void Dispose()
        {
            Dispose(true);
            GC.SuppressFinalize(this);
        }

        protected virtual void Dispose(bool disposing)
        {
            var owned = Interlocked.Exchange(ref handle, 0);
            if (owned != 0) Shim.hy_generator_free(owned);
        }

        ~Generator() => Dispose(false);
    }

    /// <summary>Seeds the generators of all devices.</summary>
    public static Generator manual_seed(long seed) => random.manual_seed(seed);

    public static Tensor get_rng_state() => random.get_rng_state();
    public static void set_rng_state(Tensor new_state) => random.set_rng_state(new_state);
    public static long initial_seed() => random.initial_seed();
    public static long seed() => random.seed();

    public static class random
    {
        public static Generator manual_seed(long seed)
        {
            Shim.Check(Shim.hy_manual_seed((ulong)seed));
            return Generator.Default;
        }

        public static Tensor get_rng_state()
        {
            using var generator = Generator.Default;
            return generator.get_state();
        }

        public static void set_rng_state(Tensor new_state)
        {
            using var generator = Generator.Default;
            generator.set_state(new_state);
        }

        public static long initial_seed()
        {
            using var generator = Generator.Default;
            return generator.initial_seed();
        }

        public static long seed()
        {
            using var generator = Generator.Default;
            return generator.seed();
        }
    }
}
