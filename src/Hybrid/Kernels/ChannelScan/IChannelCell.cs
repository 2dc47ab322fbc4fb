using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

/// <summary>
/// One step of a recurrence whose channels never meet: what a channel becomes depends on its own inputs, constants and states alone. All
/// methods work on the neighbouring channels of a group, in passes of few functions each: the JIT inlines only so much into one method, and
/// a register handed from method to method goes through memory.
/// </summary>
internal interface IChannelCell
{
    /// <summary>States of a channel; at most <see cref="ChannelScanSizes.MostStates"/>.</summary>
    static abstract int States { get; }

    /// <summary>A state before the first token.</summary>
    static abstract float Fresh(int state);

    /// <summary>Moves the states on by a step.</summary>
    void Advance<TLane>(in ChannelStep<TLane> step)
        where TLane : struct, ILane<TLane>;

    /// <summary>Moves the states on by a step and sets the output.</summary>
    void Forward<TLane>(in ChannelStep<TLane> step)
        where TLane : struct, ILane<TLane>;

    /// <summary>
    /// The step backwards: from the gradient of the output and those of the states after the step to those of the inputs, of the constants
    /// and of the states before it.
    /// </summary>
    void Backward<TLane>(in ChannelStep<TLane> step)
        where TLane : struct, ILane<TLane>;
}

/// <summary>What is at hand of one step for a group of channels. Registers of channels start at a multiple of their width.</summary>
internal unsafe struct ChannelStep<TLane>
    where TLane : struct, ILane<TLane>
{
    /// <summary>Channels of the group.</summary>
    public int Count;

    /// <summary>Floats from one constant or state to the next: the channels, rounded up to whole registers.</summary>
    public int Stride;

    /// <summary>False at padding.</summary>
    public bool IsReal;

    /// <summary>True at the first token of a sequence within a row.</summary>
    public bool Restarts;

    /// <summary>The inputs at this step, null where there is none; and where their gradients go.</summary>
    public float** Inputs;
    public float** GradInputs;

    /// <summary>Where the output goes, and its gradient.</summary>
    public float* Output;
    public float* GradOutput;

    /// <summary>[constants, stride] and [states, stride], with the sums of their gradients.</summary>
    public float* Constants;
    public float* GradConstants;
    public float* Before;
    public float* After;
    public float* GradStates;

    /// <summary>[<see cref="ChannelScanSizes.WorkRows"/>, stride]: what one pass leaves to the next.</summary>
    public float* Work;

    /// <summary>True where there is such an input.</summary>
    public readonly bool Has(int input) => Inputs[input] != null;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly TLane Input(int input, int channel) => LaneMemory.Load<TLane>(Inputs[input] + channel, Count - channel);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly void SetGradInput(int input, int channel, TLane value) => LaneMemory.Store(value, GradInputs[input] + channel, Count - channel);

    /// <summary>A gradient of an input that an earlier pass of the step has set.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly TLane GradInput(int input, int channel) => LaneMemory.Load<TLane>(GradInputs[input] + channel, Count - channel);

    /// <summary>The output that an earlier pass of the step has set.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly TLane OutputSoFar(int channel) => LaneMemory.Load<TLane>(Output + channel, Count - channel);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly void SetOutput(int channel, TLane value) => LaneMemory.Store(value, Output + channel, Count - channel);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly TLane Gradient(int channel) => LaneMemory.Load<TLane>(GradOutput + channel, Count - channel);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly TLane Constant(int constant, int channel) => TLane.Load(Constants + (constant * Stride) + channel);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly void AddGradConstant(int constant, int channel, TLane value)
    {
        var sum = GradConstants + (constant * Stride) + channel;
        TLane.Store(TLane.Load(sum) + value, sum);
    }

    /// <summary>A state before the step.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly TLane StateBefore(int state, int channel) => TLane.Load(Before + (state * Stride) + channel);

    /// <summary>A state after the step.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly TLane StateAfter(int state, int channel) => TLane.Load(After + (state * Stride) + channel);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly void SetState(int state, int channel, TLane value) => TLane.Store(value, After + (state * Stride) + channel);

    /// <summary>The gradient of a state: after the step until it is set, from then on before it.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly TLane GradState(int state, int channel) => TLane.Load(GradStates + (state * Stride) + channel);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly void SetGradState(int state, int channel, TLane value) => TLane.Store(value, GradStates + (state * Stride) + channel);

    /// <summary>What an earlier pass of the step left.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly TLane Left(int row, int channel) => TLane.Load(Work + (row * Stride) + channel);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly void Leave(int row, int channel, TLane value) => TLane.Store(value, Work + (row * Stride) + channel);

    /// <summary>The output is a state.</summary>
    public readonly void OutputState(int state) => LaneMemory.Copy(After + (state * Stride), Output, Count);

    /// <summary>The output was a state, so that its gradient is one of that state.</summary>
    public readonly void AddGradOutput(int state)
    {
        for (var channel = 0; channel < Count; channel += TLane.Count)
        {
            SetGradState(state, channel, GradState(state, channel) + Gradient(channel));
        }
    }

    /// <summary>The states of a step that does nothing.</summary>
    public readonly void KeepStates(int states)
    {
        if (After != Before)
        {
            LaneMemory.Copy(Before, After, states * Stride);
        }
    }

    /// <summary>Gradients of the inputs of a step that does nothing: zero.</summary>
    public readonly void ClearGradInput(int input) => LaneMemory.Clear(GradInputs[input], Count);
}
