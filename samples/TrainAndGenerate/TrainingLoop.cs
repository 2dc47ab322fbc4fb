using System.Diagnostics;
using Hybrid.Training;
using Spectre.Console;

namespace Hybrid.Samples;

/// <summary>Runs the steps and shows them: a progress bar on a terminal, plain lines where output is redirected. Ctrl-C ends it between two steps.</summary>
internal sealed class TrainingLoop : IDisposable
{
    private const int PlainLineEvery = 50;
    private const int AveragedSteps = 20;
    private const int QuickWindows = 128;
    private const int FinalWindows = 1024;

    private readonly LanguageModelTrainer trainer;
    private readonly TrainingOptions options;
    private readonly Stopwatch clock = new();
    private readonly Queue<double> recent = new();
    private double validation = double.NaN;
    private int firstStep;
    private volatile bool interrupted;

    public TrainingLoop(LanguageModelTrainer trainer, TrainingOptions options)
    {
        this.trainer = trainer;
        this.options = options;
        Console.CancelKeyPress += Interrupt;
    }

    /// <summary>True where the user stopped the run.</summary>
    public bool Interrupted => interrupted;

    /// <summary>Trains from a step on.</summary>
    /// <param name="start">First step.</param>
    /// <returns>The step that a later run has to continue from.</returns>
    public int Run(int start)
    {
        firstStep = start;
        clock.Start();
        return AnsiConsole.Profile.Capabilities.Interactive && !Console.IsOutputRedirected ? RunWithBar(start) : RunWithLines(start);
    }

    public void Dispose() => Console.CancelKeyPress -= Interrupt;

    private int RunWithLines(int start)
    {
        var step = start;
        for (; step < options.Steps && !interrupted; step++)
        {
            Advance(step);
            if ((step + 1) % PlainLineEvery == 0 || step + 1 == options.Steps)
            {
                Console.WriteLine($"step {step + 1,6}/{options.Steps}  {Figures(step + 1)}");
            }
        }

        return step;
    }

    private int RunWithBar(int start)
    {
        var step = start;
        AnsiConsole.Progress()
            .Columns(new TaskDescriptionColumn { Alignment = Justify.Left }, new ProgressBarColumn(), new PercentageColumn())
            .Start(context =>
            {
                var bar = context.AddTask("starting", maxValue: options.Steps);
                bar.Value = start;
                for (; step < options.Steps && !interrupted; step++)
                {
                    Advance(step);
                    bar.Increment(1);
                    bar.Description = $"step {step + 1}/{options.Steps}  {Figures(step + 1)}";
                }
            });
        return step;
    }

    private void Advance(int step)
    {
        recent.Enqueue(trainer.TrainStep(step));
        if (recent.Count > AveragedSteps)
        {
            recent.Dequeue();
        }

        var last = step + 1 == options.Steps;
        if (last || (step + 1) % options.EvalEvery == 0)
        {
            validation = trainer.Evaluate(last ? FinalWindows : QuickWindows);
        }
    }

    private string Figures(int done)
    {
        var seconds = clock.Elapsed.TotalSeconds;
        var rate = (done - firstStep) / Math.Max(seconds, 1e-9);
        var left = TimeSpan.FromSeconds((options.Steps - done) / Math.Max(rate, 1e-9));
        var held = double.IsNaN(validation) ? "   -  " : $"{validation:f4}";
        return $"loss {recent.Average():f4}  validation {held}  {rate * options.BatchSize * options.SequenceLength:N0} tokens/s  {left:hh\\:mm\\:ss} left";
    }

    private void Interrupt(object? sender, ConsoleCancelEventArgs arguments)
    {
        arguments.Cancel = true;
        interrupted = true;
    }
}
