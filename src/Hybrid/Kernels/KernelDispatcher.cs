namespace Hybrid.Kernels;

/// <summary>Which kernels are used: the environment variable HYBRID_KERNELS is <c>auto</c> (default) or <c>reference</c>.</summary>
public static class KernelDispatcher
{
    private const string Variable = "HYBRID_KERNELS";

    /// <summary>True where only reference kernels run.</summary>
    /// <exception cref="InvalidOperationException">HYBRID_KERNELS has another value.</exception>
    public static bool ReferenceOnly { get; internal set; } = Read();

    private static bool Read() => Environment.GetEnvironmentVariable(Variable) switch
    {
        null or "" or "auto" => false,
        "reference" => true,
        var other => throw new InvalidOperationException($"{Variable} must be auto or reference; got '{other}'."),
    };
}
