using System.Diagnostics;
using System.Reflection;

namespace Fallbacks.Tests.Api;

/// <summary>
/// Compiles projects of the repository as their build would, but against the stubs of the real packages.
/// </summary>
/// <remarks>
/// MSBuild is asked, in a design-time build that compiles nothing, for the compiler's arguments of every project: sources,
/// references, generators, defines. In these the references to TorchSharp and Tomlyn are swapped for the stubs, and the one
/// to Hybrid for what <see cref="Compile"/> made of it before.
/// </remarks>
internal static class ProjectCompiler
{
    private const string Library = "src/Hybrid/Hybrid.csproj";

    private const string CaptureTargets = """
        <Project>
          <Target Name="WriteCompilerArguments" AfterTargets="CoreCompile">
            <WriteLinesToFile File="$(CaptureFolder)/$(MSBuildProjectName).rsp" Lines="@(CscCommandLineArgs)" Overwrite="true" />
          </Target>
        </Project>
        """;

    // The file that does not exist keeps MSBuild from skipping CoreCompile as up to date.
    private const string CaptureProject = """
        <Project>
          <Target Name="Capture">
            <MSBuild Projects="$(CaptureProjects)" Targets="Compile" ContinueOnError="true"
                     Properties="DesignTimeBuild=true;SkipCompilerExecution=true;ProvideCommandLineArgs=true;BuildProjectReferences=false;NonExistentFile=never/made" />
          </Target>
        </Project>
        """;

    private static readonly string[] OutputArguments = ["/out:", "/refout:", "/doc:", "/pdb:", "/errorlog:", "/generatedfilesout:"];

    private static readonly Lazy<(string Folder, string Log)> Arguments = new(CaptureArguments);

    private static readonly Lazy<IReadOnlyList<CompilerMessage>> LibraryMessages = new(() => CompileNow(Library));

    /// <summary>Every project that compiles against TorchSharp or Tomlyn, relative to the repository.</summary>
    public static IEnumerable<string> Projects { get; } =
        new[] { "src/Hybrid", "tests/Hybrid.Tests", "samples", "benchmarks" }
            .Select(f => Path.Combine(ApiFiles.RepositoryRoot, f))
            .Where(Directory.Exists)
            .SelectMany(f => Directory.EnumerateFiles(f, "*.csproj", SearchOption.AllDirectories))
            .Select(f => Path.GetRelativePath(ApiFiles.RepositoryRoot, f).Replace('\\', '/'))
            .Order(StringComparer.Ordinal);

    /// <summary>The compiler's errors; the test is skipped where the project was never restored.</summary>
    public static IReadOnlyList<CompilerMessage> Compile(string project)
    {
        Assert.SkipUnless(File.Exists(AssetsFile(project)), $"{project} is not restored; build the solution first.");
        if (project == Library)
        {
            return LibraryMessages.Value;
        }

        Assert.SkipWhen(LibraryMessages.Value.Any(m => m.IsError), $"{Library} does not compile against the real packages; its own test says where.");
        return CompileNow(project);
    }

    private static IReadOnlyList<CompilerMessage> CompileNow(string project)
    {
        var name = Path.GetFileNameWithoutExtension(project);
        var captured = Path.Combine(Arguments.Value.Folder, name + ".rsp");
        Assert.True(File.Exists(captured), $"{project}: MSBuild gave no compiler arguments but said:\n{Arguments.Value.Log}");

        // Analyzers have had their say in the normal build; source generators still run.
        var arguments = File.ReadLines(captured)
            .Where(a => !OutputArguments.Any(o => a.StartsWith(o, StringComparison.Ordinal)))
            .Select(Redirect)
            .Append("/skipanalyzers+")
            .Append($"/out:\"{Path.Combine(ApiFiles.Temporary, name + ".dll")}\"");
        return StubCompiler.Run(arguments, Path.Combine(ApiFiles.Temporary, name + ".rsp"), Path.GetDirectoryName(Path.Combine(ApiFiles.RepositoryRoot, project)));
    }

    private static string Redirect(string argument)
    {
        const string Reference = "/reference:";
        if (!argument.StartsWith(Reference, StringComparison.Ordinal))
        {
            return argument;
        }

        var name = Path.GetFileName(argument[Reference.Length..].Trim('"'));
        var ours = name switch
        {
            "Hybrid.dll" => Path.Combine(ApiFiles.Temporary, name),
            _ => ApiPackage.All.FirstOrDefault(p => name == p.Name + ".dll")?.Stubs().Path,
        };
        return ours is null ? argument : $"{Reference}\"{ours}\"";
    }

    private static (string Folder, string Log) CaptureArguments()
    {
        var folder = Directory.CreateDirectory(Path.Combine(ApiFiles.Temporary, "arguments")).FullName;
        var targets = Path.Combine(ApiFiles.Temporary, "capture.targets");
        var project = Path.Combine(ApiFiles.Temporary, "capture.proj");
        File.WriteAllText(targets, CaptureTargets);
        File.WriteAllText(project, CaptureProject);

        var projects = Projects.Where(p => File.Exists(AssetsFile(p))).Select(p => Path.Combine(ApiFiles.RepositoryRoot, p));
        List<string> arguments =
        [
            "msbuild", project, "-nologo", "-verbosity:minimal", "-target:Capture", "-nodeReuse:false",
            $"-property:CaptureFolder={folder}",
            $"-property:CaptureProjects=\"{string.Join(';', projects)}\"",
            $"-property:CustomAfterMicrosoftCommonTargets={targets}",
            $"-property:Configuration={Assembly.GetExecutingAssembly().GetCustomAttribute<AssemblyConfigurationAttribute>()!.Configuration}",
        ];
        if (ArtifactsPath is { } artifacts)
        {
            arguments.Add($"-property:ArtifactsPath={artifacts}");
        }

        var start = new ProcessStartInfo(StubCompiler.DotnetPath, arguments)
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = ApiFiles.RepositoryRoot,
        };

        // The test host hands down settings of the MSBuild that started it.
        foreach (var name in start.Environment.Keys.Where(k => k.StartsWith("MSBUILD", StringComparison.OrdinalIgnoreCase)).ToList())
        {
            start.Environment.Remove(name);
        }

        using var process = Process.Start(start)!;
        var error = process.StandardError.ReadToEndAsync();
        var output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return (folder, output + error.Result);
    }

    /// <summary>The folder given with --artifacts-path, or null where outputs lie beside each project.</summary>
    private static string? ArtifactsPath
    {
        get
        {
            var project = Directory.GetParent(AppContext.BaseDirectory.TrimEnd('/', '\\'))!;
            return project is { Name: "Fallbacks.Tests", Parent: { Name: "bin", Parent: { } artifacts } } ? artifacts.FullName : null;
        }
    }

    private static string AssetsFile(string project)
    {
        var intermediate = ArtifactsPath is { } artifacts
            ? Path.Combine(artifacts, "obj", Path.GetFileNameWithoutExtension(project))
            : Path.Combine(ApiFiles.RepositoryRoot, Path.GetDirectoryName(project)!, "obj");
        return Path.Combine(intermediate, "project.assets.json");
    }
}
