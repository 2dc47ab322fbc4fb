using Hybrid.Kernels;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Mixers;

/// <summary>Options of <see cref="GruMixer"/>.</summary>
public sealed record GruOptions
{
    /// <summary>Hidden width E; null means the model width D. Another width than D adds an output projection.</summary>
    public long? InnerSize { get; init; }

    /// <summary>Layers L, one on top of the other; at least 1. Default 1.</summary>
    public long NumLayers { get; init; } = 1;

    /// <summary>Adds biases to the gates and to the output projection. Default true.</summary>
    public bool UseBias { get; init; } = true;

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.AtLeast(nameof(GruOptions), nameof(InnerSize), InnerSize ?? 1, 1);
        OptionRange.AtLeast(nameof(GruOptions), nameof(NumLayers), NumLayers, 1);
    }
}

/// <summary>State of a <see cref="GruMixer"/>: the hidden state of every layer.</summary>
public sealed class GruState : MixerState
{
    internal GruState(Tensor hidden)
        : base(hidden.size(0), ("hidden", hidden))
    {
    }

    /// <summary>The hidden states h: [B, L, E], float32 (float64 with float64 weights).</summary>
    public Tensor Hidden => this[0];

    internal void Update(Tensor hidden) => Set(0, hidden);
}

/// <summary>
/// The gated recurrent unit (Cho et al., arXiv 1406.1078) in the form of torch.nn.GRU:
/// <c>r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)</c>, <c>z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)</c>,
/// <c>n = tanh(W_in x + b_in + r * (W_hn h + b_hn))</c>, <c>h = (1 - z) n + z h</c>, with h = 0 before the first token; then W_out where
/// E is not D.
/// </summary>
/// <remarks>
/// Layer i holds the tensors that torch.nn.GRU names <c>weight_ih_l{i}</c>, <c>weight_hh_l{i}</c>, <c>bias_ih_l{i}</c> and
/// <c>bias_hh_l{i}</c> as <c>layers.{i}.weight_ih_l0</c> and so on, rows in torch's order reset, update, new. The unit is not linear in
/// h, so its steps cannot run side by side; where <see cref="Kernels.GatedRecurrentUnit"/> cannot run them one after the other in float32,
/// torch's own layer does, in the dtype of the weights; on CUDA that is cuDNN's where it has the dtype. Packed rows are unpacked into one
/// row a sequence, which reads the ids on the host and takes memory for every sequence as if it were as long as the longest.
/// </remarks>
public sealed class GruMixer : SequenceMixer
{
    private readonly long innerSize;

    [ComponentName(Name = "layers")]
    private readonly ModuleList<GRU> layers;

    [ComponentName(Name = "out_proj")]
    private readonly Linear? outProjection;

    /// <param name="width">Model width D.</param>
    /// <param name="options">Sizes and variants; null means the defaults.</param>
    /// <exception cref="ArgumentOutOfRangeException">An option is out of its range.</exception>
    public GruMixer(long width, GruOptions? options = null)
        : base(nameof(GruMixer), width)
    {
        options ??= new GruOptions();
        options.Validate();
        innerSize = options.InnerSize ?? width;
        var count = (int)options.NumLayers;
        layers = new ModuleList<GRU>([.. Enumerable.Range(0, count).Select(i => CreateLayer(i == 0 ? width : innerSize, innerSize, options.UseBias))]);
        outProjection = innerSize == width ? null : Linear(innerSize, width, hasBias: options.UseBias);
        RegisterComponents();
    }

    /// <summary>Hidden width E.</summary>
    public long InnerSize => innerSize;

    /// <inheritdoc/>
    public override IEnumerable<Parameter> ResidualOutputWeights => outProjection is null ? [] : [outProjection.weight];

    private Parameter FirstWeight => layers[0].get_parameter("weight_ih_l0")!;

    /// <inheritdoc/>
    public override MixerState CreateState(long batchSize)
    {
        ValidateBatchSize(batchSize);
        using var scope = NewDisposeScope();
        var weight = FirstWeight;
        return new GruState(
            zeros([batchSize, layers.Count, innerSize], dtype: StatePrecision.Of(weight.dtype), device: weight.device));
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor x, MixerContext context)
    {
        using var scope = NewDisposeScope();
        var type = FirstWeight.dtype;
        var batch = MixerBatch.Begin(this, x, context, type);
        var state = RequireState<GruState>(context.State, batch.Size);
        var packed = context.SequenceIds is { } ids ? new UnpackedRows(ids) : null;

        var (y, hidden) = Run(packed?.Unpack(batch.Input) ?? batch.Input, state?.Hidden, batch.Lengths);
        y = packed?.Pack(y) ?? y;                                                        // [B, T, E]
        if (outProjection is not null)
        {
            y = LinearStep.Apply(outProjection, y);
        }

        state?.Update(hidden.to_type(StatePrecision.Of(type)));
        state?.Advance(batch.Length, batch.Lengths);
        return batch.End(y).MoveToOuterDisposeScope();
    }

    /// <summary>The layers: input [B, T, D] and states [B, L, E], or null, to [B, T, E] and the states after the last real tokens.</summary>
    internal (Tensor Y, Tensor Hidden) Run(Tensor x, Tensor? hidden, IReadOnlyList<long>? lengths)
    {
        var shape = x.shape;
        var last = lengths is null
            ? null
            : (tensor(lengths.ToArray(), dtype: ScalarType.Int64) - 1).to(x.device).view(-1, 1, 1).expand(shape[0], 1, innerSize);
        var states = new Tensor[layers.Count];
        for (var i = 0; i < states.Length; i++)
        {
            // A layer's output is its state, so the state after the last real token of a padded row is an output too.
            x = Layer(layers[i], x, hidden?.select(1, i));
            states[i] = last is null ? x.select(1, shape[1] - 1) : x.gather(1, last).squeeze(1);
        }

        return (x, stack(states, 1));
    }

    /// <summary>One layer: input [B, T, D or E] and state [B, E], or null, to [B, T, E].</summary>
    private static Tensor Layer(GRU layer, Tensor x, Tensor? hidden)
    {
        var (inputWeight, inputBias) = (Weight("weight_ih_l0")!, Weight("bias_ih_l0"));
        var (weight, bias) = (Weight("weight_hh_l0")!, Weight("bias_hh_l0"));
        return GatedRecurrentUnit.Simd.CanRun(("x", x), ("weight", weight), ("hidden", hidden))
            ? GatedRecurrentUnit.Apply(LinearStep.Linear(x, inputWeight, inputBias), weight, bias, hidden)
            : layer.call(x, hidden?.to_type(x.dtype).unsqueeze(0).contiguous()).Item1;

        Parameter? Weight(string name) => layer.get_parameter(name);
    }

    /// <summary>A layer that belongs to its mixer alone: one made inside a dispose scope would lose its parameters with the scope.</summary>
    private static GRU CreateLayer(long inputSize, long innerSize, bool bias)
    {
        var layer = GRU(inputSize, innerSize, bias: bias, batchFirst: true);
        foreach (var parameter in layer.parameters())
        {
            parameter.DetachFromDisposeScope();
        }

        return layer;
    }

    /// <summary>The sequences of packed rows, each as a row of its own.</summary>
    private sealed class UnpackedRows
    {
        private readonly long[] shape;
        private readonly long longest;
        private readonly Tensor toRows;
        private readonly Tensor toPacked;

        /// <param name="ids">Int64 [B, T], equal and adjacent for the tokens of one sequence.</param>
        public UnpackedRows(Tensor ids)
        {
            shape = ids.shape;
            var values = ids.cpu().contiguous().data<long>().ToArray();
            var starts = new List<int>();
            for (var i = 0; i < values.Length; i++)
            {
                if (i % shape[1] == 0 || values[i] != values[i - 1])
                {
                    starts.Add(i);
                }
            }

            var lengths = starts.Select((start, i) => (i + 1 < starts.Count ? starts[i + 1] : values.Length) - start).ToArray();
            longest = lengths.Max();

            // The rows are padded with token 0: nothing of it reaches a real token, and Pack leaves it out.
            var from = new long[starts.Count * longest];
            var to = new long[values.Length];
            for (var row = 0; row < lengths.Length; row++)
            {
                for (var t = 0; t < lengths[row]; t++)
                {
                    from[(row * longest) + t] = starts[row] + t;
                    to[starts[row] + t] = (row * longest) + t;
                }
            }

            toRows = tensor(from).to(ids.device);
            toPacked = tensor(to).to(ids.device);
        }

        /// <summary>[B, T, D] to one row a sequence, [S, longest, D].</summary>
        public Tensor Unpack(Tensor x) => x.reshape(-1, x.size(2)).index_select(0, toRows).view(-1, longest, x.size(2));

        /// <summary>[S, longest, E] to [B, T, E].</summary>
        public Tensor Pack(Tensor y) => y.reshape(-1, y.size(2)).index_select(0, toPacked).view(shape[0], shape[1], y.size(2));
    }
}
