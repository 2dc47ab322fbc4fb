using static TorchSharp.torch;

namespace TorchSharp.Modules;

/// <summary>A module with nothing to move and nothing to register.</summary>
public abstract class ParameterLessModule<T1, TResult> : nn.Module<T1, TResult>
{
    protected ParameterLessModule(string name) : base(name)
    {
    }

    protected internal override nn.Module _to(Device device, ScalarType dtype, bool non_blocking) => this;

    protected internal override nn.Module _to(DeviceType deviceType, int deviceIndex, bool non_blocking) => this;

    protected internal override nn.Module _to(ScalarType dtype, bool non_blocking) => this;

    public override void register_buffer(string name, Tensor tensor, bool persistent = true) => throw Refusal("buffer");

    public override void register_parameter(string name, Parameter param) => throw Refusal("parameter");

    public override void register_module(string name, nn.Module submodule) => throw Refusal("submodule");

    private static InvalidOperationException Refusal(string what) =>
        new($"Cannot register a {what} on a module that is declared 'parameter-less.'");
}
