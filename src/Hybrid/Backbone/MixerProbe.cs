using static TorchSharp.torch;

namespace Hybrid.Backbone;

/// <summary>Tries a mixer of the user's own before a stack is built on it.</summary>
internal static class MixerProbe
{
    private const long Batch = 2;
    private const long Time = 3;

    /// <summary>Runs a small batch through a mixer that is not the library's own, and disposes a mixer that is refused.</summary>
    /// <param name="mixer">The mixer.</param>
    /// <param name="width">Model width D.</param>
    /// <exception cref="ArgumentException">Width, output or state is not what a stack needs.</exception>
    public static void Check(SequenceMixer mixer, long width)
    {
        if (mixer is null)
        {
            throw new ArgumentException($"the factory must make a mixer of width {width}; got null.");
        }

        if (mixer.GetType().Assembly == typeof(MixerProbe).Assembly && mixer.Width == width)
        {
            return;
        }

        try
        {
            Require(mixer.Width == width, mixer, $"the width must be {width}", $"{mixer.Width}");
            Probe(mixer);
        }
        catch
        {
            mixer.Dispose();
            throw;
        }
    }

    private static void Probe(SequenceMixer mixer)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var training = mixer.training;
        mixer.eval();
        var dtype = mixer.parameters().FirstOrDefault()?.dtype ?? ScalarType.Float32;
        var x = zeros([Batch, Time, mixer.Width], dtype: dtype);
        var y = mixer.forward(x, MixerContext.None);
        Require(
            y.shape.AsSpan().SequenceEqual(x.shape) && y.dtype == dtype,
            mixer,
            $"the output for {dtype} [{string.Join(", ", x.shape)}] must be of the same type and shape",
            $"{y.dtype} [{string.Join(", ", y.shape)}]");
        using var state = mixer.CreateState(Batch);
        Require(state.BatchSize == Batch, mixer, $"CreateState({Batch}) must make a state of {Batch} sequences", $"{state.BatchSize}");
        mixer.train(training);
    }

    private static void Require(bool holds, SequenceMixer mixer, string expected, string got)
    {
        if (!holds)
        {
            throw new ArgumentException($"{mixer.GetName()}: {expected}; got {got}.");
        }
    }
}
