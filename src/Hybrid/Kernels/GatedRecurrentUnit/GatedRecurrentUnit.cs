using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// The recurrence of torch.nn.GRU (Cho et al., arXiv 1406.1078) behind the product with the inputs p = W_i x + b_i:
/// <c>r = sigmoid(p_r + W_hr h + b_hr)</c>, <c>z = sigmoid(p_z + W_hz h + b_hz)</c>, <c>n = tanh(p_n + r * (W_hn h + b_hn))</c>,
/// <c>h = (1 - z) n + z h</c>. Float32 arithmetic on CPU; where it cannot run, torch's own layer does.
/// </summary>
internal static unsafe class GatedRecurrentUnit
{
    /// <summary>
    /// Steps of a stretch of the backward pass, whose products of all steps with W_h are there at once: enough for a matrix product at full
    /// speed, few enough that memory does not grow with time.
    /// </summary>
    private const long StretchSteps = 256;

    /// <summary>The SIMD kernel.</summary>
    public static CpuKernel Simd { get; } = new("GatedRecurrentUnit.Cpu", SelfTest);

    /// <summary>Runs over time.</summary>
    /// <param name="projected">W_i x + b_i [B, T, 3E], in the order reset, update, new.</param>
    /// <param name="weight">W_h [3E, E].</param>
    /// <param name="bias">b_h [3E], or null.</param>
    /// <param name="initial">h before the first step [B, E], or null for zeros.</param>
    /// <returns>h after every step [B, T, E], in the dtype of <paramref name="projected"/>.</returns>
    public static Tensor Apply(Tensor projected, Tensor weight, Tensor? bias, Tensor? initial)
    {
        using var scope = NewDisposeScope();
        Tensor?[] x =
        [
            RowView.Of(projected.to_type(ScalarType.Float32)), weight.to_type(ScalarType.Float32).contiguous(),
            bias?.to_type(ScalarType.Float32).contiguous(), initial?.to_type(ScalarType.Float32).contiguous(),
        ];
        var (y, _) = RecordedKernel.Run(new Recurrence(), x, differentiableStates: 0);
        return y.to_type(projected.dtype).MoveToOuterDisposeScope();
    }

    /// <summary>Output and gradients of two small ragged batches, against torch's own layer in float64.</summary>
    private static string? SelfTest()
    {
        using var scope = NewDisposeScope();
        const long batch = 3, time = 7, width = 21, inner = 19;
        using var layer = nn.GRU(width, inner, batchFirst: true, dtype: ScalarType.Float64);
        Tensor[] weights = [.. layer.parameters()];
        Tensor[] inputs = [Kernels.SelfTest.Values(1, 1, batch, time, width), Kernels.SelfTest.Values(2, 1, batch, inner)];
        var upstream = Kernels.SelfTest.Values(3, 1, batch, time, inner);
        var expected = Results(ScalarType.Float64, x => layer.call(x[0], x[1].unsqueeze(0)).Item1);
        var actual = Results(ScalarType.Float32, x => Apply(nn.functional.linear(x[0], x[2], x[4]), x[3], x[5], x[1]));
        return Kernels.SelfTest.Compare(expected, actual, 1e-4);

        List<Tensor> Results(ScalarType dtype, Func<Tensor[], Tensor> run)
        {
            // The layer reads its own weights; the kernel reads copies, in torch's order W_i, W_h, b_i, b_h.
            var leaves = inputs.Concat(weights).Select(input => input.detach().to_type(dtype).clone().requires_grad_(true)).ToArray();
            var y = run(leaves);
            (y * upstream.to_type(dtype)).sum().backward();
            var gradients = leaves.Zip([null, null, .. weights]).Select(pair => pair.First.grad ?? pair.Second!.grad!);
            return [y.detach(), .. gradients];
        }
    }

    /// <summary>The recurrence from plain tensor operations, for derivatives of gradients: of p, W_h, b_h and the initial state.</summary>
    private static Tensor Reference(IReadOnlyList<Tensor?> x)
    {
        var shape = x[0]!.shape;
        var width = shape[2] / 3;
        var h = x[3] ?? zeros(shape[0], width);
        var outputs = new List<Tensor>();
        foreach (var step in x[0]!.unbind(1))
        {
            var (input, recurrent) = (step.chunk(3, -1), nn.functional.linear(h, x[1]!, x[2]).chunk(3, -1));
            var (reset, update) = ((input[0] + recurrent[0]).sigmoid(), (input[1] + recurrent[1]).sigmoid());
            var fresh = (input[2] + (reset * recurrent[2])).tanh();
            h = fresh + (update * (h - fresh));
            outputs.Add(h);
        }

        return stack(outputs, 1);
    }

    /// <summary>h after every step, from p, W_h, b_h and the initial state.</summary>
    private static Tensor Forward(IReadOnlyList<Tensor?> x)
    {
        var shape = x[0]!.shape;
        var (batch, time, width) = ((int)shape[0], (int)shape[1], (int)shape[2] / 3);
        var y = Uninitialised(batch, time, width);
        var problem = new GruProblem
        {
            Batch = batch, Time = time, Width = width, Projected = new(x[0]), State = ScanInputs.Floats(x[3]), Y = new(y),
        };

        // To pack W_h is to read and write all of it, which a single step does not pay back.
        var product = time == 1 ? LinearStep.Linear(x[3] ?? zeros(batch, width), x[1]!, x[2]) : PanelMatrix.Pack(x[1]!.t());
        if (time == 1)
        {
            problem.Product = ScanInputs.Floats(product);
        }
        else
        {
            problem.Weight = new(product);
            problem.Bias = ScanInputs.Floats(x[2]);
        }

        LaneTasks.Run(new GruForward(problem), problem.Tasks, (long)batch * time * width * width);
        TensorMemory.KeepAlive([.. x, y, product]);
        return y;
    }

    /// <summary>
    /// Gradients of p, W_h, b_h and the initial state. Stretches of time are taken from the last to the first: what W_h makes of the states
    /// of all steps is one matrix product, and so is the gradient of W_h; only the gradient of the state goes step by step.
    /// </summary>
    private static Tensor?[] Backward(IReadOnlyList<Tensor?> x, Tensor y, Tensor gradY)
    {
        var shape = x[0]!.shape;
        var (batch, time, width) = (shape[0], shape[1], shape[2] / 3);
        var (gradProjected, packed) = (Uninitialised(shape), PanelMatrix.Pack(x[1]!));
        var (gradWeight, gradBias, carried) = (zeros_like(x[1]!), zeros(3 * width), zeros(batch, width));
        for (var end = time; end > 0; end -= Math.Min(StretchSteps, end))
        {
            using var scope = NewDisposeScope();
            var count = Math.Min(StretchSteps, end);
            var start = end - count;
            var first = start > 0 ? y.narrow(1, start - 1, 1) : (x[3] ?? zeros(batch, width)).unsqueeze(1);
            var before = cat([first, y.narrow(1, start, count - 1)], 1);
            var recurrent = nn.functional.linear(before, x[1]!, x[2]);
            var gradRecurrent = Uninitialised(batch, count, 3 * width);
            Tensor[] stretches = [x[0]!.narrow(1, start, count), gradY.narrow(1, start, count), gradProjected.narrow(1, start, count)];
            var problem = new GruProblem
            {
                Batch = (int)batch, Time = (int)count, Width = (int)width, Projected = new(stretches[0]), Weight = new(packed),
                State = ScanInputs.Floats(carried), Y = new(stretches[1]), Before = new(before), Recurrent = new(recurrent),
                GradProjected = new(stretches[2]), GradRecurrent = new(gradRecurrent),
            };
            LaneTasks.Run(new GruBackward(problem), problem.Tasks, batch * count * width * width);
            TensorMemory.KeepAlive([.. stretches, packed, carried, before, recurrent, gradRecurrent]);

            var rows = gradRecurrent.view(-1, 3 * width);
            gradWeight.add_(rows.t().mm(before.view(-1, width)));
            gradBias.add_(rows.sum(dim: 0));
        }

        return [gradProjected, gradWeight, gradBias, carried];
    }

    private static Tensor Uninitialised(params long[] shape) => empty(shape, dtype: ScalarType.Float32);

    /// <summary>The recurrence of p, W_h, b_h and the initial state, with a backward pass that keeps them and all states.</summary>
    private sealed record Recurrence : IRecordedKernel
    {
        public (Tensor Y, Tensor[] Final, Tensor? Kept) Forward(IReadOnlyList<Tensor?> inputs, bool keep)
        {
            var y = GatedRecurrentUnit.Forward(inputs);

            // Not the output itself, whose history leads here.
            return (y, [], keep ? y.detach() : null);
        }

        public Tensor?[] Backward(IReadOnlyList<Tensor?> inputs, Tensor? kept, Tensor? gradY, IReadOnlyList<Tensor?> gradFinal) =>
            GatedRecurrentUnit.Backward(inputs, kept!, RowView.Of(gradY!));

        public IReadOnlyList<Tensor> Reference(IReadOnlyList<Tensor?> inputs) => [GatedRecurrentUnit.Reference(inputs)];
    }
}
