using TorchSharp.Modules;
using Xunit;
using static TorchSharp.torch;

namespace Fallbacks.Tests.Nn;

public sealed class SchedulerTests
{
    [Fact]
    public void A_lambda_sets_the_rate_of_every_group()
    {
        using var scope = NewDisposeScope();
        using var optimizer = optim.SGD([new SGD.ParamGroup([nn.Parameter(zeros(1))], lr: 0.5), new SGD.ParamGroup([nn.Parameter(zeros(1))], lr: 2)], 1);
        var scheduler = optim.lr_scheduler.LambdaLR(optimizer, epoch => 1.0 / (1 + epoch));

        Assert.Equal([0.5, 2], optimizer.ParamGroups.Select(g => g.LearningRate));
        scheduler.step();
        scheduler.step();
        Values.Near([0.5 / 3, 2d / 3], optimizer.ParamGroups.Select(g => g.LearningRate).ToArray());
        Values.Near([0.5 / 3, 2d / 3], scheduler.get_last_lr().ToArray());
        scheduler.step(9);
        Values.Near([0.05, 0.2], optimizer.ParamGroups.Select(g => g.LearningRate).ToArray());
    }

    [Fact]
    public void The_cosine_falls_and_rises()
    {
        using var scope = NewDisposeScope();
        using var optimizer = optim.SGD([nn.Parameter(zeros(1))], 0.8);
        var scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, 10, eta_min: 0.1);

        for (int epoch = 0; epoch < 25; epoch++)
        {
            double expected = 0.1 + 0.7 * (1 + Math.Cos(Math.PI * epoch / 10)) / 2;
            Values.Near([expected], optimizer.ParamGroups.Select(g => g.LearningRate).ToArray(), 1e-9);
            scheduler.step();
        }

        // A given epoch is jumped to.
        scheduler.step(3);
        Values.Near([0.1 + 0.7 * (1 + Math.Cos(Math.PI * 0.3)) / 2], scheduler.get_last_lr().ToArray());
    }
}
