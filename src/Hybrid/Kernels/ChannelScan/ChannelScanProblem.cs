using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>The tensors of a scan on CPU, all float32.</summary>
/// <param name="Inputs">Each [B, T, E] with channels next to each other, or [B, T, nE], which is n inputs; null ones are none.</param>
/// <param name="Constants">Each [E].</param>
/// <param name="Initial">The states before the first step, each [B, E]; empty for fresh ones.</param>
/// <param name="Mask">Bool [B, T], false at padding, or null.</param>
/// <param name="Restart">Bool [B, T], true at first tokens, or null.</param>
/// <param name="Channels">E.</param>
internal sealed record ChannelScanTensors(
    Tensor?[] Inputs, Tensor[] Constants, Tensor[] Initial, Tensor? Mask, Tensor? Restart, int Channels)
{
    /// <summary>All tensors, in the order of the constructor; null where there is none.</summary>
    public Tensor?[] All => [.. Inputs, .. Constants, .. Initial, Mask, Restart];

    /// <summary>What tells <see cref="All"/> apart again.</summary>
    public ChannelScanLayout Layout => new(Inputs.Length, Constants.Length, Channels);

    /// <summary>From <see cref="All"/>.</summary>
    public static ChannelScanTensors From(IReadOnlyList<Tensor?> all, ChannelScanLayout layout)
    {
        var (tensors, inputs, constants) = (all.ToArray(), layout.Inputs, layout.Constants);
        return new(
            tensors[..inputs], [.. tensors[inputs..(inputs + constants)]!], [.. tensors[(inputs + constants)..^2]!], tensors[^2], tensors[^1], layout.Channels);
    }
}

/// <summary>How many inputs and constants a scan has, and channels E.</summary>
internal sealed record ChannelScanLayout(int Inputs, int Constants, int Channels);

/// <summary>Sizes of a scan, and how it is cut into work: time into chunks of 32 steps, channels into groups.</summary>
internal readonly struct ChannelScanSizes
{
    public const int ChunkSteps = 32;
    public const int MostInputs = 4;
    public const int MostConstants = 4;
    public const int MostStates = 3;

    /// <summary>Rows of memory that a step has to itself.</summary>
    public const int WorkRows = 3;
    private const int MostGroupChannels = 512;
    private const int FewestGroupChannels = 64;
    private const int WidestLane = 16;

    /// <summary>Sizes of a scan of so many states a channel.</summary>
    public ChannelScanSizes(ChannelScanTensors x, int states)
    {
        var shape = x.Inputs[0]!.shape;
        (Batch, Time, Channels, Constants) = ((int)shape[0], (int)shape[1], x.Channels, x.Constants.Length);
        Inputs = x.Inputs.Sum(input => input is null ? 1 : (int)input.size(2) / x.Channels);
        Chunks = (Time + ChunkSteps - 1) / ChunkSteps;

        // Channels never meet, so how many make a group changes no number: as many as leave every thread a group.
        var groups = Math.Max(1, get_num_threads() / Batch);
        var channels = Math.Clamp((Channels + groups - 1) / groups, FewestGroupChannels, MostGroupChannels);
        GroupChannels = (channels + WidestLane - 1) / WidestLane * WidestLane;
        BoundaryCount = (long)Batch * Groups * Chunks * states * GroupChannels;
    }

    public int Batch { get; }

    public int Time { get; }

    public int Channels { get; }

    public int Inputs { get; }

    public int Constants { get; }

    public int Chunks { get; }

    /// <summary>Channels of a group; a multiple of the widest register.</summary>
    public int GroupChannels { get; }

    public int Groups => (Channels + GroupChannels - 1) / GroupChannels;

    /// <summary>Floats that the states before all chunks take.</summary>
    public long BoundaryCount { get; }

    public long Elements => (long)Batch * Time * Channels;
}

/// <summary>Views of some tensors of time.</summary>
[InlineArray(ChannelScanSizes.MostInputs)]
internal struct RowViews
{
    private RowView first;

    /// <summary>Views of tensors [B, T, nE], n views of each; of null one that does not exist.</summary>
    public static RowViews Of(IReadOnlyList<Tensor?> tensors, int channels)
    {
        var (views, next) = (default(RowViews), 0);
        foreach (var tensor in tensors)
        {
            var parts = tensor is null ? 1 : (int)tensor.size(2) / channels;
            for (var part = 0; part < parts; part++)
            {
                views[next++] = new RowView(tensor).From(part * channels);
            }
        }

        return views;
    }
}

/// <summary>Addresses of some contiguous tensors of channels; null after the last.</summary>
internal unsafe struct ChannelViews
{
    private fixed long addresses[ChannelScanSizes.MostConstants];

    public ChannelViews(IReadOnlyList<Tensor> tensors)
    {
        for (var i = 0; i < tensors.Count; i++)
        {
            addresses[i] = (long)TensorMemory.Address(tensors[i]);
        }
    }

    public readonly float* this[int index] => (float*)addresses[index];
}

/// <summary>Addresses and strides of the tensors of a scan.</summary>
internal readonly unsafe struct ChannelScanInputs
{
    public readonly ChannelScanSizes Sizes;
    public readonly RowViews Inputs;
    public readonly ChannelViews Constants;
    public readonly ChannelViews Initial;
    private readonly bool* mask;
    private readonly bool* restart;

    public ChannelScanInputs(ChannelScanTensors x, ChannelScanSizes sizes)
    {
        Sizes = sizes;
        Inputs = RowViews.Of(x.Inputs, sizes.Channels);
        (Constants, Initial) = (new ChannelViews(x.Constants), new ChannelViews(x.Initial));
        mask = (bool*)ScanInputs.Floats(x.Mask);
        restart = (bool*)ScanInputs.Floats(x.Restart);
    }

    /// <summary>False at padding.</summary>
    public bool IsReal(int row, int step) => mask == null || mask[((long)row * Sizes.Time) + step];

    /// <summary>True at the first token of a sequence.</summary>
    public bool Restarts(int row, int step) => restart != null && restart[((long)row * Sizes.Time) + step];
}

/// <summary>Addresses of the results: y [B, T, E], the last states [B, E], and the states at chunk boundaries, or null where nobody needs them.</summary>
internal readonly unsafe struct ChannelScanResults(Tensor y, IReadOnlyList<Tensor> final, Tensor? boundaries)
{
    public readonly RowView Y = new(y);
    public readonly ChannelViews Final = new(final);
    public readonly float* Boundaries = ScanInputs.Floats(boundaries);
}

/// <summary>Addresses of the gradients that come in, null where there is none, and of those that go out; of constants a part [B, E].</summary>
internal readonly unsafe struct ChannelScanGradients(
    Tensor? y, IReadOnlyList<Tensor> final, Tensor boundaries, RowViews inputs, IReadOnlyList<Tensor> constants, IReadOnlyList<Tensor> initial)
{
    public readonly RowView Y = new(y);
    public readonly ChannelViews Final = new(final);
    public readonly float* Boundaries = ScanInputs.Floats(boundaries);
    public readonly RowViews Inputs = inputs;
    public readonly ChannelViews Constants = new(constants);
    public readonly ChannelViews Initial = new(initial);
}
