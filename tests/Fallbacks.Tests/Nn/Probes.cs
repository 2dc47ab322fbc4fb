using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;

namespace Fallbacks.Tests.Nn;

internal class BaseProbe : nn.Module<Tensor, Tensor>
{
    private readonly Parameter hidden = Owned(new Parameter(ones(2)));
    protected readonly Parameter shared = Owned(new Parameter(ones(3)));

    public BaseProbe() : base(nameof(BaseProbe))
    {
    }

    public Parameter Hidden => hidden;

    public override Tensor forward(Tensor input) => input.alias();

    protected static T Owned<T>(T tensor) where T : Tensor
    {
        tensor.DetachFromDisposeScope();
        return tensor;
    }
}

/// <summary>Every kind of member that registration by reflection does or does not see.</summary>
internal sealed class FieldProbe : BaseProbe
{
    public readonly Linear open = nn.Linear(2, 2);
    private readonly Parameter inner = Owned(new Parameter(ones(4)));
    private readonly Tensor table = Owned(arange(5));
    private readonly Parameter? absent = null;
    [ComponentName(Name = "renamed")] private readonly Parameter original = Owned(new Parameter(ones(5)));
    private readonly List<Linear> ignoredList = [nn.Linear(1, 1)];
    private readonly Linear[] ignoredArray = [nn.Linear(1, 1)];

    public FieldProbe() => RegisterComponents();

    public Parameter Automatic { get; } = Owned(new Parameter(ones(6)));

    public int Unseen => ignoredList.Count + ignoredArray.Length + (absent is null ? 0 : 1);

    public Tensor[] Values => [inner, table, original];
}

/// <summary>Registers nothing but what the test gives it.</summary>
internal sealed class OpenProbe : nn.Module<Tensor, Tensor>
{
    public OpenProbe() : base("probe")
    {
    }

    public override Tensor forward(Tensor input) => input.alias();
}

/// <summary>A list, a sequence, parameters and a buffer, in this order.</summary>
internal sealed class ContainerProbe : nn.Module<Tensor, Tensor>
{
    private readonly ModuleList<Linear> layers = nn.ModuleList(nn.Linear(3, 2), nn.Linear(2, 3, hasBias: false));
    private readonly Sequential chain = nn.Sequential(("up", nn.Linear(3, 4)), ("act", nn.ReLU()), ("down", nn.Linear(4, 3, hasBias: false)));
    private readonly ParameterList scales = nn.ParameterList(nn.Parameter(ones(1)), nn.Parameter(zeros(2)));
    private readonly Tensor counts = arange(3);

    public ContainerProbe() : base(nameof(ContainerProbe)) => RegisterComponents();

    public Sequential Chain => chain;

    public object[] Others => [layers, scales, counts];

    public override Tensor forward(Tensor input) => chain.call(input);
}
