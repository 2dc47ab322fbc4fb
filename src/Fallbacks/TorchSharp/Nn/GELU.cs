using static TorchSharp.torch;

namespace TorchSharp.Modules;

public sealed class GELU : ParameterLessModule<Tensor, Tensor>
{
    private GELU() : base(nameof(GELU))
    {
    }

    public enum Approximate
    {
        none = 0,
        tanh = 1,
    }

    public override Tensor forward(Tensor tensor) => tensor.gelu();
}
