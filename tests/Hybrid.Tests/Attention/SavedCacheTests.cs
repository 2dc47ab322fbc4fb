using Hybrid.Attention;
using Hybrid.Checkpoints;
using Hybrid.Tests.Checkpoints;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Attention;

/// <summary>A saved cache says what its keys depend on, and only fits attention of the same settings.</summary>
public sealed class SavedCacheTests : IDisposable
{
    private const long Width = 8;
    private static readonly AttentionOptions Options = new() { NumHeads = 2, WindowSize = 6, RopeTheta = 500 };
    private readonly TemporaryFolder folder = new();

    public static TheoryData<string, AttentionOptions> Others => new()
    {
        { "expected a cache with window none; found window 6.", Options with { WindowSize = null } },
        { "expected a cache with window 7; found window 6.", Options with { WindowSize = 7 } },
        { "expected a cache with rope none; found rope 4 channels, theta 500, no scaling.", Options with { UseRope = false } },
        {
            "expected a cache with rope 4 channels, theta 10000, no scaling; found rope 4 channels, theta 500, no scaling.",
            Options with { RopeTheta = 10_000 }
        },
        {
            "expected a cache with rope 2 channels, theta 500, no scaling; found rope 4 channels, theta 500, no scaling.",
            Options with { PartialRotaryFactor = 0.5 }
        },
        {
            "expected a cache with rope 4 channels, theta 500, linear by 2.5; found rope 4 channels, theta 500, no scaling.",
            Options with { RopeScaling = new() { Kind = RopeScalingKind.Linear, Factor = 2.5 } }
        },
        {
            "expected a cache with rope 4 channels, theta 500, llama3 by 2, 1..4 turns within 64; found",
            Options with { RopeScaling = new() { Kind = RopeScalingKind.Llama3, Factor = 2, OriginalMaxPositionEmbeddings = 64 } }
        },
        {
            "expected a cache with rope 4 channels, theta 500, yarn by 2, 1..32 turns within 64; found",
            Options with { RopeScaling = new() { Kind = RopeScalingKind.Yarn, Factor = 2, OriginalMaxPositionEmbeddings = 64 } }
        },
    };

    [Theory]
    [MemberData(nameof(Others))]
    public void OtherSettingsAreRefused(string text, AttentionOptions other)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var path = SaveCache();
        using var mixer = new MultiHeadAttention(Width, other);
        using var state = mixer.CreateState(1);
        var x = Values.Normal(2, 1, 4, Width);
        mixer.forward(x, new MixerContext { State = state });
        using var before = state.Clone();
        var error = Assert.Throws<InvalidDataException>(() => state.Load(path));
        Assert.StartsWith($"{path}: {text}", error.Message, StringComparison.Ordinal);
        TensorAssert.Identical(
            mixer.forward(x, new MixerContext { State = before }), mixer.forward(x, new MixerContext { State = state }), "after the refusal");
    }

    [Fact]
    public void ValuesThatTheKindDoesNotUseDoNotMatter()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var path = SaveCache();
        using var mixer = new MultiHeadAttention(Width, Options with { RopeScaling = new() { Factor = 9 }, Mode = AttentionMode.Online });
        using var state = mixer.CreateState(1);
        state.Load(path);
        Assert.Equal(10, state.Position);
    }

    [Theory]
    [InlineData("window")]
    [InlineData("rope")]
    public void AFileWithoutTheSettingsIsRefused(string missing)
    {
        using var scope = NewDisposeScope();
        var path = SaveCache();
        Rewrite(path, metadata => metadata.Remove(missing), tensor => tensor);
        Assert.EndsWith($"; found one that does not say its {missing}.", Refusal(path), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(5)]
    [InlineData(7)]
    public void ARingOfAnotherSizeIsRefused(long slots)
    {
        using var scope = NewDisposeScope();
        var path = SaveCache();
        Rewrite(path, _ => { }, tensor => zeros([1, 2, slots, 4], dtype: tensor.dtype));
        Assert.Equal($"{path}: expected keys and values of at least 6 tokens, at most 6; found {slots} and {slots}.", Refusal(path));
    }

    public void Dispose() => folder.Dispose();

    private string SaveCache()
    {
        var path = folder.File("state.safetensors");
        using var guard = no_grad();
        using var mixer = new MultiHeadAttention(Width, Options);
        using var state = mixer.CreateState(1);
        mixer.forward(Values.Normal(1, 1, 10, Width), new MixerContext { State = state });
        state.Save(path);
        return path;
    }

    private static string Refusal(string path)
    {
        using var mixer = new MultiHeadAttention(Width, Options);
        using var state = mixer.CreateState(1);
        return Assert.Throws<InvalidDataException>(() => state.Load(path)).Message;
    }

    private static void Rewrite(string path, Action<Dictionary<string, string>> changeMetadata, Func<Tensor, Tensor> change)
    {
        Dictionary<string, string> metadata;
        List<(string, Tensor)> tensors;
        using (var file = SafeTensorsFile.Open(path))
        {
            metadata = new(file.Metadata);
            tensors = [.. file.Names.Select(name => (name, change(file.Read(name))))];
        }

        changeMetadata(metadata);
        SafeTensorsFile.Write(path, tensors, metadata);
    }
}
