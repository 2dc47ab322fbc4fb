using Hybrid.Modeling;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Modeling;

public class TextGenerationTests
{
    // An untrained model draws bytes almost evenly, so the texts of these tests are full of broken characters.
    private static readonly GenerationOptions Options = new() { MaxNewTokens = 120, Seed = 3 };

    [Fact]
    public void ThePiecesAreTheGeneratedBytesInWholeCharacters()
    {
        using var model = Create();
        using var generator = new TokenGenerator(model, Options);
        var tokenizer = new ByteTokenizer();
        var expected = tokenizer.Decode(generator.Generate(tokenizer.Encode("Grüße")));
        var pieces = model.Generate("Grüße", Options).ToArray();
        Assert.Equal(expected, string.Concat(pieces));
        Assert.True(expected.Count(c => c > 127) > 20 && expected.Any(char.IsAscii), "the text must have characters of many kinds");
        Assert.All(pieces, piece => Assert.True(piece.Length > 0 && ByteTokenizerTests.IsWhole(piece)));
    }

    [Fact]
    public async Task AsynchronousGenerationGivesTheSamePieces()
    {
        using var model = Create();
        var pieces = new List<string>();
        await foreach (var piece in model.GenerateAsync("abc", Options))
        {
            pieces.Add(piece);
        }

        Assert.Equal(model.Generate("abc", Options), pieces);
    }

    [Fact]
    public async Task CancellationEndsTheGenerationAndFreesTheState()
    {
        using var model = Create();
        await CancelAfter(2);
        var before = LiveTensors.Before();
        await CancelAfter(3);
        Assert.Equal(before, Tensor.TotalCount);

        async Task CancelAfter(int count)
        {
            using var source = new CancellationTokenSource();
            var pieces = 0;
            await Assert.ThrowsAnyAsync<OperationCanceledException>(async () =>
            {
                await foreach (var _ in model.GenerateAsync("abc", Options, source.Token))
                {
                    if (++pieces == count)
                    {
                        await source.CancelAsync();
                    }
                }
            });
            Assert.Equal(count, pieces);
        }
    }

    [Fact]
    public async Task ACancelledTokenGeneratesNothing()
    {
        using var model = Create();
        using var source = new CancellationTokenSource();
        await source.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(async () =>
        {
            await foreach (var piece in model.GenerateAsync("abc", Options, source.Token))
            {
                Assert.Fail($"got '{piece}'");
            }
        });
    }

    [Fact]
    public void ACallerThatStopsEarlyFreesTheState()
    {
        using var model = Create();
        Assert.Equal(3, model.Generate("abc", Options).Take(3).Count());
        var before = LiveTensors.Before();
        Assert.Equal(5, model.Generate("abc", Options).Take(5).Count());
        Assert.Equal(before, Tensor.TotalCount);
    }

    [Fact]
    public void AnyTokenizerWillDo()
    {
        using var model = SmallModel.Create();
        Assert.Throws<InvalidOperationException>(() => model.Generate("abc").ToArray());
        model.Tokenizer = new LetterTokenizer();
        var text = string.Concat(model.Generate("abc", Options with { MaxNewTokens = 10 }));
        Assert.Equal(10, text.TrimEnd('.').Length);
        Assert.EndsWith(".", text, StringComparison.Ordinal);
    }

    [Fact]
    public void AnEmptyPromptIsRefused()
    {
        using var model = Create();
        var error = Assert.Throws<ArgumentException>(() => model.Generate("", Options).ToArray());
        Assert.StartsWith("TokenGenerator: the prompt must have at least one token; got none.", error.Message, StringComparison.Ordinal);
    }

    private static CausalLanguageModel Create() => SmallModel.Create(SmallModel.Options(vocabulary: 256, maxLength: 256), embeddingScale: 2);

    /// <summary>Ids are letters from 'a' on; the stream holds every letter back by one and closes with a full stop.</summary>
    private sealed class LetterTokenizer : ITokenizer
    {
        public int VocabSize => 40;

        public int[] Encode(string text) => [.. text.Select(c => c - 'a')];

        public string Decode(IEnumerable<int> ids) => string.Concat(ids.Select(id => (char)('a' + id)));

        public ITokenStream CreateStream() => new Held();

        private sealed class Held : ITokenStream
        {
            private string held = "";

            public string Append(int id)
            {
                var ready = held;
                held = ((char)('a' + id)).ToString();
                return ready;
            }

            public string Finish() => held + ".";
        }
    }
}
