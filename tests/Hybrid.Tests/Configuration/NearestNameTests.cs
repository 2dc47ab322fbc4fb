using Hybrid.Configuration;
using Xunit;

namespace Hybrid.Tests.Configuration;

public class NearestNameTests
{
    private static readonly string[] Known = ["d_state", "d_conv", "dt_rank", "expand_factor", "hidden_size", "num_heads"];

    [Theory]
    [InlineData("d_sate", "d_state")]            // one letter missing
    [InlineData("d_statee", "d_state")]          // one too many
    [InlineData("d_stat3", "d_state")]           // one wrong
    [InlineData("d_satte", "d_state")]           // two neighbours swapped
    [InlineData("expand", null)]                 // seven letters missing
    [InlineData("expandfacto", "expand_factor")] // two of eleven
    [InlineData("num_xxxds", "num_heads")]       // three of nine
    [InlineData("num_xxxxs", null)]              // four of nine
    [InlineData("HiddenSize", "hidden_size")]    // case does not count
    [InlineData("d", null)]
    [InlineData("", null)]
    [InlineData("learning_rate", null)]
    public void Find_GivesTheNearest_OrNone(string name, string? expected) => Assert.Equal(expected, NearestName.Find(name, Known));

    [Fact]
    public void Find_OfTwoEquallyNear_GivesTheFirstByLetters() => Assert.Equal("ab", NearestName.Find("aa", ["ba", "ac", "ab"]));

    [Fact]
    public void Find_OfAKnownName_GivesTheName() =>
        Assert.Equal("num_heads", NearestName.Find("num_heads", ["num_head", "num_heads", "num_headz"]));

    [Fact]
    public void Hint_IsTheEndOfASentence_OrNothing()
    {
        Assert.Equal("; did you mean 'd_conv'?", NearestName.Hint("d_cnov", Known));
        Assert.Equal("", NearestName.Hint("zzzzzz", Known));
        Assert.Equal("", NearestName.Hint("d_cnov", []));
    }
}
