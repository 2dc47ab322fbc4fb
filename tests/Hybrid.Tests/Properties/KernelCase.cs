using FsCheck;
using FsCheck.Fluent;

namespace Hybrid.Tests.Properties;

/// <summary>
/// Sizes that FsCheck draws for a kernel. Few are powers of two: a kernel that cuts time or channels into blocks meets its ragged ends.
/// </summary>
/// <param name="Batch">Batch rows B.</param>
/// <param name="Time">Time steps T, from 1.</param>
/// <param name="Split">Steps of the first of two calls, 1..T-1; 0 where T is 1.</param>
/// <param name="First">A width.</param>
/// <param name="Second">Another width.</param>
/// <param name="Heads">Heads or channels.</param>
/// <param name="Decay">Typical decay exponent of a step: 1e-4 hardly forgets, 30 forgets everything.</param>
/// <param name="Size">Size of the inputs.</param>
/// <param name="Seed">Seed of the values.</param>
public sealed record KernelCase(
    long Batch, long Time, long Split, long First, long Second, long Heads, double Decay, double Size, long Seed)
{
    /// <summary>The cases of every run: where one fails, it fails again.</summary>
    private static readonly Config Repeatable =
        Config.QuickThrowOnFailure.WithMaxTest(30).WithReplay(20_240_531, 7).WithQuietOnSuccess(true);

    /// <summary>Checks 30 cases; a failure names its case.</summary>
    /// <param name="property">Throws where the property does not hold.</param>
    public static void ForAll(Action<KernelCase> property) => Check.One(Repeatable, Prop.ForAll(Cases.ToArbitrary(), property));

    private static Gen<KernelCase> Cases
    {
        get
        {
            var widths = Gen.Elements<long>(1, 3, 5, 6, 7, 9, 11);
            var times = Gen.Frequency((1, Gen.Constant(1)), (3, Gen.Choose(2, 20)), (6, Gen.Choose(21, 150)));
            return from batch in Gen.Choose(1, 3)
                   from time in times
                   from split in time == 1 ? Gen.Constant(0) : Gen.Choose(1, time - 1)
                   from first in widths
                   from second in widths
                   from heads in widths
                   from decay in Gen.Elements(1e-4, 0.05, 1, 30)
                   from size in Gen.Elements(1, 1e2, 1e4)
                   from seed in Gen.Choose(0, int.MaxValue)
                   select new KernelCase(batch, time, split, first, second, heads, decay, size, seed);
        }
    }
}
