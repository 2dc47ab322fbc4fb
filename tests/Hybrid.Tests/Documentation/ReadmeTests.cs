using Xunit;

namespace Hybrid.Tests.Documentation;

public class ReadmeTests
{
    [Fact]
    public void TheExampleIsTheQuickStartSample()
    {
        var readme = File.ReadAllText(Path.Combine(AppContext.BaseDirectory, "Documentation", "README.md")).ReplaceLineEndings("\n");
        var sample = File.ReadAllText(Path.Combine(AppContext.BaseDirectory, "Documentation", "QuickStart.cs.txt")).ReplaceLineEndings("\n");
        Assert.Contains($"```csharp\n{sample}```\n", readme, StringComparison.Ordinal);
        Assert.True(sample.Split('\n', StringSplitOptions.RemoveEmptyEntries).Length <= 15, "the example has more than fifteen lines");
    }
}
