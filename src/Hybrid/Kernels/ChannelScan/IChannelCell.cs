using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

/// <summary>
/// One step of a recurrence whose channels never meet: what a channel becomes depends on its own inputs, constants and states alone. All
/// methods work on as many neighbouring channels as a register has lanes.
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

    /// <summary>Moves the states on by a step and returns the output.</summary>
    TLane Forward<TLane>(in ChannelStep<TLane> step)
        where TLane : struct, ILane<TLane>;

    /// <summary>
    /// The step backwards: from the gradient of the output and those of the states after the step to those of the inputs, of the constants
    /// and of the states before it.
    /// </summary>
    void Backward<TLane>(in ChannelStep<TLane> step, TLane gradient)
        where TLane : struct, ILane<TLane>;
}

/// <summary>What is at hand of one step for as many channels as a register has lanes.</summary>
internal unsafe struct ChannelStep<TLane>
    where TLane : struct, ILane<TLane>
{
    /// <summary>The inputs of the group at this step, null where there is none; and where their gradients go.</summary>
    public float** Inputs;
    public float** GradInputs;

    /// <summary>[constants, stride], [states, stride]: the group's.</summary>
    public float* Constants;
    public float* Before;
    public float* After;
    public float* GradConstants;
    public float* GradStates;

    /// <summary>Floats from one constant or state to the next.</summary>
    public int Stride;

    /// <summary>First channel of the register within the group, and channels from there on.</summary>
    public int Channel;
    public int Width;

    /// <summary>False at padding.</summary>
    public bool IsReal;

    /// <summary>True at the first token of a sequence within a row.</summary>
    public bool Restarts;

    /// <summary>True where there is such an input.</summary>
    public readonly bool Has(int input) => Inputs[input] != null;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly TLane Input(int input) => LaneMemory.Load<TLane>(Inputs[input] + Channel, Width);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly TLane Constant(int constant) => TLane.Load(Constants + (constant * Stride) + Channel);

    /// <summary>A state before the step.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly TLane StateBefore(int state) => TLane.Load(Before + (state * Stride) + Channel);

    /// <summary>A state after the step.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly TLane StateAfter(int state) => TLane.Load(After + (state * Stride) + Channel);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly void SetState(int state, TLane value) => TLane.Store(value, After + (state * Stride) + Channel);

    /// <summary>The gradient of a state: after the step until it is set, from then on before it.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly TLane GradState(int state) => TLane.Load(GradStates + (state * Stride) + Channel);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly void SetGradState(int state, TLane value) => TLane.Store(value, GradStates + (state * Stride) + Channel);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly void SetGradInput(int input, TLane value) => LaneMemory.Store(value, GradInputs[input] + Channel, Width);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly void AddGradConstant(int constant, TLane value)
    {
        var sum = GradConstants + (constant * Stride) + Channel;
        TLane.Store(TLane.Load(sum) + value, sum);
    }
}
