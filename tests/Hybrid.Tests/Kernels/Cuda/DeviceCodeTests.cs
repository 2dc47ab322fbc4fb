using System.Diagnostics;
using Hybrid.Kernels;
using Hybrid.Kernels.Cuda;
using Hybrid.Tests.Checkpoints;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>
/// Every file of kernels compiles for devices, where there is a clang, and where there is an NVRTC, which needs no device: what g++ takes but a
/// device does not is found here, and where registers do not suffice.
/// </summary>
public unsafe class DeviceCodeTests
{
    /// <summary>Every file, with options that it is launched with.</summary>
    private static IEnumerable<CudaProgram> Programs(ScalarType elements) =>
    [
        CudaProgram.Of(
            "selective_scan.cu", elements, ("STATES", 16), ("SCAN_BYTES", sizeof(ScanArguments)), ("SCAN_GRADIENT_BYTES", sizeof(ScanGradientArguments))),
        Convolution(elements, width: 4, channels: elements == ScalarType.Float32 ? 1 : 2, packed: false),
        Convolution(elements, width: 5, channels: 1, packed: true),
        .. Enum.GetValues<RecurrenceGates>().Select(gates =>
            CudaProgram.Of("linear_recurrence.cu", elements, ("GATES", (long)gates), ("RECURRENCE_BYTES", sizeof(RecurrenceArguments)))),
        CudaProgram.Of("wkv.cu", elements, ("WKV_BYTES", sizeof(WkvArguments)), ("WKV_GRADIENT_BYTES", sizeof(WkvGradientArguments))),
        Delta(elements, rows: 4, columns: 16, corrected: true),
        Delta(elements, rows: 8, columns: 4, corrected: true),
        Delta(elements, rows: 1, columns: 4, corrected: true),
        Delta(elements, rows: 4, columns: 16, corrected: false),
        Delta(elements, rows: 8, columns: 4, corrected: false),
        Norm(elements, GateOrder.None, rowThreads: 32, piece: 16 / elements.ElementSize(), kept: 2),
        Norm(elements, GateOrder.AfterNorm, rowThreads: 128, piece: 16 / elements.ElementSize(), kept: 8),
        Norm(elements, GateOrder.BeforeNorm, rowThreads: 128, piece: 1, kept: 0),
        CudaProgram.Of(
            "mamba_step.cu", elements, ("STATES", 16), ("TAPS", 4), ("PARTS", 80), ("PARAMETERS", 0), ("PACKS", 1), ("STEP_BYTES", sizeof(MambaStepArguments))),
        CudaProgram.Of(
            "mamba_step.cu", elements, ("STATES", 16), ("TAPS", 1), ("PARTS", 1024), ("PARAMETERS", 1), ("PACKS", 0), ("STEP_BYTES", sizeof(MambaStepArguments))),
        CudaProgram.Of("duality_step.cu", elements, ("STATES", 128), ("TAPS", 4), ("PARAMETERS", 1), ("STEP_BYTES", sizeof(DualityStepArguments))),
        CudaProgram.Of("duality_step.cu", elements, ("STATES", 256), ("TAPS", 1), ("PARAMETERS", 0), ("STEP_BYTES", sizeof(DualityStepArguments))),
        CudaProgram.Of("attention_step.cu", elements, ("HEADS", 8), ("WIDTH", 128), ("PACKS", 1), ("STEP_BYTES", sizeof(AttentionStepArguments))),
        CudaProgram.Of("attention_step.cu", elements, ("HEADS", 1), ("WIDTH", 21), ("PACKS", 0), ("STEP_BYTES", sizeof(AttentionStepArguments))),
        CudaProgram.Of("linear_step.cu", elements, ("ROWS", 1), ("PACKS", 1), ("LINEAR_BYTES", sizeof(LinearStepArguments))),
        CudaProgram.Of("linear_step.cu", elements, ("ROWS", 8), ("PACKS", 0), ("LINEAR_BYTES", sizeof(LinearStepArguments))),
        CudaProgram.Of("embedding_step.cu", elements, ("EMBEDDING_BYTES", sizeof(EmbeddingStepArguments))),
    ];

    private static CudaProgram Convolution(ScalarType elements, int width, int channels, bool packed) => CudaProgram.Of(
        "causal_conv1d.cu", elements, ("WIDTH", width), ("CHANNELS", channels), ("PACKED", packed ? 1 : 0), ("SILU", 1), ("CONV_BYTES", sizeof(ConvArguments)));

    private static CudaProgram Norm(ScalarType elements, GateOrder gate, int rowThreads, int piece, int kept) => CudaProgram.Of(
        "root_mean_square.cu", elements, ("GATE", (long)gate), ("ROUNDED", 1), ("ROW_THREADS", rowThreads), ("PIECE", piece), ("KEPT", kept),
        ("NORM_BYTES", sizeof(NormArguments)));

    private static CudaProgram Delta(ScalarType elements, int rows, int columns, bool corrected) => CudaProgram.Of(
        "gated_delta.cu", elements, ("ROWS", rows), ("COLUMNS", columns), ("CORRECTED", corrected ? 1 : 0), ("DELTA_BYTES", sizeof(DeltaArguments)),
        ("DELTA_GRADIENT_BYTES", sizeof(DeltaGradientArguments)));

    [Fact]
    public void EveryFileIsListed()
    {
        var files = typeof(CudaProgram).Assembly.GetManifestResourceNames().Where(name => name.EndsWith(".cu", StringComparison.Ordinal));
        Assert.Equal(files.Order(), Programs(ScalarType.Float32).Select(program => program.File).Distinct().Order());
    }

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float16)]
    public void CompilesForADevice(ScalarType elements)
    {
        using var folder = new TemporaryFolder();
        foreach (var program in Programs(elements))
        {
            File.WriteAllText(folder.File(program.File), program.Source());
            var (status, said) = Clang(folder.File(program.File), folder.File("kernel.ptx"), program.Options);
            Assert.True(status == 0 && said.Length == 0, $"{program}: {said}");
            Assert.Contains(".entry", File.ReadAllText(folder.File("kernel.ptx")), StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData(ScalarType.Float32, 75)]
    [InlineData(ScalarType.BFloat16, 90)]
    [InlineData(ScalarType.Float16, 80)]
    public void NvrtcCompilesEveryFile(ScalarType elements, int capability)
    {
        var nvrtc = RequireNvrtc();
        foreach (var program in Programs(elements))
        {
            Assert.NotEmpty(nvrtc.Compile(program.File, program.Source(), nvrtc.Architecture(capability), program.Options.Split(' ')));
        }
    }

    /// <summary>What clang cannot say: the registers of a device suffice for the state of a tile.</summary>
    [Theory]
    [InlineData(4, 16, true)]
    [InlineData(4, 16, false)]
    [InlineData(8, 4, true)]
    [InlineData(8, 4, false)]
    public void NvrtcFindsRegistersForTheStateOfTheDeltaRule(int rows, int columns, bool corrected)
    {
        var nvrtc = RequireNvrtc();
        var program = Delta(ScalarType.BFloat16, rows, columns, corrected);
        string[] options = [.. program.Options.Split(' '), "--ptxas-options=--warn-on-spills", "--ptxas-options=-Werror"];
        Assert.NotEmpty(nvrtc.Compile(program.File, program.Source(), nvrtc.Architecture(90), options));
    }

    /// <summary>The state of a tile stays in registers for all of time: the kernels have no local memory at any width.</summary>
    [Theory]
    [InlineData(4, 16, true)]
    [InlineData(4, 16, false)]
    [InlineData(8, 16, true)]
    [InlineData(3, 8, true)]
    public void TheDeltaRuleHasItsStateInRegisters(int rows, int columns, bool corrected)
    {
        using var folder = new TemporaryFolder();
        var program = Delta(ScalarType.BFloat16, rows, columns, corrected);
        File.WriteAllText(folder.File(program.File), program.Source());
        var (status, said) = Clang(folder.File(program.File), folder.File("kernel.ptx"), program.Options);
        Assert.True(status == 0, said);
        Assert.DoesNotContain(".local", File.ReadAllText(folder.File("kernel.ptx")), StringComparison.Ordinal);
    }

    private static Nvrtc RequireNvrtc()
    {
        var library = CudaLibraries.Load(CudaLibraries.Nvrtc(), out var tried);
        Assert.SkipWhen(library == 0, $"there is no NVRTC ({tried}); {CudaLibraries.NvrtcVariable} may name one");
        return new Nvrtc(library);
    }

    private static (int Status, string Said) Clang(string source, string target, string options)
    {
        string[] arguments =
        [
            "-x", "cuda", "-std=c++17", "--cuda-gpu-arch=sm_80", "--cuda-device-only", "-nocudainc", "-nocudalib", "-Xclang", "-target-feature",
            "-Xclang", "+ptx70", "-Wall", "-Wno-unused-function", "-O1", "-S", "-include", Path.Combine(HostCuda.Sources, "device.h"),
            .. options.Split(' '), source, "-o", target,
        ];
        try
        {
            using var compiler = Process.Start(new ProcessStartInfo("clang++", arguments) { RedirectStandardError = true })!;
            var said = compiler.StandardError.ReadToEnd();
            compiler.WaitForExit();
            if (said.Contains("nvptx", StringComparison.Ordinal))
            {
                Assert.Skip("this clang++ does not compile for NVIDIA devices");
            }

            return (compiler.ExitCode, said);
        }
        catch (System.ComponentModel.Win32Exception)
        {
            Assert.Skip("there is no clang++ to compile for NVIDIA devices with");
            throw;
        }
    }
}
