using TorchSharp.Native;

namespace TorchSharp;

public static partial class torch
{
    public static string __version__ => System.Runtime.InteropServices.Marshal.PtrToStringUTF8(Version())!;

    private static unsafe nint Version() => (nint)Shim.hy_version();

    public static IDisposable no_grad() => new GradMode(false);
    public static IDisposable enable_grad(bool enabled = true) => new GradMode(enabled);
    public static IDisposable set_grad_enabled(bool mode = true) => new GradMode(mode);
    public static IDisposable inference_mode(bool mode = true) => new InferenceMode(mode);
    public static bool is_grad_enabled() => Shim.hy_grad_enabled() != 0;
    public static bool is_inference_mode_enabled() => Shim.hy_inference_mode_enabled() != 0;

    public static int get_num_threads() => Shim.hy_threads();
    public static void set_num_threads(int num) => Shim.Check(Shim.hy_set_threads(num));
    public static int get_num_interop_threads() => Shim.hy_interop_threads();
    public static void set_num_interop_threads(int num) => Shim.Check(Shim.hy_set_interop_threads(num));

    internal sealed class GradMode : IDisposable
    {
        private readonly bool before = is_grad_enabled();

        public GradMode(bool enabled) => Shim.hy_set_grad_enabled(Shim.Byte(enabled));

        public void Dispose() => Shim.hy_set_grad_enabled(Shim.Byte(before));
    }

    private sealed class InferenceMode(bool enabled) : IDisposable
    {
        private nint guard = Shim.hy_inference_mode_enter(Shim.Byte(enabled));

        public void Dispose()
        {
            if (guard != 0) Shim.hy_inference_mode_leave(guard);
            guard = 0;
        }
    }
}
