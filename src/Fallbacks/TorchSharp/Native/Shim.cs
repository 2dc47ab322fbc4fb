using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

[assembly: DisableRuntimeMarshalling]
[module: SkipLocalsInit]

namespace TorchSharp.Native;

/// <summary>One argument or result as it crosses the boundary.</summary>
[StructLayout(LayoutKind.Explicit, Size = 16)]
internal unsafe struct Value
{
    [FieldOffset(0)] public Tag Tag;
    [FieldOffset(4)] public int Count;
    [FieldOffset(8)] public long Integer;
    [FieldOffset(8)] public double Real;
    [FieldOffset(8)] public void* Pointer;
}

/// <summary>What a <see cref="Value"/> holds. From Complex on, a pointer; Default is the default of the operator's schema.</summary>
internal enum Tag
{
    Default, None, Tensor, Int, Double, Bool, Device, Generator,
    Complex, String, IntList, DoubleList, BoolList, TensorList, OptionalTensorList,
}

/// <summary>A custom function's forward, run, as it is handed to the graph.</summary>
internal unsafe struct FunctionCall
{
    public nint Managed;
    public nint* Inputs, Outputs, Saved, Dirty, NonDifferentiable;
    public int InputCount, OutputCount, SavedCount, DirtyCount, NonDifferentiableCount;
}

/// <summary>
/// The functions of the native shim. Those that give an int give a negative one on failure. What only reads a field stays in
/// cooperative mode (SuppressGCTransition), so that no collection can take the tensor away meanwhile; callers of the others
/// keep their tensors alive themselves.
/// </summary>
internal static unsafe class Shim
{
    public const string Library = "HybridTorchShim";

    static Shim() => NativeLibrary.SetDllImportResolver(typeof(Shim).Assembly, Loader.Load);

    [DllImport(Library)] public static extern byte* hy_error();
    [DllImport(Library)] public static extern byte* hy_version();

    [DllImport(Library)] public static extern nint hy_operator(byte* name, byte* overload);
    [DllImport(Library)] public static extern byte hy_operator_exists(byte* name, byte* overload);
    [DllImport(Library)] public static extern int hy_call_tensor(nint op, Value* arguments, int count, nint* result);
    [DllImport(Library)] public static extern int hy_call(nint op, Value* arguments, int count, Value* results, int capacity);
    [DllImport(Library)] public static extern void hy_list_free(void* handles);

    [DllImport(Library)] public static extern void hy_tensor_free(nint tensor);
    [DllImport(Library)] public static extern nint hy_tensor_alias(nint tensor);
    [DllImport(Library), SuppressGCTransition] public static extern long hy_tensor_dim(nint tensor);
    [DllImport(Library), SuppressGCTransition] public static extern long hy_tensor_numel(nint tensor);
    [DllImport(Library), SuppressGCTransition] public static extern long hy_tensor_sizes(nint tensor, long* sizes, long capacity);
    [DllImport(Library), SuppressGCTransition] public static extern long hy_tensor_strides(nint tensor, long* strides, long capacity);
    [DllImport(Library), SuppressGCTransition] public static extern int hy_tensor_dtype(nint tensor);
    [DllImport(Library), SuppressGCTransition] public static extern long hy_tensor_element_size(nint tensor);
    [DllImport(Library), SuppressGCTransition] public static extern long hy_tensor_device(nint tensor);
    [DllImport(Library), SuppressGCTransition] public static extern long hy_tensor_storage_offset(nint tensor);
    [DllImport(Library), SuppressGCTransition] public static extern byte hy_tensor_is_contiguous(nint tensor);
    [DllImport(Library), SuppressGCTransition] public static extern byte hy_tensor_is_sparse(nint tensor);
    [DllImport(Library)] public static extern void* hy_tensor_data(nint tensor);
    [DllImport(Library), SuppressGCTransition] public static extern nint hy_storage_data(nint tensor);
    [DllImport(Library), SuppressGCTransition] public static extern ulong hy_storage_bytes(nint tensor);
    [DllImport(Library)] public static extern nint hy_tensor_copy_of(void* source, long* sizes, int dimensions, int dtype);
    [DllImport(Library)] public static extern int hy_tensor_item(nint tensor, double* real, double* imaginary, long* integer);

    [DllImport(Library), SuppressGCTransition] public static extern byte hy_tensor_requires_grad(nint tensor);
    [DllImport(Library)] public static extern int hy_tensor_set_requires_grad(nint tensor, byte value);
    [DllImport(Library), SuppressGCTransition] public static extern byte hy_tensor_is_leaf(nint tensor);
    [DllImport(Library)] public static extern int hy_tensor_retain_grad(nint tensor);
    [DllImport(Library)] public static extern nint hy_tensor_grad(nint tensor);
    [DllImport(Library)] public static extern int hy_tensor_set_grad(nint tensor, nint grad);
    [DllImport(Library)] public static extern int hy_tensor_set_data(nint tensor, nint data);

    [DllImport(Library)] public static extern int hy_backward(
        nint* roots, nint* gradients, int count, int retain, byte create, nint* inputs, int inputCount);
    [DllImport(Library)] public static extern int hy_grad(
        nint* outputs, nint* gradients, int count, nint* inputs, int inputCount, byte retain, byte create, byte allowUnused, nint* results);
    [DllImport(Library), SuppressGCTransition] public static extern byte hy_grad_enabled();
    [DllImport(Library), SuppressGCTransition] public static extern void hy_set_grad_enabled(byte enabled);
    [DllImport(Library)] public static extern nint hy_inference_mode_enter(byte enabled);
    [DllImport(Library)] public static extern void hy_inference_mode_leave(nint guard);
    [DllImport(Library)] public static extern byte hy_inference_mode_enabled();
    [DllImport(Library)] public static extern byte hy_anomaly_enabled();
    [DllImport(Library)] public static extern byte hy_anomaly_checks_nan();
    [DllImport(Library)] public static extern void hy_set_anomaly(byte enabled, byte checkNan);
    [DllImport(Library)] public static extern void hy_function_callbacks(
        delegate* unmanaged<nint, nint, nint*, int, nint*, long> backward, delegate* unmanaged<nint, void> release);
    [DllImport(Library)] public static extern int hy_function_apply(FunctionCall* call, nint* results);
    [DllImport(Library)] public static extern int hy_function_saved_count(nint node);
    [DllImport(Library)] public static extern int hy_function_saved(nint node, nint* results);

    [DllImport(Library)] public static extern int hy_threads();
    [DllImport(Library)] public static extern int hy_set_threads(int count);
    [DllImport(Library)] public static extern int hy_interop_threads();
    [DllImport(Library)] public static extern int hy_set_interop_threads(int count);
    [DllImport(Library)] public static extern int hy_device_count(int type);
    [DllImport(Library)] public static extern int hy_device_current(int type);
    [DllImport(Library)] public static extern int hy_device_synchronize(long device);
    [DllImport(Library)] public static extern int hy_manual_seed(ulong seed);
    [DllImport(Library)] public static extern nint hy_generator(long device, ulong seed);
    [DllImport(Library)] public static extern nint hy_default_generator(long device);
    [DllImport(Library)] public static extern void hy_generator_free(nint generator);
    [DllImport(Library)] public static extern int hy_generator_set_seed(nint generator, ulong seed);
    [DllImport(Library)] public static extern ulong hy_generator_initial_seed(nint generator);
    [DllImport(Library)] public static extern ulong hy_generator_seed(nint generator);
    [DllImport(Library)] public static extern nint hy_generator_state(nint generator);
    [DllImport(Library)] public static extern int hy_generator_set_state(nint generator, nint state);

    /// <summary>Throws what the last failed call of this thread left behind.</summary>
    [MethodImpl(MethodImplOptions.NoInlining), System.Diagnostics.CodeAnalysis.DoesNotReturn]
    public static void Throw()
    {
        var text = Marshal.PtrToStringUTF8((nint)hy_error()) ?? "libtorch failed without a message";
        ManagedFailures.Rethrow(text);
        throw new ExternalException(text);
    }

    public static void Check(int status)
    {
        if (status < 0) Throw();
    }

    /// <summary>A handle that must not be null, or the error that made it so.</summary>
    public static nint Check(nint handle)
    {
        if (handle == 0) Throw();
        return handle;
    }

    public static byte Byte(bool value) => value ? (byte)1 : (byte)0;
}
