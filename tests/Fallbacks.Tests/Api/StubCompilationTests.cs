
namespace Fallbacks.Tests.Api;

/// <summary>
/// The repository compiles against the whole API of the real packages. A fallback has only some overloads, so what compiles
/// against it may be ambiguous, or bind elsewhere, against the package.
/// </summary>
public sealed class StubCompilationTests
{
    public static TheoryData<string> Projects => [.. ProjectCompiler.Projects];

    [Theory]
    [MemberData(nameof(Projects))]
    public void CompilesAgainstTheRealPackages(string project)
    {
        _ = ApiPackage.TorchSharp.Stubs();
        _ = ApiPackage.Tomlyn.Stubs();

        var errors = ProjectCompiler.Compile(project).Where(m => m.IsError).Select(m => m.Text).Distinct().ToList();

        Assert.True(errors.Count == 0, $"{project}: {errors.Count} errors against the real packages:\n{string.Join('\n', errors)}");
    }

    [Theory]
    [InlineData("TorchSharp")]
    [InlineData("Tomlyn")]
    public void StubsHaveEveryMemberOfTheList(string package)
    {
        var list = ApiPackage.Of(package).ReadList();
        var stubs = ApiPackage.Of(package).Stubs();
        var reflected = ReflectedApi.Read(stubs.Path).ToDictionary(t => t.Key);

        var missing = list.Types
            .SelectMany(t => t.Members.Select(m => (Type: t, Text: ApiComparison.Text(m, list))))
            .Where(m => !reflected.TryGetValue(m.Type.Key, out var type) || type.Members.All(a => ApiComparison.Text(a) != m.Text))
            .Select(m => $"{m.Type.FullName} :: {m.Text}")
            .ToList();
        var extra = ApiComparison.Differences(reflected.Values, list);

        Assert.Empty(extra);
        Assert.Equal(list.Types.Count, reflected.Count);
        Assert.Equal(stubs.Dropped.Count, missing.Count);

        // Tensorboard's protocol buffers come from another package, and nothing here writes them.
        Assert.All(missing, m => Assert.StartsWith("TorchSharp.torch.utils.tensorboard.Summary :: ", m));
    }
}
