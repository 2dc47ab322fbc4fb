using System.Runtime.InteropServices;
using System.Text;

namespace Hybrid.Kernels.Cuda;

/// <summary>NVIDIA's run-time compiler: C++ source in, machine code of one architecture out. It needs no toolkit and no device.</summary>
internal sealed unsafe class Nvrtc
{
    private readonly delegate* unmanaged<int*, int*, int> version;
    private readonly delegate* unmanaged<int*, int> architectureCount;
    private readonly delegate* unmanaged<int*, int> architectures;
    private readonly delegate* unmanaged<void**, byte*, byte*, int, byte**, byte**, int> createProgram;
    private readonly delegate* unmanaged<void*, int, byte**, int> compileProgram;
    private readonly delegate* unmanaged<void**, int> destroyProgram;
    private readonly Output log;
    private readonly Output cubin;
    private readonly Output ptx;
    private readonly delegate* unmanaged<int, byte*> errorString;

    /// <param name="library">The loaded library.</param>
    /// <exception cref="EntryPointNotFoundException">It is older than CUDA 11.2.</exception>
    public Nvrtc(nint library)
    {
        version = (delegate* unmanaged<int*, int*, int>)Export("nvrtcVersion");
        architectureCount = (delegate* unmanaged<int*, int>)Export("nvrtcGetNumSupportedArchs");
        architectures = (delegate* unmanaged<int*, int>)Export("nvrtcGetSupportedArchs");
        createProgram = (delegate* unmanaged<void**, byte*, byte*, int, byte**, byte**, int>)Export("nvrtcCreateProgram");
        compileProgram = (delegate* unmanaged<void*, int, byte**, int>)Export("nvrtcCompileProgram");
        destroyProgram = (delegate* unmanaged<void**, int>)Export("nvrtcDestroyProgram");
        log = new Output(Export("nvrtcGetProgramLogSize"), Export("nvrtcGetProgramLog"));
        cubin = new Output(Export("nvrtcGetCUBINSize"), Export("nvrtcGetCUBIN"));
        ptx = new Output(Export("nvrtcGetPTXSize"), Export("nvrtcGetPTX"));
        errorString = (delegate* unmanaged<int, byte*>)Export("nvrtcGetErrorString");

        nint Export(string name) => NativeLibrary.GetExport(library, name);
    }

    /// <summary>Its version, such as 12.8.</summary>
    public string Version
    {
        get
        {
            int major, minor;
            Check(version(&major, &minor), "nvrtcVersion");
            return $"{major}.{minor}";
        }
    }

    /// <summary>
    /// The option that compiles for a device: machine code (sm_) where this NVRTC knows it, else the nearest older virtual architecture
    /// (compute_), which the driver translates when the module is loaded.
    /// </summary>
    /// <param name="capability">Compute capability, such as 90.</param>
    /// <exception cref="CudaException">The device is older than all that this NVRTC compiles for.</exception>
    public string Architecture(int capability)
    {
        int count;
        Check(architectureCount(&count), "nvrtcGetNumSupportedArchs");
        var known = new int[count];
        fixed (int* target = known)
        {
            Check(architectures(target), "nvrtcGetSupportedArchs");
        }

        if (known.Contains(capability))
        {
            return $"sm_{capability}";
        }

        var older = known.Where(architecture => architecture < capability).DefaultIfEmpty(0).Max();
        return older > 0
            ? $"compute_{older}"
            : throw new CudaException($"NVRTC {Version} compiles for compute capability {known.Min()} and above; the device has {capability}");
    }

    /// <summary>Compiles a file of kernels.</summary>
    /// <param name="name">Its name, for messages.</param>
    /// <param name="source">Its text.</param>
    /// <param name="architecture">What <see cref="Architecture"/> gave.</param>
    /// <param name="options">Further options.</param>
    /// <returns>Machine code for sm_, PTX text for compute_.</returns>
    /// <exception cref="CudaException">It does not compile; the message has the compiler's own.</exception>
    public byte[] Compile(string name, string source, string architecture, IEnumerable<string> options)
    {
        string[] all = [$"--gpu-architecture={architecture}", "-std=c++17", .. options];
        void* program;
        fixed (byte* text = Encoded(source), file = Encoded(name))
        {
            Check(createProgram(&program, text, file, 0, null, null), "nvrtcCreateProgram");
        }

        try
        {
            if (Compile(program, all) != 0)
            {
                var said = Encoding.UTF8.GetString(Read(log, program, "nvrtcGetProgramLog")).TrimEnd('\0', '\n');
                throw new CudaException($"{name} does not compile for {architecture} with {string.Join(' ', all)}: {said}");
            }

            return architecture.StartsWith("sm_", StringComparison.Ordinal) ? Read(cubin, program, "nvrtcGetCUBIN") : Read(ptx, program, "nvrtcGetPTX");
        }
        finally
        {
            destroyProgram(&program);
        }
    }

    private byte[] Read(Output output, void* program, string what)
    {
        nuint bytes;
        Check(output.Size(program, &bytes), what);
        var data = new byte[bytes];
        fixed (byte* target = data)
        {
            Check(output.Get(program, target), what);
        }

        return data;
    }

    private int Compile(void* program, string[] options)
    {
        var texts = Array.ConvertAll(options, Marshal.StringToCoTaskMemUTF8);
        try
        {
            fixed (nint* addresses = texts)
            {
                return compileProgram(program, texts.Length, (byte**)addresses);
            }
        }
        finally
        {
            Array.ForEach(texts, Marshal.FreeCoTaskMem);
        }
    }

    private static byte[] Encoded(string text) => Encoding.UTF8.GetBytes(text + '\0');

    private void Check(int result, string what)
    {
        if (result != 0)
        {
            throw new CudaException($"{what} failed: {Marshal.PtrToStringUTF8((nint)errorString(result))}");
        }
    }

    /// <summary>A result that is asked for its size first.</summary>
    private readonly struct Output(nint size, nint get)
    {
        public readonly delegate* unmanaged<void*, nuint*, int> Size = (delegate* unmanaged<void*, nuint*, int>)size;
        public readonly delegate* unmanaged<void*, byte*, int> Get = (delegate* unmanaged<void*, byte*, int>)get;
    }
}
