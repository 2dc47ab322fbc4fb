using System.CommandLine;
using Hybrid.Samples;

const string Both = "both";
var task = new Option<string>("--task") { Description = "recall, induction or both.", DefaultValueFactory = _ => Both };
var minutes = new Option<double>("--minutes") { Description = "Training time of all models together at most.", DefaultValueFactory = _ => 10 };
var steps = new Option<int?>("--steps") { Description = "Optimizer steps of a model at most; default: the task's own." };
var models = new Option<string[]>("--models")
{
    Description = $"Which models, of {string.Join(", ", Contender.All.Select(contender => contender.Name))}; default: all.",
    AllowMultipleArgumentsPerToken = true,
};
var width = new Option<long>("--width") { Description = "Model width, a multiple of 32.", DefaultValueFactory = _ => 64 };
var vocabulary = new Option<int>("--vocabulary") { Description = "Ids of associative recall, half of them keys and half of them values.", DefaultValueFactory = _ => 512 };
var length = new Option<int>("--length") { Description = "Tokens of a training sequence.", DefaultValueFactory = _ => 64 };
var pairs = new Option<int>("--pairs") { Description = "Pairs of associative recall.", DefaultValueFactory = _ => 8 };
var rate = new Option<double>("--rate") { Description = "Peak learning rate.", DefaultValueFactory = _ => 3e-3 };
var seed = new Option<int>("--seed") { Description = "Seed of weights and sequences.", DefaultValueFactory = _ => 1 };
var command = new RootCommand("Compares attention, Mamba and hybrids of equal size at recalling what a sequence said before.")
{
    task, minutes, steps, models, width, vocabulary, length, pairs, rate, seed,
};
command.SetAction(parsed =>
{
    // The short task first: what its models leave of the time is the long one's.
    var induction = new InductionHeads(vocabulary: 16, parsed.GetValue(length));
    var recall = new AssociativeRecall(parsed.GetValue(vocabulary), parsed.GetValue(length), parsed.GetValue(pairs));
    RecallTask[] chosen = parsed.GetValue(task) switch { "recall" => [recall], "induction" => [induction], _ => [induction, recall] };
    string[] named = parsed.GetValue(models) is { Length: > 0 } given ? given : [.. Contender.All.Select(contender => contender.Name)];
    Contender[] contenders = [.. Contender.All.Where(contender => named.Contains(contender.Name))];
    if (contenders.Length != named.Length || 2 * parsed.GetValue(pairs) >= parsed.GetValue(length))
    {
        Console.Error.WriteLine("--models must be names of models, and --length must leave room for questions behind the pairs.");
        return 1;
    }

    // A model that is done early leaves its time to the next ones.
    var (left, waiting) = (TimeSpan.FromMinutes(parsed.GetValue(minutes)), chosen.Length * contenders.Length);
    foreach (var current in chosen)
    {
        var most = parsed.GetValue(steps) ?? current.Steps;
        Console.WriteLine($"{current.Name}; at most {most} steps a model");
        var parameters = Contender.All[^1].Parameters(current, parsed.GetValue(width));
        var results = new List<RecallResult>();
        foreach (var contender in contenders)
        {
            var options = contender.Options(current, parsed.GetValue(width), parameters);
            var run = new RecallRun(current, contender, options, parsed.GetValue(rate), parsed.GetValue(seed));
            results.Add(run.Train(most, left / waiting, Console.WriteLine));
            (left, waiting) = (left - results[^1].Time, waiting - 1);
        }

        Print(current, results);
    }

    return 0;
});
return command.Parse(args).Invoke();

static void Print(RecallTask task, IReadOnlyList<RecallResult> results)
{
    Console.WriteLine();
    Console.WriteLine($"| Model | Parameters | Steps | Seconds | {string.Join(" | ", task.TestLengths.Select(length => $"Length {length}"))} |");
    Console.WriteLine($"|---|---|---|---|{string.Concat(task.TestLengths.Select(_ => "---|"))}");
    foreach (var result in results)
    {
        var accuracies = string.Join(" | ", result.Accuracies.Select(accuracy => $"{100 * accuracy:f1}%"));
        Console.WriteLine($"| {result.Contender.Name} | {result.Parameters:N0} | {result.Steps} | {result.Time.TotalSeconds:f0} | {accuracies} |");
    }

    Console.WriteLine();
}
