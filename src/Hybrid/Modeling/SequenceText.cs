namespace Hybrid.Modeling;

/// <summary>The text of one sequence while its tokens arrive: whole characters, up to the first stop string.</summary>
/// <param name="tokenizer">Turns ids into text.</param>
/// <param name="stopStrings">What ends the text.</param>
internal sealed class SequenceText(ITokenizer tokenizer, IReadOnlyCollection<string> stopStrings)
{
    private readonly ITokenStream stream = tokenizer.CreateStream();
    private readonly StopStringFilter filter = new(stopStrings);

    /// <summary>True once a stop string came; nothing follows then.</summary>
    public bool Stopped => filter.Stopped;

    /// <summary>Adds a token.</summary>
    /// <returns>The text that is certain now; often none.</returns>
    public string Append(int token) => filter.Append(stream.Append(token));

    /// <summary>Ends the text.</summary>
    /// <returns>What was held back.</returns>
    public string Finish()
    {
        var rest = filter.Stopped ? "" : filter.Append(stream.Finish());
        return filter.Stopped ? rest : rest + filter.Finish();
    }
}
