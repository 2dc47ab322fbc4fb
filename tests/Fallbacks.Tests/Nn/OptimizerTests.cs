using TorchSharp;
using TorchSharp.Modules;
using Xunit;
using static TorchSharp.torch;

namespace Fallbacks.Tests.Nn;

/// <summary>Steps compared with the same recurrences in plain double arithmetic.</summary>
public sealed class OptimizerTests
{
    private const int Steps = 5;

    [Theory]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    [InlineData(true, true)]
    public void Adamw_follows_its_recurrence(bool amsgrad, bool maximize)
    {
        using var scope = NewDisposeScope();
        double[] start = Values.Some(6, 1), curve = Values.Some(6, 2);
        var parameter = nn.Parameter(Values.Tensor(start, 6));
        using var optimizer = optim.AdamW([parameter], 0.05, 0.8, 0.95, 1e-6, 0.1, amsgrad, maximize);

        var expected = start.ToArray();
        var reference = new AdamWReference(6) { Rate = 0.05, Beta1 = 0.8, Beta2 = 0.95, Eps = 1e-6, Decay = 0.1, Amsgrad = amsgrad, Maximize = maximize };
        for (int step = 0; step < Steps; step++)
        {
            // The gradient shrinks and turns, so that the largest second moment lies in the past.
            double scale = 1.0 / (1 + step * step);
            Descend(optimizer, parameter, curve, scale);
            reference.Step(expected, expected.Select((p, i) => scale * curve[i] * 2 * p).ToArray());
        }
        Values.Near(expected, parameter);
    }

    [Fact]
    public void Groups_have_their_own_rate_and_decay()
    {
        using var scope = NewDisposeScope();
        double[] a = Values.Some(3, 3), b = Values.Some(2, 4);
        var (first, second) = (nn.Parameter(Values.Tensor(a, 3)), nn.Parameter(Values.Tensor(b, 2)));
        using var optimizer = optim.AdamW(
            [new AdamW.ParamGroup([first], new AdamW.Options { LearningRate = 0.1, weight_decay = 0.3 }), new AdamW.ParamGroup { Parameters = [second] }],
            lr: 0.01, weight_decay: 0);

        var references = new[]
        {
            new AdamWReference(3) { Rate = 0.1, Beta1 = 0.9, Beta2 = 0.999, Eps = 1e-8, Decay = 0.3 },
            new AdamWReference(2) { Rate = 0.01, Beta1 = 0.9, Beta2 = 0.999, Eps = 1e-8 },
        };
        for (int step = 0; step < 3; step++)
        {
            optimizer.zero_grad();
            ((first * first).sum() + second.pow(3).sum()).backward();
            optimizer.step();
            references[0].Step(a, a.Select(p => 2 * p).ToArray());
            references[1].Step(b, b.Select(p => 3 * p * p).ToArray());
        }
        Values.Near(a, first);
        Values.Near(b, second);
        Assert.Equal([0.1, 0.01], optimizer.ParamGroups.Select(g => g.LearningRate));
        Assert.Equal(2, optimizer.parameters().Count());
    }

    [Fact]
    public void Zero_grad_leaves_zeros_and_no_gradient_means_no_step()
    {
        using var scope = NewDisposeScope();
        var (used, unused) = (nn.Parameter(Values.Tensor([1, 2], 2)), nn.Parameter(Values.Tensor([3], 1)));
        using var optimizer = optim.AdamW([used, unused], 0.5, weight_decay: 0.1);
        (used * used).sum().backward();

        optimizer.step();
        // The gradients are 2 and 4; the first step goes by g / (|g| + eps).
        Values.Near([0.95 * 1 - 0.5 * 2 / (2 + 1e-8), 0.95 * 2 - 0.5 * 4 / (4 + 1e-8)], used);
        Values.Near([3], unused);

        optimizer.zero_grad();
        Values.Near([0, 0], used.grad!);
        Assert.Null(unused.grad);
    }

    [Fact]
    public void A_closure_is_run_with_gradients_and_its_loss_returned()
    {
        using var scope = NewDisposeScope();
        var parameter = nn.Parameter(Values.Tensor([2], 1));
        using var optimizer = optim.AdamW([parameter], 0.25);

        Tensor loss;
        using (no_grad())
            loss = optimizer.step(() =>
            {
                var value = (parameter * parameter).sum();
                value.backward();
                return value;
            });

        Values.Near([4], loss);
        Values.Near([2 - 0.25 * 4 / (4 + 1e-8)], parameter);
        Assert.True(parameter.requires_grad);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Saved_state_continues_as_if_nothing_had_happened(bool amsgrad)
    {
        using var scope = NewDisposeScope();
        double[] curve = Values.Some(4, 8);
        AdamW Make(Parameter p) => optim.AdamW([new AdamW.ParamGroup([p], lr: 0.03, weight_decay: 0.2, amsgrad: amsgrad)]);
        var original = nn.Parameter(Values.SomeTensor(7, 4));
        using var optimizer = Make(original);
        for (int step = 0; step < 3; step++) Descend(optimizer, original, curve, 1);
        optimizer.ParamGroups.Single().LearningRate = 0.0125;

        using var stream = new MemoryStream();
        optimizer.save_state_dict(new BinaryWriter(stream));
        var fromStream = nn.Parameter(original.detach().clone());
        using var loaded = Make(fromStream);
        loaded.load_state_dict(new BinaryReader(new MemoryStream(stream.ToArray())));

        var fromState = nn.Parameter(original.detach().clone());
        var copied = Make(fromState);
        copied.load_state_dict(optimizer.state_dict());
        Assert.True(optimizer.state_dict().State[0].ApproximatelyEquals(copied.state_dict().State[0]));

        for (int step = 0; step < 3; step++)
        {
            Descend(optimizer, original, curve, 1);
            Descend(loaded, fromStream, curve, 1);
            Descend(copied, fromState, curve, 1);
        }
        Values.Near(Values.Of(original), fromStream, 0);
        Values.Near(Values.Of(original), fromState, 0);
        Assert.Equal(0.0125, loaded.ParamGroups.Single().LearningRate);

        // What was copied is its own.
        copied.Dispose();
        Descend(optimizer, original, curve, 1);
    }

    [Fact]
    public void State_of_another_optimizer_or_another_shape_is_refused()
    {
        using var scope = NewDisposeScope();
        var parameter = nn.Parameter(zeros(2));
        using var narrow = optim.AdamW([parameter]);
        using var wide = optim.AdamW([parameter, nn.Parameter(zeros(1))]);
        using var stream = new MemoryStream();
        narrow.save_state_dict(new BinaryWriter(stream));
        byte[] ofAnother = [3, .. "SGD"u8, .. stream.ToArray()[(1 + "AdamW".Length)..]];

        Assert.Throws<InvalidDataException>(() => narrow.load_state_dict(new BinaryReader(new MemoryStream(ofAnother))));
        Assert.Throws<ArgumentException>(() => wide.load_state_dict(new BinaryReader(new MemoryStream(stream.ToArray()))));
        Assert.Throws<ArgumentException>(() => wide.load_state_dict(narrow.state_dict()));
    }

    [Fact]
    public void The_state_says_which_entries_belong_to_which_group()
    {
        using var scope = NewDisposeScope();
        using var optimizer = optim.AdamW(
            [new AdamW.ParamGroup([nn.Parameter(zeros(1)), nn.Parameter(zeros(2))]), new AdamW.ParamGroup([nn.Parameter(zeros(3))])]);

        var state = optimizer.state_dict();

        Assert.Equal([[0, 1], [2]], state.StateIndexRef);
        Assert.Equal(2, state.Options.Count);
        Assert.Equal([3L], ((AdamW.State)state.State[2]).exp_avg.shape);
    }

    [Fact]
    public void Nonsense_is_refused()
    {
        using var scope = NewDisposeScope();
        Parameter[] p = [nn.Parameter(zeros(1))];

        Assert.Throws<ArgumentException>(() => optim.AdamW(p, lr: -1));
        Assert.Throws<ArgumentException>(() => optim.AdamW(p, beta2: 1));
        Assert.Throws<ArgumentException>(() => optim.AdamW(p, weight_decay: -1));
    }

    [Fact]
    public void A_step_frees_what_it_made()
    {
        var parameter = nn.Parameter(Values.SomeTensor(9, 4));
        using var optimizer = optim.AdamW([parameter], amsgrad: true, weight_decay: 0.1, maximize: true);
        Descend(optimizer, parameter, [1, 2, 3, 4], 1);
        long before = Values.Live;

        optimizer.step();
        using (NewDisposeScope()) optimizer.zero_grad();
        nn.utils.clip_grad_norm_([parameter], 1);

        Assert.Equal(before, Values.Live);
        parameter.Dispose();
    }

    [Fact]
    public void A_model_learns_and_a_hundred_steps_leave_no_tensor_behind()
    {
        using var scope = NewDisposeScope();
        manual_seed(5);
        using var inner = nn.Linear(2, 16);
        using var norm = nn.LayerNorm(16);
        using var outer = nn.Linear(16, 1);
        Parameter[] parameters = [.. inner.parameters(), .. norm.parameters(), .. outer.parameters()];
        using var optimizer = optim.AdamW(parameters, lr: 0.02, amsgrad: true);
        var x = randn(64, 2);
        var y = x.select(1, 0) * x.select(1, 1);
        double first = Step();
        long before = Values.Live;

        double last = 0;
        for (int step = 0; step < 100; step++) last = Step();

        Assert.Equal(before, Values.Live);
        Assert.True(last < 0.2 * first, $"The loss went from {first} to {last}.");

        double Step()
        {
            using var made = NewDisposeScope();
            optimizer.zero_grad();
            var loss = (outer.call(norm.call(inner.call(x).tanh())).squeeze(-1) - y).square().mean();
            loss.backward();
            nn.utils.clip_grad_norm_(parameters, 1);
            optimizer.step();
            return loss.item<float>();
        }
    }

    private static void Descend(optim.Optimizer optimizer, Parameter parameter, double[] curve, double scale)
    {
        using var scope = NewDisposeScope();
        optimizer.zero_grad();
        (parameter * parameter * Values.Tensor(curve, curve.Length) * scale).sum().backward();
        optimizer.step();
    }

    /// <summary>Algorithm 2 of Loshchilov and Hutter.</summary>
    private sealed class AdamWReference(int count)
    {
        private readonly double[] m = new double[count], v = new double[count], largest = new double[count];
        private int step;

        public double Rate { get; init; }

        public double Beta1 { get; init; }

        public double Beta2 { get; init; }

        public double Eps { get; init; }

        public double Decay { get; init; }

        public bool Amsgrad { get; init; }

        public bool Maximize { get; init; }

        public void Step(double[] parameters, double[] gradients)
        {
            step++;
            for (int i = 0; i < parameters.Length; i++)
            {
                double g = Maximize ? -gradients[i] : gradients[i];
                parameters[i] -= Rate * Decay * parameters[i];
                m[i] = Beta1 * m[i] + (1 - Beta1) * g;
                v[i] = Beta2 * v[i] + (1 - Beta2) * g * g;
                largest[i] = Math.Max(largest[i], v[i]);
                double mean = m[i] / (1 - Math.Pow(Beta1, step));
                double second = (Amsgrad ? largest[i] : v[i]) / (1 - Math.Pow(Beta2, step));
                parameters[i] -= Rate * mean / (Math.Sqrt(second) + Eps);
            }
        }
    }
}
