using System.Runtime.InteropServices;
using System.Text;

namespace Hybrid.Kernels.Cuda;

/// <summary>
/// The part of the CUDA driver that launching kernels takes. libtorch works in the primary context of a device, so kernels do too; its
/// tensors and its default stream, stream 0, are then theirs.
/// </summary>
internal sealed unsafe class CudaDriver
{
    private readonly delegate* unmanaged<int*, int, int> deviceGet;
    private readonly delegate* unmanaged<int*, int, int, int> deviceGetAttribute;
    private readonly delegate* unmanaged<void**, int, int> primaryContextRetain;
    private readonly delegate* unmanaged<void*, int> contextPush;
    private readonly delegate* unmanaged<void**, int> contextPop;
    private readonly delegate* unmanaged<void**, byte*, int> moduleLoadData;
    private readonly delegate* unmanaged<void**, void*, byte*, int> moduleGetFunction;
    private readonly delegate* unmanaged<void*, uint, uint, uint, uint, uint, uint, uint, void*, void**, void**, int> launchKernel;
    private readonly delegate* unmanaged<void*, uint, uint, uint, uint, uint, uint, uint, void*, void**, int> launchCooperativeKernel;
    private readonly delegate* unmanaged<void**, nuint, int> memoryAllocate;
    private readonly delegate* unmanaged<void*, uint, nuint, int> memorySet;
    private readonly delegate* unmanaged<int, byte**, int> errorString;

    /// <param name="library">The loaded library.</param>
    /// <exception cref="EntryPointNotFoundException">It lacks a function.</exception>
    /// <exception cref="CudaException">It does not start.</exception>
    public CudaDriver(nint library)
    {
        deviceGet = (delegate* unmanaged<int*, int, int>)Export("cuDeviceGet");
        deviceGetAttribute = (delegate* unmanaged<int*, int, int, int>)Export("cuDeviceGetAttribute");
        primaryContextRetain = (delegate* unmanaged<void**, int, int>)Export("cuDevicePrimaryCtxRetain");
        contextPush = (delegate* unmanaged<void*, int>)Export("cuCtxPushCurrent_v2");
        contextPop = (delegate* unmanaged<void**, int>)Export("cuCtxPopCurrent_v2");
        moduleLoadData = (delegate* unmanaged<void**, byte*, int>)Export("cuModuleLoadData");
        moduleGetFunction = (delegate* unmanaged<void**, void*, byte*, int>)Export("cuModuleGetFunction");
        launchKernel = (delegate* unmanaged<void*, uint, uint, uint, uint, uint, uint, uint, void*, void**, void**, int>)Export("cuLaunchKernel");
        launchCooperativeKernel = (delegate* unmanaged<void*, uint, uint, uint, uint, uint, uint, uint, void*, void**, int>)Export("cuLaunchCooperativeKernel");
        memoryAllocate = (delegate* unmanaged<void**, nuint, int>)Export("cuMemAlloc_v2");
        memorySet = (delegate* unmanaged<void*, uint, nuint, int>)Export("cuMemsetD32_v2");
        errorString = (delegate* unmanaged<int, byte**, int>)Export("cuGetErrorString");
        Check(((delegate* unmanaged<uint, int>)Export("cuInit"))(0), "cuInit");

        nint Export(string name) => NativeLibrary.GetExport(library, name);
    }

    /// <summary>What a device is.</summary>
    public enum Attribute
    {
        /// <summary>Number of multiprocessors.</summary>
        Multiprocessors = 16,

        /// <summary>Major number of the compute capability.</summary>
        CapabilityMajor = 75,

        /// <summary>Minor number of the compute capability.</summary>
        CapabilityMinor = 76,
    }

    /// <summary>An attribute of a device, by its number among the visible ones.</summary>
    public int Read(Attribute attribute, int device)
    {
        int handle, value;
        Check(deviceGet(&handle, device), "cuDeviceGet");
        Check(deviceGetAttribute(&value, (int)attribute, handle), "cuDeviceGetAttribute");
        return value;
    }

    /// <summary>The primary context of a device, kept for the life of the process.</summary>
    public nint RetainContext(int device)
    {
        int handle;
        void* context;
        Check(deviceGet(&handle, device), "cuDeviceGet");
        Check(primaryContextRetain(&context, handle), "cuDevicePrimaryCtxRetain");
        return (nint)context;
    }

    /// <summary>Makes a context current on this thread until disposed; libtorch's own choice of a device is as before then.</summary>
    public Current Use(nint context)
    {
        Check(contextPush((void*)context), "cuCtxPushCurrent");
        return new Current(this);
    }

    /// <summary>Loads machine code or PTX into the current context, for the life of the process.</summary>
    public nint LoadModule(byte[] image)
    {
        // The driver reads PTX up to a zero.
        var terminated = new byte[image.Length + 1];
        image.CopyTo(terminated, 0);
        void* module;
        fixed (byte* data = terminated)
        {
            Check(moduleLoadData(&module, data), "cuModuleLoadData");
        }

        return (nint)module;
    }

    /// <summary>A kernel of a module.</summary>
    public nint Function(nint module, string name)
    {
        void* function;
        fixed (byte* text = Encoding.ASCII.GetBytes(name + '\0'))
        {
            Check(moduleGetFunction(&function, (void*)module, text), $"cuModuleGetFunction of {name}");
        }

        return (nint)function;
    }

    /// <summary>Puts a kernel of one argument on the default stream of the current context.</summary>
    public void Launch(nint function, uint blocks, uint threads, void* argument)
    {
        var arguments = stackalloc void*[1] { argument };
        Check(launchKernel((void*)function, blocks, 1, 1, threads, 1, 1, 0, null, arguments, null), "cuLaunchKernel");
    }

    /// <summary>The same for blocks that wait for each other: all of them run at once, or the launch fails.</summary>
    public void LaunchTogether(nint function, uint blocks, uint threads, void* argument)
    {
        var arguments = stackalloc void*[1] { argument };
        Check(launchCooperativeKernel((void*)function, blocks, 1, 1, threads, 1, 1, 0, null, arguments), "cuLaunchCooperativeKernel");
    }

    /// <summary>A number of the device's memory that is 0, in the current context, for the life of the process.</summary>
    public nint AllocateZero()
    {
        void* address;
        Check(memoryAllocate(&address, sizeof(uint)), "cuMemAlloc");
        Check(memorySet(address, 0, 1), "cuMemsetD32");
        return (nint)address;
    }

    private void Check(int result, string what)
    {
        if (result != 0)
        {
            byte* text;
            var message = errorString(result, &text) == 0 ? Marshal.PtrToStringUTF8((nint)text) : "unknown error";
            throw new CudaException($"{what} failed with {result}: {message}");
        }
    }

    /// <summary>A context that is current until disposed.</summary>
    public readonly ref struct Current(CudaDriver driver)
    {
        public void Dispose()
        {
            void* context;
            driver.contextPop(&context);
        }
    }
}
