using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels.Cpu;

/// <summary>Work that is cut into tasks which do not depend on each other.</summary>
internal interface ILaneWork
{
    /// <summary>Runs one task with registers of one width.</summary>
    void Run<TLane>(int task)
        where TLane : struct, ILane<TLane>;
}

/// <summary>
/// Runs tasks with the widest registers there are, on the <see cref="WorkerTeam"/>. The cut into tasks does not depend on the
/// number of threads, so with sums of a fixed order within and over tasks, results are the same bit for bit on any number of them.
/// </summary>
internal static class LaneTasks
{
    /// <summary>Below this many elements, waking another thread costs more than it saves.</summary>
    private const long WorthAThread = 1 << 15;

    /// <summary>
    /// True where kernels of registers may run on the tensors of a call: all on CPU, numbers of a dtype that float32 holds. Masks (bool) and
    /// indices (int64) only have to be on CPU. Otherwise says which tensor is why not.
    /// </summary>
    /// <param name="reason">Why not; empty where they may.</param>
    /// <param name="tensors">All tensors of the call under their names; null ones are none.</param>
    public static bool CanRun(out string reason, params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors) => AllFit(false, out reason, tensors);

    /// <summary><see cref="CanRun"/> for kernels that read the memory as it is, and so take float32 only.</summary>
    /// <param name="reason">Why not; empty where they may.</param>
    /// <param name="tensors">All tensors of the call under their names; null ones are none.</param>
    public static bool CanRunFloat32(out string reason, params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors) => AllFit(true, out reason, tensors);

    /// <summary>True where tensors are contiguous, for kernels that read their memory as it is; otherwise says which is not.</summary>
    /// <param name="reason">Why not; empty where they are.</param>
    /// <param name="tensors">Tensors under their names; null ones are none.</param>
    public static bool AreContiguous(out string reason, params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors)
    {
        foreach (var (name, tensor) in tensors)
        {
            if (tensor?.is_contiguous() == false)
            {
                reason = $"{name} is not contiguous";
                return false;
            }
        }

        reason = "";
        return true;
    }

    /// <summary>Runs all tasks.</summary>
    /// <param name="work">What a task does.</param>
    /// <param name="tasks">How many.</param>
    /// <param name="elements">Elements that all of them together compute.</param>
    public static void Run<TWork>(TWork work, int tasks, long elements)
        where TWork : unmanaged, ILaneWork => LaneWidth.Run(new Tasks<TWork>(work, tasks, elements));

    private static bool AllFit(bool onlyFloat32, out string reason, ReadOnlySpan<(string Name, Tensor? Tensor)> tensors)
    {
        reason = KernelDispatcher.ReferenceOnly ? "HYBRID_KERNELS=reference" : "";
        foreach (var (name, tensor) in tensors)
        {
            if (reason.Length > 0)
            {
                break;
            }

            reason = tensor is null ? "" : (tensor.device_type, tensor.dtype) switch
            {
                (not DeviceType.CPU and var device, _) => $"{name} is on {device}",
                (_, ScalarType.Float32 or ScalarType.Bool or ScalarType.Int64) => "",
                (_, ScalarType.BFloat16 or ScalarType.Float16) when !onlyFloat32 => "",
                (_, var dtype) => $"{name} is {dtype}",
            };
        }

        return reason.Length == 0;
    }

    private readonly struct Tasks<TWork>(TWork work, int tasks, long elements) : ILaneCode
        where TWork : unmanaged, ILaneWork
    {
        public void Run<TLane>()
            where TLane : struct, ILane<TLane> =>
            WorkerTeam.Run(new Part<TWork, TLane>(work), tasks, elements < WorthAThread ? 1 : int.MaxValue);
    }

    /// <summary>A task as the part of a team's work.</summary>
    private readonly struct Part<TWork, TLane>(TWork work) : IPartedWork
        where TWork : unmanaged, ILaneWork
        where TLane : struct, ILane<TLane>
    {
        private readonly TWork work = work;

        public void Run(int part) => work.Run<TLane>(part);
    }
}
