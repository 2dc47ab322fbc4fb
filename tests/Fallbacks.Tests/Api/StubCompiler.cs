using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;

namespace Fallbacks.Tests.Api;

/// <summary>One line the compiler wrote: error or warning, with file and line.</summary>
internal sealed record CompilerMessage(string Text, bool IsError);

/// <summary>Runs the C# compiler of the installed .NET SDK.</summary>
internal static partial class StubCompiler
{
    private static readonly string DotnetRoot =
        Path.GetFullPath(Path.Combine(RuntimeEnvironment.GetRuntimeDirectory(), "..", "..", ".."));

    public static string DotnetPath { get; } = Path.Combine(DotnetRoot, OperatingSystem.IsWindows() ? "dotnet.exe" : "dotnet");

    /// <summary>The reference assemblies of this runtime's framework, or the runtime's own where there is no reference pack.</summary>
    public static IReadOnlyList<string> FrameworkReferences { get; } = FindFrameworkReferences();

    /// <summary>csc.dll of the newest SDK of this runtime's major version, or null where only a runtime is installed.</summary>
    public static string? CompilerPath { get; } =
        Newest(Path.Combine(DotnetRoot, "sdk")) is { } sdk && Path.Combine(sdk, "Roslyn", "bincore", "csc.dll") is var path && File.Exists(path)
            ? path
            : null;

    public static void RequireCompiler() =>
        Assert.SkipWhen(CompilerPath is null, $"No .NET {Environment.Version.Major} SDK under {DotnetRoot} to compile with.");

    /// <summary>Compiles the list of a package to an assembly of throwing bodies.</summary>
    public static CompiledStubs CompileStubs(ApiPackage package, string output)
    {
        var writer = new StubWriter(ApiList.Read(package.ListPath), package.Name, package.Version);
        var errors = CompileSource(writer.Write(), output);
        return errors.Count == 0
            ? new CompiledStubs(output, writer.Dropped)
            : throw new InvalidOperationException($"Stubs of {package.Name}: {errors.Count} errors:\n{string.Join('\n', errors.Take(20).Select(e => e.Text))}");
    }

    /// <summary>Compiles one source to a library; returns the errors.</summary>
    public static IReadOnlyList<CompilerMessage> CompileSource(string source, string output, params string[] options)
    {
        var file = Path.ChangeExtension(output, ".cs");
        File.WriteAllText(file, source);
        var arguments = FrameworkReferences.Select(r => $"/reference:\"{r}\"").Concat(
        [
            "/target:library", "/langversion:latest", "/unsafe", "/warn:0", "/deterministic", $"/out:\"{output}\"", $"\"{file}\"", .. options,
        ]);
        return [.. Run(arguments, output + ".rsp").Where(m => m.IsError)];
    }

    /// <summary>Compiles with the arguments, handed over in a response file.</summary>
    public static IReadOnlyList<CompilerMessage> Run(IEnumerable<string> arguments, string responseFile, string? directory = null)
    {
        File.WriteAllLines(responseFile, arguments);
        var start = new ProcessStartInfo(DotnetPath)
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = directory ?? Path.GetDirectoryName(responseFile)!,
        };
        foreach (var argument in new[] { "exec", CompilerPath!, "/noconfig", "/nologo", $"@{responseFile}" })
        {
            start.ArgumentList.Add(argument);
        }

        using var process = Process.Start(start)!;
        var error = process.StandardError.ReadToEndAsync();
        var lines = process.StandardOutput.ReadToEnd().Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        process.WaitForExit();
        var messages = lines.Where(l => Message().IsMatch(l)).Select(l => new CompilerMessage(l, l.Contains("error CS"))).ToList();
        return process.ExitCode == 0 || messages.Exists(m => m.IsError)
            ? messages
            : throw new InvalidOperationException($"csc: exit code {process.ExitCode} without an error message.\n{string.Join('\n', lines)}\n{error.Result}");
    }

    private static List<string> FindFrameworkReferences()
    {
        var pack = Newest(Path.Combine(DotnetRoot, "packs", "Microsoft.NETCore.App.Ref"));
        var folder = pack is null
            ? RuntimeEnvironment.GetRuntimeDirectory()
            : Path.Combine(pack, "ref", $"net{Environment.Version.Major}.{Environment.Version.Minor}");
        return [.. Directory.GetFiles(folder, "*.dll").Where(f => Path.GetFileName(f) is var n && (n.StartsWith("System.", StringComparison.Ordinal) || n is "mscorlib.dll" or "netstandard.dll"))];
    }

    /// <summary>The subfolder with the highest version of this runtime's major number.</summary>
    private static string? Newest(string folder) =>
        !Directory.Exists(folder)
            ? null
            : Directory.GetDirectories(folder)
                .Select(d => (Path: d, Version: Version.TryParse(Path.GetFileName(d).Split('-')[0], out var v) ? v : new Version(0, 0)))
                .Where(d => d.Version.Major == Environment.Version.Major)
                .OrderBy(d => d.Version)
                .LastOrDefault().Path;

    [GeneratedRegex(@"\b(error|warning) [A-Z]+\d+:")]
    private static partial Regex Message();
}
