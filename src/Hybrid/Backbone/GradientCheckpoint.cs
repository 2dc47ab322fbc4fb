using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Hybrid.Backbone;

/// <summary>
/// Gradient checkpointing (Chen et al., arXiv 1604.06174): the forward pass records nothing inside a block, the backward pass computes the
/// block again from its input, this time recording, and differentiates that. Random numbers are drawn alike both times, so the gradients
/// are those of the block itself.
/// </summary>
/// <remarks>The function's arguments are the call, the input and the parameters, so that autograd knows what the outputs depend on.</remarks>
internal sealed class GradientCheckpoint : autograd.MultiTensorFunction<GradientCheckpoint>
{
    private const string CallKey = "call";

    /// <inheritdoc/>
    public override string Name => nameof(GradientCheckpoint);

    /// <summary>Runs a block.</summary>
    /// <param name="module">The module whose parameters and training mode the function depends on.</param>
    /// <param name="function">The block.</param>
    /// <param name="x">[B, T, D].</param>
    /// <param name="context">Padding, packed rows, auxiliary losses; no state.</param>
    /// <returns>[B, T, D].</returns>
    /// <exception cref="NotSupportedException">The context has a state: the first run would have advanced it.</exception>
    public static Tensor Run(nn.Module module, Func<Tensor, MixerContext, Tensor> function, Tensor x, MixerContext context)
    {
        if (context.State is not null)
        {
            throw new NotSupportedException(
                $"{module.GetName()}: gradient checkpointing runs a block twice and carries no state; run under no_grad, or turn it off.");
        }

        using var scope = NewDisposeScope();
        var parameters = module.parameters().Where(parameter => parameter.requires_grad).ToArray();
        var call = new Call(module, function, context, parameters, x.requires_grad, module.training, DrawSeed(x.device));

        // Errors of the block are thrown here, not inside the autograd function, which they could not leave.
        var random = get_rng_state();
        StartRandom(random, call.DeviceSeed);
        Tensor[] outputs;
        using (no_grad())
        {
            outputs = call.Compute(x, context);
        }

        var results = apply([call, x, new Results(outputs, random), .. parameters]);
        foreach (var loss in results.Skip(1))
        {
            context.AuxiliaryLosses!.Add(loss.DetachFromDisposeScope());
        }

        return results[0].MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public override List<Tensor> forward(autograd.AutogradContext ctx, params object[] vars)
    {
        var (call, x, results) = ((Call)vars[0], (Tensor)vars[1], (Results)vars[2]);
        ctx.save_data(CallKey, call);
        ctx.save_for_backward([x, results.Random, call.Context.SequenceIds ?? results.Random]);
        ctx.set_materialize_grads(false);
        return [.. results.Outputs];
    }

    /// <inheritdoc/>
    public override List<Tensor> backward(autograd.AutogradContext ctx, List<Tensor> grad_outputs)
    {
        using var scope = NewDisposeScope();
        var call = (Call)ctx.get_data(CallKey);
        var saved = ctx.get_saved_variables();

        // Recorded itself, for second derivatives, the pass needs the input with its history, but the differentiation ends there.
        var recorded = is_grad_enabled();
        var gate = new Gate { IsClosed = true };
        var x = recorded && call.InputNeedsGradient ? Entrance.apply(saved[0], gate) : saved[0].detach().requires_grad_(call.InputNeedsGradient);
        var context = call.Context.SequenceIds is null ? call.Context : call.Context with { SequenceIds = saved[2] };
        var outputs = Again(call, x, context, saved[1]);

        // An output that the loss does not use has no gradient.
        var used = outputs.Zip(grad_outputs).Where(pair => !pair.Second.IsInvalid).ToArray();
        Tensor[] inputs = call.InputNeedsGradient ? [x, .. call.Parameters] : call.Parameters;
        if (used.Length == 0)
        {
            return [.. new Tensor[inputs.Length + (call.InputNeedsGradient ? 2 : 3)]];
        }

        var found = autograd.grad(
            [.. used.Select(pair => pair.First)], inputs, [.. used.Select(pair => pair.Second)], recorded, recorded, allow_unused: true);
        gate.IsClosed = false;
        var gradients = found.Select(gradient => gradient is null || gradient.IsInvalid ? null! : gradient.MoveToOuterDisposeScope());
        return [null!, .. call.InputNeedsGradient ? gradients.Take(1) : [null!], null!, .. gradients.Skip(call.InputNeedsGradient ? 1 : 0)];
    }

    /// <summary>The second run, recorded, with the training mode and the random numbers of the first; afterwards those of now are back.</summary>
    private static Tensor[] Again(Call call, Tensor x, MixerContext context, Tensor random)
    {
        var (currentRandom, currentMode) = (get_rng_state(), call.Module.training);
        try
        {
            SetMode(call.Module, call.Training);
            StartRandom(random, call.DeviceSeed);
            using var guard = enable_grad();
            return call.Compute(x, context);
        }
        finally
        {
            set_rng_state(currentRandom);
            SetMode(call.Module, currentMode);
        }
    }

    private static void SetMode(nn.Module module, bool training)
    {
        if (module.training != training)
        {
            module.train(training);
        }
    }

    /// <summary>
    /// TorchSharp can read and set the state of the CPU's generator alone. A device's generator gets a seed for the block instead, drawn
    /// from that of the CPU.
    /// </summary>
    private static long? DrawSeed(Device device) =>
        device.type == DeviceType.CPU ? null : randint(0, long.MaxValue, [1], dtype: ScalarType.Int64).ToInt64();

    private static void StartRandom(Tensor cpuState, long? deviceSeed)
    {
        if (deviceSeed is { } seed)
        {
            manual_seed(seed);
        }

        set_rng_state(cpuState);
    }

    /// <summary>
    /// The input itself, with a gate that gradients do not pass while it is closed: a block whose parameters also made its input, in another
    /// layer that shares them, would else give them the gradients of that layer a second time.
    /// </summary>
    private sealed class Entrance : autograd.SingleTensorFunction<Entrance>
    {
        public override string Name => nameof(Entrance);

        public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
        {
            ctx.save_data(nameof(Gate), vars[1]);
            ctx.set_materialize_grads(false);
            return ((Tensor)vars[0]).clone();
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output) =>
            [grad_output.IsInvalid || ((Gate)ctx.get_data(nameof(Gate))).IsClosed ? null! : grad_output.alias(), null!];
    }

    private sealed class Gate
    {
        public bool IsClosed { get; set; }
    }

    /// <summary>What the second run needs to know besides tensors.</summary>
    private sealed record Call(
        nn.Module Module,
        Func<Tensor, MixerContext, Tensor> Function,
        MixerContext Context,
        Parameter[] Parameters,
        bool InputNeedsGradient,
        bool Training,
        long? DeviceSeed)
    {
        /// <summary>The output and the auxiliary losses of this run, which are the caller's only once autograd knows them.</summary>
        public Tensor[] Compute(Tensor x, MixerContext context)
        {
            using var scope = NewDisposeScope();
            var losses = new List<Tensor>();
            var y = Function(x, context.AuxiliaryLosses is null ? context : context with { AuxiliaryLosses = losses });
            losses.ForEach(loss => scope.Attach(loss));
            return [.. losses.Prepend(y).Select(output => output.MoveToOuterDisposeScope())];
        }
    }

    /// <summary>What the first run has computed, and the state of the generator before it.</summary>
    private sealed record Results(Tensor[] Outputs, Tensor Random);
}
