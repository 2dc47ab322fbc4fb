using System.Runtime.CompilerServices;

namespace Hybrid.Kernels.Cpu;

/// <summary>
/// Decays within a chunk of a recurrence with one factor a step, and their gradient. Matrices are [steps, steps], each row followed by the
/// next; only products of factors occur, each at most 1, so no decay overflows and none is a quotient of others.
/// </summary>
internal static unsafe class LaneDecay<TLane>
    where TLane : struct, ILane<TLane>
{
    /// <summary>Steps of a chunk, and the stride of its matrices: two registers of the widest kind.</summary>
    public const int Steps = 32;

    /// <summary>D_ij = a_(j+1) ... a_i from step j to step i: 1 on the diagonal, 0 above it.</summary>
    /// <param name="factors">a [Steps].</param>
    /// <param name="count">Rows to fill.</param>
    /// <param name="decay">D, out.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Between(float* factors, int count, float* decay)
    {
        var place = stackalloc float[Steps];
        for (var i = 0; i < Steps; i++)
        {
            place[i] = i;
        }

        for (var column = 0; column < Steps; column += TLane.Count)
        {
            var (from, row) = (TLane.Load(place + column), TLane.Zero);
            for (var i = 0; i < count; i++)
            {
                var to = TLane.Broadcast(i);
                row = TLane.WhereLess(from, to, TLane.Broadcast(factors[i]) * row, TLane.WhereLess(to, from, TLane.Zero, TLane.Broadcast(1)));
                TLane.Store(row, decay + (i * Steps) + column);
            }
        }
    }

    /// <summary>e_i = a_0 ... a_i, from before the chunk to step i; 0 from <paramref name="count"/> on.</summary>
    public static void FromStart(float* factors, int count, float* decay)
    {
        var product = 1f;
        for (var i = 0; i < Steps; i++)
        {
            product = i < count ? product * factors[i] : 0;
            decay[i] = product;
        }
    }

    /// <summary>
    /// Gradients of the log factors. What D_ij passes on reaches all factors after j up to i: step k receives the sum of G_ij over j before k and i
    /// from k on, every term for itself, since differences of running sums would lose the small ones. What e_i passes on reaches the factors up
    /// to i, what the decay from j to the end passes on those after j.
    /// </summary>
    /// <param name="between">G_ij = D_ij dD_ij; read below the diagonal.</param>
    /// <param name="fromStart">e_i de_i.</param>
    /// <param name="toEnd">f_j df_j with f_j = D from step j to the end.</param>
    /// <param name="whole">What the decay of the whole chunk passes on.</param>
    /// <param name="count">Steps that there are.</param>
    /// <param name="gradient">Out, [Steps].</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Gradient(float* between, float* fromStart, float* toEnd, float whole, int count, float* gradient)
    {
        float* place = stackalloc float[Steps], columns = stackalloc float[Steps];
        for (var i = 0; i < Steps; i++)
        {
            (place[i], columns[i]) = (i, 0);
        }

        var after = 0f;
        for (var k = count - 1; k >= 0; k--)
        {
            var (sum, limit) = (TLane.Zero, TLane.Broadcast(k));
            for (var column = 0; column < Steps; column += TLane.Count)
            {
                var value = TLane.Load(columns + column) + TLane.Load(between + (k * Steps) + column);
                TLane.Store(value, columns + column);
                sum += TLane.WhereLess(TLane.Load(place + column), limit, value, TLane.Zero);
            }

            after += fromStart[k];
            gradient[k] = TLane.Sum(sum) + after;
        }

        var before = whole;
        for (var k = 0; k < count; k++)
        {
            gradient[k] += before;
            before += toEnd[k];
        }
    }
}
