using System.Buffers.Binary;
using System.Diagnostics;
using System.Text;
using Hybrid.Checkpoints;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Checkpoints;

/// <summary>
/// Files broken at random, thousands of them: each is read or refused, and nothing else happens. The environment variable
/// HYBRID_FUZZ_FILES asks for another number of files than 5,000; the files of a longer run begin with those of a shorter one.
/// </summary>
public sealed class SafeTensorsMutationTests : IDisposable
{
    // What reading allocates besides the tensors: the header's entries and the message of an error, of a file of a few hundred bytes.
    private const long MostAllocated = 256 * 1024;
    private static readonly TimeSpan MostTime = TimeSpan.FromSeconds(10);

    private static readonly int Count =
        int.TryParse(Environment.GetEnvironmentVariable("HYBRID_FUZZ_FILES"), out var asked) && asked > 0 ? asked : 5000;

    private readonly TemporaryFolder folder = new();

    private static readonly string[] Tokens =
    [
        "{", "}", "[", "]", ",", ":", "\"", "0", "-1", "1e9", "9223372036854775807", "18446744073709551616", "null", "true", "\\ud800",
        "\"dtype\"", "\"shape\"", "\"data_offsets\"", "\"__metadata__\"", "\"F32\"", "\"BOOL\"", "\"F8_E4M3\"", "[0,0]", "[0,8]", " ",
    ];

    [Fact]
    public void BrokenFilesAreReadOrRefused()
    {
        using var scope = NewDisposeScope();
        var path = folder.File("x.safetensors");
        SafeTensorsFile.Write(
            path,
            [
                ("w", ones(2, 3)), ("mask", tensor(new[] { true, false, true })), ("ids", tensor(new[] { 1L, 2L })),
                ("none", zeros(0, 4)), ("h", ones(3).to_type(ScalarType.BFloat16)),
            ],
            new Dictionary<string, string> { ["format"] = "pt" });
        var valid = File.ReadAllBytes(path);
        var random = new Random(20240229);
        var (read, refused) = (0, 0);
        for (var i = 0; i < Count; i++)
        {
            var broken = Mutate(valid, random);
            File.WriteAllBytes(path, broken);
            var (allocated, clock) = (GC.GetAllocatedBytesForCurrentThread(), Stopwatch.StartNew());
            try
            {
                ReadAll(path, broken.Length);
                read++;
            }
            catch (InvalidDataException error)
            {
                Assert.StartsWith(path, error.Message, StringComparison.Ordinal);
                refused++;
            }
            catch (Exception error)
            {
                Assert.Fail($"mutation {i} of {Count}: {error.GetType().Name}: {error.Message}\n{Convert.ToHexString(broken)}");
            }

            allocated = GC.GetAllocatedBytesForCurrentThread() - allocated;
            Assert.True(allocated < MostAllocated, $"mutation {i} of {Count}: {allocated} bytes for a file of {broken.Length}\n{Convert.ToHexString(broken)}");
            Assert.True(clock.Elapsed < MostTime, $"mutation {i} of {Count}: {clock.Elapsed}\n{Convert.ToHexString(broken)}");
        }

        // Changed data, names or texts leave a valid file; most changes of the header do not.
        Assert.InRange(read, Count / 20, Count / 2);
        Assert.Equal(Count, read + refused);
    }

    public void Dispose() => folder.Dispose();

    private static void ReadAll(string path, long fileLength)
    {
        using var scope = NewDisposeScope();
        using var file = SafeTensorsFile.Open(path);
        var total = 0L;
        foreach (var name in file.Names)
        {
            var tensor = file.Read(name);
            Assert.Equal(file.Entry(name).ByteSize, tensor.numel() * tensor.element_size());
            total += file.Entry(name).ByteSize;
        }

        Assert.InRange(total, 0, fileLength);
    }

    private static byte[] Mutate(byte[] valid, Random random)
    {
        var bytes = valid.ToList();
        var headerEnd = 8 + (int)BinaryPrimitives.ReadUInt64LittleEndian(valid);
        for (var changes = random.Next(1, 4); changes > 0; changes--)
        {
            // Mostly in the header, now and then in the length or the data.
            var wanted = random.Next(10) switch
            {
                0 => random.Next(8),
                < 4 => random.Next(headerEnd, valid.Length),
                _ => random.Next(8, headerEnd),
            };
            var place = Math.Min(wanted, bytes.Count - 1);
            switch (random.Next(6))
            {
                case 0:
                    bytes[place] ^= (byte)(1 << random.Next(8));
                    break;
                case 1:
                    bytes[place] = (byte)random.Next(256);
                    break;
                case 2:
                    bytes.RemoveRange(place, Math.Min(random.Next(1, 12), bytes.Count - place));
                    break;
                case 3:
                    bytes.InsertRange(place, bytes.GetRange(place, Math.Min(random.Next(1, 60), bytes.Count - place)));
                    break;
                case 4:
                    var token = Encoding.UTF8.GetBytes(Tokens[random.Next(Tokens.Length)]);
                    bytes.RemoveRange(place, Math.Min(token.Length, bytes.Count - place));
                    bytes.InsertRange(place, token);
                    break;
                default:
                    if (bytes[place] is >= (byte)'0' and <= (byte)'9')
                    {
                        bytes[place] = (byte)('0' + random.Next(10));
                    }
                    else
                    {
                        var cut = random.Next(1, Math.Min(16, bytes.Count + 1));
                        bytes.RemoveRange(bytes.Count - cut, cut);
                    }

                    break;
            }

            if (bytes.Count == 0)
            {
                break;
            }
        }

        var result = bytes.ToArray();
        if (result.Length >= 8 && random.Next(2) == 0)
        {
            // A length that follows the change, so that the header itself is what gets tested.
            var shift = result.Length - valid.Length;
            BinaryPrimitives.WriteUInt64LittleEndian(result, (ulong)Math.Max(0, headerEnd - 8 + shift));
        }

        return result;
    }
}
