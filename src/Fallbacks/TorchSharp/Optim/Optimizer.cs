#nullable disable
using TorchSharp.Modules;

namespace TorchSharp;

public static partial class torch
{
    public static partial class optim
    {
        /// <summary>The learning rate of a parameter group.</summary>
        public interface ILearningRateController
        {
            double LearningRate { get; set; }

            double InitialLearningRate { get; set; }
        }

        public interface IBetas
        {
            (double, double) Betas { get; set; }
        }

        public abstract partial class Optimizer : IDisposable
        {
            protected IList<ParamGroup> _parameter_groups;

            // There are no optimizers in native code here: the handle is always zero.
            protected Optimizer(IntPtr handle)
            {
            }

            ~Optimizer() => Dispose(false);

            public void Dispose()
            {
                Dispose(true);
                GC.SuppressFinalize(this);
            }

            protected virtual void Dispose(bool disposing)
            {
            }

            public virtual IEnumerable<ILearningRateController> ParamGroups => _parameter_groups;

            public virtual IEnumerable<Parameter> parameters() => throw new NotImplementedException();

            public virtual void zero_grad() => throw new NotImplementedException();

            public virtual Tensor step(Func<Tensor> closure = null) => throw new NotImplementedException();

            public virtual void add_param_group(ParamGroup param_group) => throw new NotImplementedException();

            /// <summary>
            /// The options of each group, the state of each parameter in order, and for each group the places of its
            /// parameters in that list.
            /// </summary>
            public class StateDictionary
            {
                internal StateDictionary()
                {
                }

                public List<OptimizerOptions> Options { get; } = [];

                public List<OptimizerState> State { get; } = [];

                public List<List<int>> StateIndexRef { get; } = [];
            }
        }
    }
}
