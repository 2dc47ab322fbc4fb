using System.Reflection;

namespace Fallbacks.Tests.Api;

/// <summary>What the fallback assemblies show exists in the real packages, member for member.</summary>
public sealed class ApiShapeTests
{
    private static Assembly AssemblyOf(string package) => package switch
    {
        "TorchSharp" => typeof(TorchSharp.torch).Assembly,
        "Tomlyn" => typeof(Tomlyn.TomlSerializer).Assembly,
        _ => throw new ArgumentOutOfRangeException(nameof(package), package, "expected TorchSharp or Tomlyn"),
    };

    [Theory]
    [InlineData("TorchSharp")]
    [InlineData("Tomlyn")]
    public void EveryMemberExistsInTheRealPackage(string package)
    {
        var list = ApiPackage.Of(package).ReadList();

        var differences = ApiComparison.Differences(ReflectedApi.Read(AssemblyOf(package)), list);

        Assert.True(differences.Count == 0, $"{package}: {differences.Count} members are not those of the package:\n  {string.Join("\n  ", differences)}");
    }

    /// <summary>What was compiled against the fallback must load the package: an unsigned reference of no higher version does.</summary>
    [Theory]
    [InlineData("TorchSharp")]
    [InlineData("Tomlyn")]
    public void TheAssemblyCanBeReplacedByTheRealOne(string package)
    {
        var name = AssemblyOf(package).GetName();

        Assert.Equal(package, name.Name);
        Assert.True(name.Version <= ApiPackage.Of(package).Version, $"{package}: expected at most {ApiPackage.Of(package).Version}; got {name.Version}.");
        Assert.Empty(name.GetPublicKeyToken()!);
    }
}
