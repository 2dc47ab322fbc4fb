using System.Collections.Concurrent;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels.Cuda;

/// <summary>Compiles kernels for one device and launches them on its default stream, where libtorch's own work is.</summary>
internal sealed unsafe class CudaRuntime
{
    /// <summary>Threads of a block, as the prelude has it.</summary>
    private const int BlockThreads = 128;

    private static readonly AsyncLocal<CudaRuntime?> StandIns = new();
    private static volatile bool anyStandIn;

    private static readonly ConcurrentDictionary<int, Lazy<(CudaRuntime? Runtime, string Reason)>> Devices = new();
    private readonly ConcurrentDictionary<CudaProgram, Lazy<nint>> modules = new();
    private readonly ConcurrentDictionary<(CudaProgram Program, string Kernel), nint> functions = new();
    private readonly CudaDriver driver;
    private readonly Nvrtc nvrtc;
    private readonly CudaKernelCache cache;
    private readonly nint context;
    private readonly string architecture;
    private readonly Lazy<nint> barrier;
    private long launches;

    private CudaRuntime(int device, CudaDriver driver, Nvrtc nvrtc, CudaKernelCache cache, bool isStandIn)
    {
        (this.driver, this.nvrtc, this.cache, Device) = (driver, nvrtc, cache, device);
        (TorchDevice, Name) = isStandIn ? (CPU, "on CPU") : (new Device(DeviceType.CUDA, device), $"{device}");
        Multiprocessors = driver.Read(CudaDriver.Attribute.Multiprocessors, device);
        architecture = nvrtc.Architecture(
            (10 * driver.Read(CudaDriver.Attribute.CapabilityMajor, device)) + driver.Read(CudaDriver.Attribute.CapabilityMinor, device));
        context = driver.RetainContext(device);
        barrier = new(() =>
        {
            using var current = driver.Use(context);
            return driver.AllocateZero();
        });
    }

    /// <summary>Number of the device.</summary>
    public int Device { get; }

    /// <summary>Multiprocessors of the device.</summary>
    public int Multiprocessors { get; }

    /// <summary>Threads that fill the device: what is less leaves multiprocessors idle, what is more waits its turn.</summary>
    public long FullThreads => Multiprocessors * 1024L;

    /// <summary>The device, as TorchSharp names it; the CPU for a <see cref="StandIn"/>.</summary>
    public Device TorchDevice { get; }

    /// <summary>The device in the names of its kernels.</summary>
    public string Name { get; }

    /// <summary>
    /// What takes the place of a device for tensors on CPU, on this thread and those that it starts: the way from a layer to its kernels can
    /// then be gone without a GPU. Null, but in tests.
    /// </summary>
    internal static CudaRuntime? StandIn
    {
        get => anyStandIn ? StandIns.Value : null;
        set
        {
            anyStandIn = true;
            StandIns.Value = value;
        }
    }

    /// <summary>
    /// True where kernels can be compiled and launched for the tensors of a call: all on one CUDA device, numbers of a dtype that float32 holds,
    /// masks bool and indices int64. Otherwise says which tensor, or what of the system, is why not.
    /// </summary>
    /// <param name="runtime">Of their device, where there is one.</param>
    /// <param name="reason">Why not; empty where they can.</param>
    /// <param name="tensors">All tensors of the call under their names; null ones are none.</param>
    public static bool TryGet(out CudaRuntime runtime, out string reason, params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors)
    {
        runtime = null!;
        reason = KernelDispatcher.ReferenceOnly ? "HYBRID_KERNELS=reference" : "";
        var device = -1;
        foreach (var (name, tensor) in tensors)
        {
            if (reason.Length == 0 && tensor is not null)
            {
                reason = (tensor.device_type, tensor.dtype) switch
                {
                    (not DeviceType.CUDA and var other, _) when StandInFor(tensor) is null => $"{name} is on {other}",
                    (_, not (ScalarType.Bool or ScalarType.Int64) and var dtype) when !CudaProgram.Holds(dtype) => $"{name} is {dtype}",
                    _ when device >= 0 && tensor.device_index != device => $"{name} is on another device",
                    _ => "",
                };
                device = tensor.device_index;
            }
        }

        if (reason.Length > 0)
        {
            return false;
        }

        (var known, reason) = device < 0 ? (StandIn, "") : Find(device);
        runtime = known!;
        return known is not null;
    }

    /// <summary>The runtime of a tensor's device; null where it is not on a CUDA device, or that device has none.</summary>
    public static CudaRuntime? Of(Tensor tensor) => tensor.device_type == DeviceType.CUDA ? Find(tensor.device_index).Runtime : StandInFor(tensor);

    /// <summary>True for a tensor in the memory of a CUDA device.</summary>
    public static bool Holds(Tensor tensor) => tensor.device_type == DeviceType.CUDA || StandInFor(tensor) is not null;

    private static CudaRuntime? StandInFor(Tensor tensor) => StandIn is { } standIn && tensor.device_type == DeviceType.CPU ? standIn : null;

    /// <summary>Opens a device; null, and why not, where there is no driver, no NVRTC or no such device.</summary>
    /// <param name="device">Number of the device.</param>
    /// <param name="driverLibraries">Names of the driver, best first.</param>
    /// <param name="nvrtcLibraries">Names or paths of NVRTC, best first.</param>
    /// <param name="cache">Where compiled kernels are kept.</param>
    /// <param name="isStandIn">True where the libraries work on the memory of CPU tensors.</param>
    internal static (CudaRuntime? Runtime, string Reason) Open(
        int device, IEnumerable<string> driverLibraries, IEnumerable<string> nvrtcLibraries, CudaKernelCache cache, bool isStandIn = false)
    {
        var driver = CudaLibraries.Load(driverLibraries, out var tried);
        if (driver == 0)
        {
            return (null, $"there is no CUDA driver ({tried})");
        }

        var nvrtc = CudaLibraries.Load(nvrtcLibraries, out tried);
        if (nvrtc == 0)
        {
            return (null, $"there is no NVRTC ({tried}); {CudaLibraries.NvrtcVariable} may name one");
        }

        try
        {
            return (new CudaRuntime(device, new CudaDriver(driver), new Nvrtc(nvrtc), cache, isStandIn), "");
        }
        catch (Exception failure) when (failure is CudaException or EntryPointNotFoundException)
        {
            return (null, failure.Message);
        }
    }

    /// <summary>Kernels launched so far.</summary>
    public long Launches => Interlocked.Read(ref launches);

    /// <summary>Kernels launched so far on all devices of the process.</summary>
    public static long AllLaunches => Devices.Values.Sum(device => device.Value.Runtime?.Launches ?? 0);

    /// <summary>What <c>grid_barrier</c> of the prelude counts in. Launches of one stream follow each other, so one serves them all.</summary>
    public nint Barrier => barrier.Value;

    /// <summary>Most blocks of a launch whose blocks wait for each other: two a multiprocessor run at once whatever registers they take.</summary>
    public long MostBlocksTogether => 2L * Multiprocessors;

    /// <summary>Puts a kernel on the default stream.</summary>
    /// <param name="program">Where it is.</param>
    /// <param name="kernel">Its name.</param>
    /// <param name="threads">Threads that have work; none launches nothing.</param>
    /// <param name="arguments">What it gets, as the file declares it.</param>
    /// <exception cref="CudaException">It does not compile, load or launch.</exception>
    public void Launch<TArguments>(CudaProgram program, string kernel, long threads, in TArguments arguments)
        where TArguments : unmanaged
    {
        var blocks = (threads + BlockThreads - 1) / BlockThreads;
        if (blocks == 0)
        {
            return;
        }

        if (blocks > int.MaxValue)
        {
            throw new CudaException($"{kernel} would take {blocks} blocks of threads; a launch has at most {int.MaxValue}");
        }

        using var current = driver.Use(context);
        var function = functions.GetOrAdd((program, kernel), Function);
        var copy = arguments;
        driver.Launch(function, (uint)blocks, BlockThreads, &copy);
        Interlocked.Increment(ref launches);
    }

    /// <summary>Puts a kernel whose blocks wait for each other on the default stream.</summary>
    /// <param name="program">Where it is.</param>
    /// <param name="kernel">Its name.</param>
    /// <param name="blocks">Blocks that would have work; at most <see cref="MostBlocksTogether"/> run, so each goes on to the next that has none.</param>
    /// <param name="arguments">What it gets, as the file declares it.</param>
    /// <exception cref="CudaException">It does not compile, load or launch.</exception>
    public void LaunchTogether<TArguments>(CudaProgram program, string kernel, long blocks, in TArguments arguments)
        where TArguments : unmanaged
    {
        using var current = driver.Use(context);
        var function = functions.GetOrAdd((program, kernel), Function);
        var copy = arguments;
        driver.LaunchTogether(function, (uint)Math.Min(blocks, MostBlocksTogether), BlockThreads, &copy);
        Interlocked.Increment(ref launches);
    }

    private static (CudaRuntime? Runtime, string Reason) Find(int device) => Devices.GetOrAdd(device, index => new(() => Start(index))).Value;

    private static (CudaRuntime? Runtime, string Reason) Start(int device) =>
        Open(device, CudaLibraries.Driver, CudaLibraries.Nvrtc(), CudaKernelCache.Default());

    private nint Function((CudaProgram Program, string Kernel) wanted)
    {
        var module = modules.GetOrAdd(wanted.Program, program => new(() => Load(program))).Value;
        return driver.Function(module, wanted.Kernel);
    }

    private nint Load(CudaProgram program)
    {
        var source = program.Source();
        var image = cache.Get(
            Path.GetFileNameWithoutExtension(program.File),
            [nvrtc.Version, architecture, program.Options, source],
            () => nvrtc.Compile(program.File, source, architecture, program.Options.Split(' ')));
        return driver.LoadModule(image);
    }
}
