using Hybrid.Kernels;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;

namespace Hybrid.Layers;

/// <summary>The weights of an <see cref="RgLru"/>, under the names of RecurrentGemma checkpoints.</summary>
internal sealed class RgLruLayer : nn.Module, IMixedPrecisionLayer
{
    private const double SlowestDecay = 0.999;
    private const double FastestDecay = 0.9;

    [ComponentName(Name = "recurrent_param")]
    private readonly Parameter recurrentParam;

    [ComponentName(Name = "input_gate_weight")]
    private Parameter inputGateWeight;

    [ComponentName(Name = "input_gate_bias")]
    private readonly Parameter inputGateBias;

    [ComponentName(Name = "recurrent_gate_weight")]
    private Parameter recurrentGateWeight;

    [ComponentName(Name = "recurrent_gate_bias")]
    private readonly Parameter recurrentGateBias;

    /// <param name="channels">Channels E.</param>
    /// <param name="heads">Blocks H of the gates; divides E.</param>
    public RgLruLayer(long channels, long heads)
        : base(nameof(RgLruLayer))
    {
        var width = channels / heads;
        using var scope = NewDisposeScope();
        using var guard = no_grad();

        // With open gates a = sigmoid(Lambda)^8 starts uniform between its bounds; softplus(p) = -log(a) / 8.
        var decay = (rand(channels) * (SlowestDecay - FastestDecay)) + FastestDecay;
        recurrentParam = ModuleParameter.Own((decay.log() / -8).expm1().log());
        inputGateWeight = ModuleParameter.Make(() => randn(heads, width, width) / Math.Sqrt(width), heads, width, width);
        inputGateBias = ModuleParameter.Own(zeros(heads, width));
        recurrentGateWeight = ModuleParameter.Make(() => randn(heads, width, width) / Math.Sqrt(width), heads, width, width);
        recurrentGateBias = ModuleParameter.Own(zeros(heads, width));
        RegisterComponents();
    }

    /// <summary>Decay rates and gate biases.</summary>
    public IEnumerable<Parameter> ParametersWithoutWeightDecay => [recurrentParam, inputGateBias, recurrentGateBias];

    /// <summary>The dtype of the gates' matrices, which that of the input must be.</summary>
    public ScalarType Type => inputGateWeight.dtype;

    /// <summary>The device of the weights.</summary>
    public Device Device => recurrentParam.device;

    /// <summary>Converts the gates' matrices; the decay rates and the biases stay as they are.</summary>
    public void ConvertMatrices(ScalarType dtype)
    {
        Replace("input_gate_weight", ref inputGateWeight);
        Replace("recurrent_gate_weight", ref recurrentGateWeight);

        void Replace(string name, ref Parameter weight)
        {
            if (weight.dtype != dtype)
            {
                using var old = weight;
                weight = MixedPrecision.Converted(old, dtype);
                ConditionallyRegisterParameter(name, weight);
            }
        }
    }

    /// <summary>The weights, with those of the convolution before the unit, for a decoding step.</summary>
    public GriffinStepWeights StepWeights(ShortConvolution convolution) => new(
        convolution.Weight, convolution.Bias!, inputGateWeight, inputGateBias, recurrentGateWeight, recurrentGateBias, recurrentParam);

    /// <summary>Runs the unit; see <see cref="RgLru.Apply"/>.</summary>
    /// <param name="input">[B, T, E].</param>
    /// <param name="state">State before the first step [B, E], or null.</param>
    /// <param name="firstTokens">Bool [B, T], true at the first token of a sequence, or null.</param>
    /// <param name="mask">Bool [B, T], false at padding, or null.</param>
    /// <returns>Output [B, T, E] and the state after the last real token [B, E].</returns>
    public (Tensor Y, Tensor FinalState) Run(Tensor input, Tensor? state, Tensor? firstTokens, Tensor? mask) => RgLru.Apply(
        input, inputGateWeight, inputGateBias, recurrentGateWeight, recurrentGateBias, recurrentParam, state, firstTokens, mask, stateGradient: false);
}
