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

/// <summary>Modules one after the other.</summary>
internal sealed class ChainProbe : nn.Module<Tensor, Tensor>
{
    private readonly Linear up = nn.Linear(3, 4);
    private readonly Dropout act = nn.Dropout();
    private readonly Linear down = nn.Linear(4, 3, hasBias: false);

    public ChainProbe() : base(nameof(ChainProbe)) => RegisterComponents();

    public override Tensor forward(Tensor input) => down.call(act.call(up.call(input)));
}

/// <summary>A list, a chain, parameters and a buffer, in this order.</summary>
internal sealed class ContainerProbe : nn.Module<Tensor, Tensor>
{
    private readonly ModuleList<Linear> layers = new(nn.Linear(3, 2), nn.Linear(2, 3, hasBias: false));
    private readonly ChainProbe chain = new();
    private readonly OpenProbe scales = new();
    private readonly Tensor counts = arange(3);

    public ContainerProbe() : base(nameof(ContainerProbe))
    {
        scales.register_parameter("0", nn.Parameter(ones(1)));
        scales.register_parameter("1", nn.Parameter(zeros(2)));
        RegisterComponents();
    }

    public object[] Others => [layers, counts];

    public override Tensor forward(Tensor input) => chain.call(input);
}

/// <summary>Two properties of one name.</summary>
internal sealed class IndexedProbe : nn.Module<Tensor, Tensor>
{
    public IndexedProbe() : base(nameof(IndexedProbe))
    {
    }

    public int this[int index] => index;

    public int this[string key] => key.Length;

    public override Tensor forward(Tensor input) => input.alias();
}
