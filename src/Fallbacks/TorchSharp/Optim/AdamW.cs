#nullable disable
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace TorchSharp
{
    namespace Modules
    {
        /// <summary>
        /// p &lt;- (1 - lr wd) p - lr m / (sqrt(v) + eps), with bias-corrected moments m and v.
        /// https://arxiv.org/abs/1711.05101
        /// </summary>
        public class AdamW : OptimizerHelper
        {
            public AdamW(IEnumerable<Parameter> parameters, double lr = 1e-3, double beta1 = 0.9, double beta2 = 0.999, double eps = 1e-8, double weight_decay = 0, bool amsgrad = false, bool maximize = false)
                : this([new ParamGroup { Parameters = parameters }], lr, beta1, beta2, eps, weight_decay, amsgrad, maximize)
            {
            }

            public AdamW(IEnumerable<ParamGroup> parameters, double lr = 1e-3, double beta1 = 0.9, double beta2 = 0.999, double eps = 1e-8, double weight_decay = 0, bool amsgrad = false, bool maximize = false)
            {
                if (lr < 0) throw new ArgumentException($"Invalid learning rate: {lr}");
                if (eps < 0) throw new ArgumentException($"Invalid ε: {eps}");
                if (beta1 is < 0 or >= 1) throw new ArgumentException($"Invalid beta1: {beta1}");
                if (beta2 is < 0 or >= 1) throw new ArgumentException($"Invalid beta2: {beta2}");
                if (weight_decay < 0) throw new ArgumentException($"Invalid weight_decay value: {weight_decay}");

                _defaults = new Options
                {
                    LearningRate = lr,
                    InitialLearningRate = lr,
                    beta1 = beta1,
                    beta2 = beta2,
                    eps = eps,
                    weight_decay = weight_decay,
                    amsgrad = amsgrad,
                    maximize = maximize,
                };
                _parameter_groups = [];
                foreach (var group in parameters) add_param_group(group);
            }

            public override void add_param_group(Modules.ParamGroup param_group)
            {
                var defaults = (Options)_defaults;
                var options = (Options)(param_group.Options ??= new Options());
                options.LearningRate ??= defaults.LearningRate;
                options.InitialLearningRate = options.LearningRate.Value;
                options.beta1 ??= defaults.beta1;
                options.beta2 ??= defaults.beta2;
                options.eps ??= defaults.eps;
                options.weight_decay ??= defaults.weight_decay;
                options.amsgrad ??= defaults.amsgrad;
                options.maximize ??= defaults.maximize;

                _parameter_groups.Add(param_group);
                foreach (var parameter in param_group.Parameters)
                {
                    var state = new State(parameter);
                    state.Initialize(options);
                    _state[parameter.Handle] = state;
                }
            }

            public override Tensor step(Func<Tensor> closure = null) => _step<ParamGroup>(
                group =>
                {
                    foreach (var parameter in group.Parameters)
                        Update(parameter, (State)_state[parameter.Handle], group.Options);
                },
                closure);

            private static void Update(Parameter parameter, State state, Options options)
            {
                var grad = parameter.grad;
                if (grad is null) return;
                if (options.maximize.Value) grad = -grad;

                double beta1 = options.beta1.Value, beta2 = options.beta2.Value, lr = options.LearningRate.Value;
                state.step++;
                double correction1 = 1 - Math.Pow(beta1, state.step), correction2 = 1 - Math.Pow(beta2, state.step);

                parameter.mul_(1 - lr * options.weight_decay.Value);
                state.exp_avg.mul_(beta1).add_(grad, alpha: 1 - beta1);
                state.exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value: 1 - beta2);

                var second = state.exp_avg_sq;
                if (options.amsgrad.Value)
                {
                    second = state.max_exp_avg_sq.maximum(state.exp_avg_sq).DetachFromDisposeScope();
                    state.max_exp_avg_sq.Dispose();
                    state.max_exp_avg_sq = second;
                }

                var denominator = (second.sqrt() / Math.Sqrt(correction2)).add_(options.eps.Value);
                parameter.addcdiv_(state.exp_avg, denominator, value: -lr / correction1);
            }

            protected override void Dispose(bool disposing)
            {
                base.Dispose(disposing);
                if (!disposing) return;
                foreach (var (_, state) in _state) ((State)state).Dispose();
                _state.Clear();
            }

            public class Options : OptimizerOptions
            {
                public double? beta1;
                public double? beta2;
                public double? weight_decay;
                public double? eps;
                public bool? amsgrad;
                public bool? maximize;

                public override void SaveStateDict(BinaryWriter writer)
                {
                    base.SaveStateDict(writer);
                    writer.Write(beta1.Value);
                    writer.Write(beta2.Value);
                    writer.Write(eps.Value);
                    writer.Write(weight_decay.Value);
                    writer.Write(amsgrad.Value);
                    writer.Write(maximize.Value);
                }

                public override void LoadStateDict(BinaryReader reader)
                {
                    base.LoadStateDict(reader);
                    beta1 = reader.ReadDouble();
                    beta2 = reader.ReadDouble();
                    eps = reader.ReadDouble();
                    weight_decay = reader.ReadDouble();
                    amsgrad = reader.ReadBoolean();
                    maximize = reader.ReadBoolean();
                }

                public override void LoadStateDict(OptimizerOptions source)
                {
                    base.LoadStateDict(source);
                    var options = (Options)source;
                    beta1 = options.beta1;
                    beta2 = options.beta2;
                    eps = options.eps;
                    weight_decay = options.weight_decay;
                    amsgrad = options.amsgrad;
                    maximize = options.maximize;
                }
            }

            public sealed class State : OptimizerState, IDisposable
            {
                public long step;
                public Tensor exp_avg;
                public Tensor exp_avg_sq;
                public Tensor max_exp_avg_sq;

                public State(Parameter parameter) : base(parameter)
                {
                }

                public void Dispose()
                {
                    exp_avg?.Dispose();
                    exp_avg_sq?.Dispose();
                    max_exp_avg_sq?.Dispose();
                }

                public override void Initialize(OptimizerOptions options)
                {
                    Dispose();
                    step = 0;
                    exp_avg = ZerosLikeParameter();
                    exp_avg_sq = ZerosLikeParameter();
                    max_exp_avg_sq = ((Options)options).amsgrad == true ? ZerosLikeParameter() : null;
                }

                public override void SaveStateDict(BinaryWriter writer)
                {
                    writer.Write(step);
                    exp_avg.Save(writer);
                    exp_avg_sq.Save(writer);
                    SaveConditionalStateTensor(writer, max_exp_avg_sq);
                }

                public override void LoadStateDict(BinaryReader reader)
                {
                    step = reader.ReadInt64();
                    exp_avg.Load(reader);
                    exp_avg_sq.Load(reader);
                    LoadConditionalStateTensor(reader, ref max_exp_avg_sq, _parameter.device);
                }

                public override void LoadStateDict(OptimizerState source)
                {
                    var state = (State)source;
                    Dispose();
                    step = state.step;
                    exp_avg = Own(state.exp_avg);
                    exp_avg_sq = Own(state.exp_avg_sq);
                    max_exp_avg_sq = Own(state.max_exp_avg_sq);
                }

                public override bool ApproximatelyEquals(OptimizerState other) =>
                    other is State state && step == state.step && Close(exp_avg, state.exp_avg) &&
                    Close(exp_avg_sq, state.exp_avg_sq) && Close(max_exp_avg_sq, state.max_exp_avg_sq);

                private Tensor ZerosLikeParameter() => zeros_like(_parameter).detach().DetachFromDisposeScope();

                // On the parameter's device, and of no dispose scope.
                private Tensor Own(Tensor source) => source?.to(_parameter.device, copy: true).DetachFromDisposeScope();

                private static bool Close(Tensor left, Tensor right) =>
                    left is null || right is null ? left is null && right is null : left.allclose(right);
            }

            public class ParamGroup : ParamGroup<Options>, optim.IBetas
            {
                public ParamGroup()
                {
                }

                public ParamGroup(IEnumerable<Parameter> parameters, Options options) : base(parameters, options)
                {
                }

                public ParamGroup(IEnumerable<Parameter> parameters, double lr = 1e-3, double beta1 = 0.9, double beta2 = 0.999, double eps = 1e-8, double weight_decay = 0, bool amsgrad = false, bool maximize = false)
                    : base(parameters, new Options { LearningRate = lr, beta1 = beta1, beta2 = beta2, eps = eps, weight_decay = weight_decay, amsgrad = amsgrad, maximize = maximize })
                {
                }

                public (double, double) Betas
                {
                    get => (Options.beta1.Value, Options.beta2.Value);
                    set => (Options.beta1, Options.beta2) = value;
                }
            }
        }
    }

    public static partial class torch
    {
        public static partial class optim
        {
            public static AdamW AdamW(IEnumerable<Parameter> parameters, double lr = 1e-3, double beta1 = 0.9, double beta2 = 0.999, double eps = 1e-8, double weight_decay = 0, bool amsgrad = false, bool maximize = false) =>
                new(parameters, lr, beta1, beta2, eps, weight_decay, amsgrad, maximize);

            public static AdamW AdamW(IEnumerable<(string name, Parameter parameter)> parameters, double lr = 1e-3, double beta1 = 0.9, double beta2 = 0.999, double eps = 1e-8, double weight_decay = 0, bool amsgrad = false, bool maximize = false) =>
                new(parameters.Select(p => p.parameter), lr, beta1, beta2, eps, weight_decay, amsgrad, maximize);

            public static AdamW AdamW(IEnumerable<AdamW.ParamGroup> parameters, double lr = 1e-3, double beta1 = 0.9, double beta2 = 0.999, double eps = 1e-8, double weight_decay = 0, bool amsgrad = false, bool maximize = false) =>
                new(parameters, lr, beta1, beta2, eps, weight_decay, amsgrad, maximize);
        }
    }
}
