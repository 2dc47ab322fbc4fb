using System.Globalization;
using System.Text;

namespace Hybrid.Tokenizers;

/// <summary>
/// Unicode normalization form C (Unicode Standard Annex 15): characters are taken apart as far as they go, marks sorted by their combining class,
/// and what belongs together is put together again. .NET leaves this to the ICU of the system, whose version differs, and in invariant mode does
/// nothing; ids of a tokenizer may depend on neither.
/// </summary>
internal static class CanonicalComposition
{
    // Syllables of Hangul follow a rule in the place of a table (The Unicode Standard, section 3.12).
    private const int FirstSyllable = 0xac00;
    private const int FirstLead = 0x1100;
    private const int FirstVowel = 0x1161;
    private const int FirstTail = 0x11a8;
    private const int Leads = 19;
    private const int Vowels = 21;
    private const int Tails = 27;

    private static readonly Lazy<Tables> Data = new(Tables.Read);

    /// <summary>The text in normalization form C.</summary>
    /// <param name="text">Any text without lone surrogates.</param>
    public static string Apply(string text)
    {
        // Characters below U+0300 compose with none of their kind.
        if (!text.AsSpan().ContainsAnyExceptInRange('\0', '\u02ff'))
        {
            return text;
        }

        var tables = Data.Value;
        if (!text.EnumerateRunes().Any(rune => tables.MayChange(rune.Value)))
        {
            return text;
        }

        var characters = new List<int>(text.Length);
        foreach (var rune in text.EnumerateRunes())
        {
            TakeApart(tables, rune.Value, characters);
        }

        SortMarks(tables, characters);
        PutTogether(tables, characters);
        var result = new StringBuilder(text.Length);
        characters.ForEach(character => result.Append(new Rune(character)));
        return result.ToString();
    }

    private static void TakeApart(Tables tables, int character, List<int> into)
    {
        var syllable = character - FirstSyllable;
        if (syllable is >= 0 and < Leads * Vowels * (Tails + 1))
        {
            var tail = syllable % (Tails + 1);
            into.Add(FirstLead + (syllable / (Vowels * (Tails + 1))));
            into.Add(FirstVowel + (syllable / (Tails + 1) % Vowels));
            into.AddRange(tail == 0 ? [] : [FirstTail + tail - 1]);
            return;
        }

        if (!tables.Parts.TryGetValue(character, out var parts))
        {
            into.Add(character);
            return;
        }

        foreach (var part in parts)
        {
            TakeApart(tables, part, into);
        }
    }

    /// <summary>Marks between two characters of class 0 by class, those of one class in their order.</summary>
    private static void SortMarks(Tables tables, List<int> characters)
    {
        for (var i = 1; i < characters.Count; i++)
        {
            var (character, place) = (characters[i], i);
            var own = tables.ClassOf(character);
            for (; own > 0 && place > 0 && tables.ClassOf(characters[place - 1]) > own; place--)
            {
                characters[place] = characters[place - 1];
            }

            characters[place] = character;
        }
    }

    private static void PutTogether(Tables tables, List<int> characters)
    {
        var (count, starter, last) = (0, -1, 0);
        foreach (var character in characters.ToArray())
        {
            // A mark of the same class or a higher one before it stands between it and the starter.
            var own = tables.ClassOf(character);
            var isBlocked = starter < count - 1 && last >= own;
            if (starter >= 0 && !isBlocked && Composite(tables, characters[starter], character) is { } whole)
            {
                characters[starter] = whole;
                continue;
            }

            (starter, last) = own == 0 ? (count, 0) : (starter, own);
            characters[count++] = character;
        }

        characters.RemoveRange(count, characters.Count - count);
    }

    private static int? Composite(Tables tables, int first, int second)
    {
        if (first - FirstLead is >= 0 and < Leads and var lead && second - FirstVowel is >= 0 and < Vowels and var vowel)
        {
            return FirstSyllable + (((lead * Vowels) + vowel) * (Tails + 1));
        }

        if (first - FirstSyllable is >= 0 and < Leads * Vowels * (Tails + 1) and var syllable && syllable % (Tails + 1) == 0
            && second - FirstTail is >= 0 and < Tails and var tail)
        {
            return first + tail + 1;
        }

        return tables.Wholes.TryGetValue((first, second), out var whole) ? whole : null;
    }

    /// <summary>The Unicode Character Database as far as it is needed.</summary>
    private sealed class Tables
    {
        private const string Resource = "Hybrid.Tokenizers.canonical.txt";

        private readonly Dictionary<int, int> classes = [];
        private readonly HashSet<int> changing = [.. Enumerable.Range(FirstVowel, Vowels), .. Enumerable.Range(FirstTail, Tails)];

        /// <summary>What a character is made of, one or two characters.</summary>
        public Dictionary<int, int[]> Parts { get; } = [];

        /// <summary>What two characters make together.</summary>
        public Dictionary<(int First, int Second), int> Wholes { get; } = [];

        public static Tables Read()
        {
            var tables = new Tables();
            using var reader = new StreamReader(typeof(Tables).Assembly.GetManifestResourceStream(Resource)!);
            while (reader.ReadLine() is { } line)
            {
                var fields = line.Split(' ');
                switch (line[0])
                {
                    case '#':
                        break;
                    case '@':
                        tables.AddClass(int.Parse(fields[0].AsSpan(1), CultureInfo.InvariantCulture), fields.Skip(1));
                        break;
                    default:
                        tables.AddParts(fields[0], [.. fields.Skip(1).Select(Number)]);
                        break;
                }
            }

            return tables;
        }

        public int ClassOf(int character) => classes.GetValueOrDefault(character);

        /// <summary>False for a character that stays where and as it is, whatever is beside it.</summary>
        public bool MayChange(int character) => character > 0x2ff && changing.Contains(character);

        private static int Number(string field) => int.Parse(field, NumberStyles.HexNumber, CultureInfo.InvariantCulture);

        private void AddParts(string field, int[] parts)
        {
            var character = Number(field.TrimEnd('!'));
            Parts.Add(character, parts);
            if (field.EndsWith('!'))
            {
                changing.Add(character);
            }
            else
            {
                Wholes.Add((parts[0], parts[1]), character);
                changing.Add(parts[1]);
            }
        }

        private void AddClass(int number, IEnumerable<string> ranges)
        {
            foreach (var range in ranges.Select(range => range.Split('-')))
            {
                for (var character = Number(range[0]); character <= Number(range[^1]); character++)
                {
                    classes.Add(character, number);
                    changing.Add(character);
                }
            }
        }
    }
}
