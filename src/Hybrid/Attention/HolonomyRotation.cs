using Hybrid.Layers;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Attention;

/// <summary>
/// What turns the queries and keys of holonomy heads. A rotation of one head is <c>R = exp(A)</c>, <c>A = (C - C^T) / 2</c>; transport
/// turns the query and the key at position p by <c>R^p</c>, so that their product depends on the distance alone and keys can be cached.
/// </summary>
internal sealed class HolonomyRotation : nn.Module
{
    private const double InitialDeviation = 0.02;

    private readonly HolonomyKind kind;
    private readonly bool isFree;
    private readonly long heads;
    private readonly RotaryEmbedding? planes;

    [ComponentName(Name = "curvature")]
    private readonly Parameter? curvature;

    [ComponentName(Name = "path_proj")]
    private readonly Linear? pathProjection;

    /// <param name="width">Model width D.</param>
    /// <param name="heads">Holonomy heads H.</param>
    /// <param name="headWidth">Width K of a head; even for paths.</param>
    /// <param name="kind">How they turn.</param>
    /// <param name="isFree">C itself multiplies the queries and is no rotation.</param>
    public HolonomyRotation(long width, long heads, long headWidth, HolonomyKind kind, bool isFree)
        : base(nameof(HolonomyRotation))
    {
        (this.kind, this.isFree, this.heads) = (kind, isFree, heads);
        using var scope = NewDisposeScope();
        if (kind == HolonomyKind.Path)
        {
            planes = new RotaryEmbedding(headWidth);
            pathProjection = Linear(width, heads * headWidth / 2, hasBias: false);
            init.normal_(pathProjection.weight, 0, InitialDeviation);
        }
        else
        {
            curvature = ModuleParameter.Own(randn(heads, headWidth, headWidth) * InitialDeviation);
        }

        RegisterComponents();
    }

    /// <summary>Angles that a path accumulates for each head, K / 2; 0 for the other kinds.</summary>
    public long AnglesOfAPath => pathProjection?.weight.size(0) ?? 0;

    /// <summary>The matrices C, which train without weight decay.</summary>
    public IEnumerable<Parameter> Curvatures => curvature is null ? [] : [curvature];

    /// <summary>The rotations R = exp(A) of the heads.</summary>
    /// <param name="type">Float32 or float64.</param>
    /// <returns>[H, K, K].</returns>
    public Tensor Rotations(ScalarType type)
    {
        using var scope = NewDisposeScope();
        var free = curvature!.to_type(type);
        return linalg.matrix_exp((free - free.transpose(-2, -1)) / 2).MoveToOuterDisposeScope();
    }

    /// <summary>Turns queries and keys.</summary>
    /// <param name="query">[B, H, T, K].</param>
    /// <param name="key">[B, H, T, K].</param>
    /// <param name="input">The layer's input [B, T, D]; paths read it.</param>
    /// <param name="starts">Tokens before the first of each row; one entry where the rows agree.</param>
    /// <param name="mask">Bool [B, T], false at padding; null where every row is full.</param>
    /// <param name="angles">Angles of the paths so far [B, H K / 2], or null at the start of a sequence and for the other kinds.</param>
    /// <returns>Both turned, in the caller's dispose scope, and the angles after the last real token, null but for paths.</returns>
    public (Tensor Query, Tensor Key, Tensor? Angles) Turn(
        Tensor query, Tensor key, Tensor input, IReadOnlyList<long> starts, Tensor? mask, Tensor? angles)
    {
        if (kind == HolonomyKind.Path)
        {
            return AlongPath(query, key, input, mask, angles);
        }

        if (kind == HolonomyKind.Transport)
        {
            (query, key) = Transport(query, key, starts);
            return (query, key, null);
        }

        var precise = StatePrecision.Of(query.dtype);
        var factor = isFree ? curvature!.to_type(precise) : Rotations(precise);
        return (query.to_type(precise).matmul(factor).to_type(query.dtype), key, null);
    }

    /// <summary>
    /// R^p by the binary digits of the position p: where digit j is set, one more factor R^(2^j). Any positions, T log T products of a
    /// token with a matrix. Squared a dozen times for far positions, R must not lose digits, so the powers are float64.
    /// </summary>
    private (Tensor Query, Tensor Key) Transport(Tensor query, Tensor key, IReadOnlyList<long> starts)
    {
        var time = query.size(2);
        var positions = KeyVisibility.Consecutive(starts, time, query.device).unsqueeze(1).unsqueeze(-1);   // [B or 1, 1, T, 1]
        var (type, power) = (query.dtype, Rotations(ScalarType.Float64));
        var precise = StatePrecision.Of(type);
        (query, key) = (query.to_type(precise), key.to_type(precise));
        for (var place = 1L; place <= starts.Max() + time - 1; place *= 2)
        {
            using var scope = NewDisposeScope();
            var isSet = positions.bitwise_and(full_like(positions, place)).ne(0);
            var rotation = power.to_type(precise);
            query = where(isSet, query.matmul(rotation), query).MoveToOuterDisposeScope();
            key = where(isSet, key.matmul(rotation), key).MoveToOuterDisposeScope();
            power = power.matmul(power).MoveToOuterDisposeScope();
        }

        return (query.to_type(type), key.to_type(type));
    }

    /// <summary>Angles theta_t = theta_(t-1) + W x_t, each turning channel i of a head with channel i + K/2.</summary>
    private (Tensor Query, Tensor Key, Tensor Angles) AlongPath(Tensor query, Tensor key, Tensor input, Tensor? mask, Tensor? angles)
    {
        var steps = pathProjection!.call(input);
        steps = steps.to_type(StatePrecision.Of(steps.dtype));                           // [B, T, H K / 2]
        if (mask is not null)
        {
            steps = steps * mask.unsqueeze(-1).to_type(steps.dtype);
        }

        var path = steps.cumsum(1);
        path = angles is null ? path : path + angles.unsqueeze(1);
        var (batch, time) = (path.size(0), path.size(1));
        var turns = path.view(batch, time, heads, -1).transpose(1, 2);
        var cosAndSin = (turns.cos(), turns.sin());
        return (planes!.Rotate(query, cosAndSin), planes.Rotate(key, cosAndSin), path.select(1, time - 1));
    }
}
