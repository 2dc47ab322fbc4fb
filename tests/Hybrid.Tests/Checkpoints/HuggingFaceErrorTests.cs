using System.Text.Json.Nodes;
using Hybrid.Checkpoints;
using Hybrid.Checkpoints.HuggingFace;
using Hybrid.Modeling;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Checkpoints;

/// <summary>Folders that are not what they should be, and the other spellings of what they may be.</summary>
public class HuggingFaceErrorTests
{
    [Theory]
    [InlineData("mamba", "model_type", "\"gpt2\"", "field 'model_type': expected one of bamba, falcon_h1, ")]
    [InlineData("mamba", "quantization_config", "{}", "the fields 'quantization_config' are not known")]
    [InlineData("mamba", "hidden_act", "\"relu\"", "field 'hidden_act': expected silu; found \"relu\"")]
    [InlineData("mamba", "state_size", "\"many\"", "field 'state_size': expected a number; found \"many\"")]
    [InlineData("mamba", "state_size", "2.5", "field 'state_size': expected a whole number; found 2.5")]
    [InlineData("mamba", "vocab_size", "null", "field 'vocab_size': expected a value; found none")]
    [InlineData("mamba", "use_bias", "1", "field 'use_bias': expected true or false; found 1")]
    [InlineData("mamba", "num_hidden_layers", "0", "field 'num_hidden_layers': expected 1 or more; found 0")]
    [InlineData("mamba", "state_size", "0", "the sizes do not make a model")]
    [InlineData("mamba", "state_size", "15", "tensor 'backbone.layers.0.mixer.A_log': expected floating-point [80, 15]; found F32 [80, 16]")]
    [InlineData("mamba", "num_hidden_layers", "4", "tensor 'backbone.layers.3.mixer.A_log': expected [80, 16]; found no tensor of this name")]
    [InlineData("mamba", "num_hidden_layers", "2", "tensor 'backbone.layers.2.mixer.A_log': expected none of this name; found one")]
    [InlineData("mamba2", "time_step_limit", "[0]", "field 'time_step_limit': expected two numbers; found [0]")]
    [InlineData("mamba2", "num_heads", "5", "field 'num_heads': expected 6; found 5")]
    [InlineData("llama", "rope_parameters", "{\"rope_type\": \"dynamic\"}", "field 'rope_type': expected default, linear, llama3 or yarn; found \"dynamic\"")]
    [InlineData("llama", "rope_parameters", "{\"rope_type\": \"yarn\", \"factor\": 2, \"mscale\": 1}", "the fields 'mscale' are not known")]
    [InlineData("granitemoehybrid", "layer_types", "[\"mamba\", \"moon\", \"mamba\"]", "field 'layer_types': expected layers of mamba, attention")]
    [InlineData("nemotron_h", "moe_latent_size", "16", "field 'moe_latent_size': expected nothing; found 16")]
    [InlineData("recurrent_gemma", "block_types", "\"all\"", "field 'block_types': expected a list; found \"all\"")]
    public void ConfigurationsThatDoNotFitAreRefused(string name, string field, string json, string message)
    {
        using var folder = Copy(name, config => config[field] = JsonNode.Parse(json));
        var error = Assert.ThrowsAny<Exception>(() => CausalLanguageModel.FromPretrained(folder.Path).Dispose());
        Assert.True(error is InvalidDataException or NotSupportedException, error.GetType().Name);
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
    }

    /// <summary>No value of any field ends in another exception than those of a bad file.</summary>
    [Theory]
    [MemberData(nameof(HuggingFaceModel.All), MemberType = typeof(HuggingFaceModel))]
    public void StrangeValuesAreRefusedOrWithoutEffect(string name)
    {
        using var golden = new HuggingFaceModel(name);
        foreach (var field in golden.Config.Select(entry => entry.Key).ToArray())
        {
            foreach (var json in new[] { "0", "-1", "\"x\"", "[]", "{}", "true", "[[]]" })
            {
                var changed = (JsonObject)golden.Config.DeepClone();
                changed[field] = JsonNode.Parse(json);
                var error = Record.Exception(() =>
                {
                    var config = new HubConfig("config.json", changed);
                    var described = HubArchitecture.Find("config.json", config.Text("model_type")).Read(config);
                    config.RequireAllRead();
                    PretrainedFolder.Make(described, "config.json", _ => { }).Dispose();
                });
                Assert.True(error is null or InvalidDataException or NotSupportedException, $"{field} = {json}: {error}");
            }
        }
    }

    /// <summary>Sizes are compared with the files before memory is taken for them.</summary>
    [Theory]
    [MemberData(nameof(HuggingFaceModel.All), MemberType = typeof(HuggingFaceModel))]
    public void HugeSizesTakeNoMemory(string name)
    {
        ResidentMemory.SkipUnlessMeasured();
        using var golden = new HuggingFaceModel(name);
        using var folder = Copy(golden, _ => { });
        CausalLanguageModel.FromPretrained(folder.Path).Dispose();
        var live = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;
        var peak = ResidentMemory.PeakOf(() =>
        {
            foreach (var field in golden.Config.Where(entry => entry.Value is JsonValue value && value.TryGetValue<long>(out _)).Select(entry => entry.Key).ToArray())
            {
                var config = (JsonObject)golden.Config.DeepClone();
                config[field] = 1_000_000_000;
                File.WriteAllText(folder.File("config.json"), config.ToJsonString());
                var error = Record.Exception(() => CausalLanguageModel.FromPretrained(folder.Path).Dispose());
                Assert.True(error is null or InvalidDataException or NotSupportedException, $"{field}: {error}");
                Assert.Equal((field, live), (field, DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount));
            }
        });
        Assert.True(peak < 64L << 20, $"{peak >> 20} MiB");
    }

    [Fact]
    public void TextThatIsNoJsonIsRefused()
    {
        using var folder = Copy("mamba", _ => { });
        File.WriteAllText(folder.File("config.json"), "{\"model_type\": ");
        Assert.Throws<InvalidDataException>(() => CausalLanguageModel.FromPretrained(folder.Path).Dispose());
        File.Delete(folder.File("config.json"));
        Assert.Throws<FileNotFoundException>(() => CausalLanguageModel.FromPretrained(folder.Path).Dispose());
        Assert.Throws<DirectoryNotFoundException>(() => CausalLanguageModel.FromPretrained(folder.File("nowhere")).Dispose());
    }

    [Theory]
    [InlineData("../secrets.safetensors")]
    [InlineData("/etc/passwd")]
    [InlineData("..")]
    public void IndicesCannotLeaveTheFolder(string file)
    {
        using var folder = Copy("mamba", _ => { });
        File.Move(folder.File("model.safetensors"), folder.File("other.safetensors"));
        File.WriteAllText(folder.File("model.safetensors.index.json"), new JsonObject { ["weight_map"] = new JsonObject { ["x"] = file } }.ToJsonString());
        var error = Assert.Throws<InvalidDataException>(() => CausalLanguageModel.FromPretrained(folder.Path).Dispose());
        Assert.Contains("tensor 'x': expected the name of a file beside the index", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void IndicesMustSayWhereTensorsAre()
    {
        using var folder = Copy("jamba_sharded", _ => { });
        var path = folder.File("model.safetensors.index.json");
        var index = JsonNode.Parse(File.ReadAllText(path))!;
        index["weight_map"]!["lm_head.weight"] = "model-00002-of-00004.safetensors";
        File.WriteAllText(path, index.ToJsonString());
        var error = Assert.Throws<InvalidDataException>(() => CausalLanguageModel.FromPretrained(folder.Path).Dispose());
        Assert.Contains("expected tensor 'lm_head.weight' in model-00002-of-00004.safetensors; found it in model-00001", error.Message, StringComparison.Ordinal);

        File.Delete(folder.File("model-00003-of-00004.safetensors"));
        Assert.Throws<FileNotFoundException>(() => CausalLanguageModel.FromPretrained(folder.Path).Dispose());
    }

    [Fact]
    public void Float16FilesNeedAStatedType()
    {
        using var folder = Copy("mamba", _ => { });
        using var scope = NewDisposeScope();
        var path = folder.File("model.safetensors");
        var tensors = new List<(string, Tensor)>();
        using (var file = SafeTensorsFile.Open(path))
        {
            tensors.AddRange(file.Names.Select(name => (name, file.Read(name).to_type(ScalarType.Float16))));
        }

        SafeTensorsFile.Write(path, tensors);
        var error = Assert.Throws<NotSupportedException>(() => CausalLanguageModel.FromPretrained(folder.Path).Dispose());
        Assert.Contains("the weights are F16, in which no layer computes; choose dtype float32 or bfloat16", error.Message, StringComparison.Ordinal);
        using var model = CausalLanguageModel.FromPretrained(folder.Path, dtype: "float32");
        Assert.Equal(ScalarType.Float32, model.Type);
        Assert.Throws<ArgumentException>(() => CausalLanguageModel.FromPretrained(folder.Path, dtype: "float8"));
    }

    /// <summary>Some files keep a copy of the embedding as the head of a tied model; another matrix there is an error.</summary>
    [Fact]
    public void TiedHeadsMayBeInTheFileIfTheyAreTheEmbedding()
    {
        using var folder = Copy("mamba", _ => { });
        using var scope = NewDisposeScope();
        var path = folder.File("model.safetensors");
        var tensors = new List<(string, Tensor)>();
        using (var file = SafeTensorsFile.Open(path))
        {
            tensors.AddRange(file.Names.Select(name => (name, file.Read(name))));
            tensors.Add(("lm_head.weight", file.Read("backbone.embeddings.weight")));
        }

        SafeTensorsFile.Write(path, tensors);
        CausalLanguageModel.FromPretrained(folder.Path).Dispose();
        tensors[^1].Item2.add_(1);
        SafeTensorsFile.Write(path, tensors);
        var error = Assert.Throws<InvalidDataException>(() => CausalLanguageModel.FromPretrained(folder.Path).Dispose());
        Assert.Contains("tensor 'lm_head.weight': expected none of this name; found one", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void RefusedFoldersLeaveNoTensorBehind()
    {
        using var folder = Copy("mamba", config => config["num_hidden_layers"] = 4);
        var before = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;
        Assert.Throws<InvalidDataException>(() => CausalLanguageModel.FromPretrained(folder.Path));
        Assert.Equal(before, DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
    }

    /// <summary>The fields as version 4 of transformers spells them, and as files on the hub have them.</summary>
    [Theory]
    [InlineData("mamba2", "time_step_limit")]
    [InlineData("llama3_rope_tied", "rope_parameters")]
    [InlineData("qwen3_next", "layer_types")]
    [InlineData("nemotron_h", "layers_block_type")]
    [InlineData("bamba", "rope_parameters")]
    [InlineData("mistral_sliding", "rope_parameters")]
    public void OlderSpellingsMeanTheSame(string name, string field)
    {
        using var golden = HuggingFaceModel.Own(name);
        using var folder = Copy(name, config => Respell(config, field));
        if (name == "mamba2")
        {
            var text = File.ReadAllText(folder.File("config.json"));
            File.WriteAllText(folder.File("config.json"), text.Replace("{\"__float__\":\"Infinity\"}", "Infinity", StringComparison.Ordinal));
            Assert.Contains("[0.0,Infinity]", File.ReadAllText(folder.File("config.json")), StringComparison.Ordinal);
        }

        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var model = CausalLanguageModel.FromPretrained(folder.Path);
        Assert.True((model.call(golden.Ids) - golden.Logits()).abs().max().ToDouble() < 1e-4);
    }

    [Fact]
    public void GenerationDefaultsAreThoseOfTheFile()
    {
        using var folder = Copy("llama", _ => { });
        void Write(string json) => File.WriteAllText(folder.File("generation_config.json"), json);
        GenerationOptions Read()
        {
            using var model = CausalLanguageModel.FromPretrained(folder.Path);
            return model.GenerationDefaults;
        }

        Write("""{"do_sample": true, "temperature": 0.6, "top_p": 0.9, "min_p": 0.05, "eos_token_id": [7, 9], "max_new_tokens": 12, "transformers_version": "4.40"}""");
        var sampled = Read();
        Assert.Equal((12, 0.6, 50, 0.9, 0.05, 1.0), (sampled.MaxNewTokens, sampled.Temperature, sampled.TopK, sampled.TopP, sampled.MinP, sampled.RepetitionPenalty));
        Assert.Equal([7, 9], sampled.StopTokens);

        Write("""{"eos_token_id": 2}""");
        Assert.Equal(0, Read().Temperature);

        File.Delete(folder.File("generation_config.json"));
        Assert.Equal([2], Read().StopTokens);

        Write("""{"max_new_tokens": 1e12, "do_sample": true, "top_k": 1e10}""");
        Assert.Equal((int.MaxValue, int.MaxValue), (Read().MaxNewTokens, Read().TopK));

        Write("""{"do_sample": true, "temperature": -1}""");
        Assert.Contains("generation_config.json: GenerationOptions.Temperature must be at least 0; got -1.", Assert.Throws<InvalidDataException>(Read).Message, StringComparison.Ordinal);

        Write("""{"num_beams": 4}""");
        var error = Assert.Throws<NotSupportedException>(Read);
        Assert.Contains("field 'num_beams': expected 1; found 4", error.Message, StringComparison.Ordinal);
    }

    private static void Respell(JsonObject config, string field)
    {
        config["torch_dtype"] = "float32";
        config.Remove("dtype");
        switch (field)
        {
            case "rope_parameters":
                var rope = (JsonObject)config[field]!;
                config.Remove(field);
                config["rope_theta"] = rope["rope_theta"]!.DeepClone();
                rope.Remove("rope_theta");
                if (config["model_type"]!.ToString() == "bamba")
                {
                    config.Remove("partial_rotary_factor");
                    config["attn_rotary_emb"] = 8;
                }
                else if (rope["rope_type"]!.ToString() != "default")
                {
                    config["rope_scaling"] = rope;
                }

                break;
            case "layer_types":
                config.Remove(field);
                config["full_attention_interval"] = 2;
                break;
            case "layers_block_type":
                config.Remove(field);
                config["hybrid_override_pattern"] = "ME*-M";
                config["num_hidden_layers"] = 5;
                break;
        }
    }

    private static TemporaryFolder Copy(string name, Action<JsonObject> change)
    {
        using var golden = HuggingFaceModel.Own(name);
        return Copy(golden, change);
    }

    private static TemporaryFolder Copy(HuggingFaceModel golden, Action<JsonObject> change)
    {
        var folder = new TemporaryFolder();
        foreach (var file in Directory.GetFiles(golden.Folder, "*model*").Append(Path.Combine(golden.Folder, "generation_config.json")))
        {
            File.Copy(file, folder.File(Path.GetFileName(file)));
        }

        change(golden.Config);
        File.WriteAllText(folder.File("config.json"), golden.Config.ToJsonString());
        return folder;
    }
}
