using System.Reflection;

namespace Fallbacks.Tests.Api;

/// <summary>One real package: what it is called, which version the repository is written against, and its API list.</summary>
internal sealed record ApiPackage(string Name, Version Version)
{
    public static ApiPackage TorchSharp { get; } = new("TorchSharp", new Version(0, 107, 0, 0));

    public static ApiPackage Tomlyn { get; } = new("Tomlyn", new Version(2, 4, 1, 0));

    public static IReadOnlyList<ApiPackage> All { get; } = [TorchSharp, Tomlyn];

    public static ApiPackage Of(string name) => All.Single(p => p.Name == name);

    public string ListPath => Path.Combine(ApiFiles.Lists, $"{Name.ToLowerInvariant()}-{Version.ToString(3)}.txt");

    /// <summary>The list, or a skipped test where it does not lie beside the checkout.</summary>
    public ApiList ReadList()
    {
        Assert.SkipUnless(File.Exists(ListPath), $"{ListPath} is not there; HYBRID_API_LISTS can name the folder of the API lists.");
        return ApiList.Read(ListPath);
    }

    /// <summary>The stub assembly made from the list, or a skipped test where list or compiler is missing.</summary>
    public CompiledStubs Stubs()
    {
        _ = ReadList();
        StubCompiler.RequireCompiler();
        return ApiFiles.Stubs(this);
    }
}

/// <summary>A stub assembly and the members it had to leave out.</summary>
internal sealed record CompiledStubs(string Path, IReadOnlyList<string> Dropped);

/// <summary>Where the tests find the checkout and the API lists, and where they put what they compile.</summary>
internal static class ApiFiles
{
    /// <summary>Recorded by the project file, since the output may lie outside the checkout.</summary>
    public static string RepositoryRoot { get; } =
        Assembly.GetExecutingAssembly().GetCustomAttributes<AssemblyMetadataAttribute>().Single(a => a.Key == "RepositoryRoot").Value!;

    public static string Lists { get; } =
        Environment.GetEnvironmentVariable("HYBRID_API_LISTS") ?? Path.GetFullPath(Path.Combine(RepositoryRoot, "..", "shared", "api"));

    /// <summary>A folder of this test run, removed when it ends.</summary>
    public static string Temporary { get; } = MakeTemporary();

    private static readonly Dictionary<ApiPackage, Lazy<CompiledStubs>> Compiled =
        ApiPackage.All.ToDictionary(p => p, p => new Lazy<CompiledStubs>(() => StubCompiler.CompileStubs(p, Path.Combine(Temporary, p.Name + ".dll"))));

    public static CompiledStubs Stubs(ApiPackage package) => Compiled[package].Value;

    private static string MakeTemporary()
    {
        var folder = Directory.CreateTempSubdirectory("hybrid-api-").FullName;
        AppDomain.CurrentDomain.ProcessExit += (_, _) => Directory.Delete(folder, recursive: true);
        return folder;
    }
}
