using System.Globalization;
using System.Text;

namespace Hybrid.Samples;

/// <summary>What the server did, in Prometheus' text format (version 0.0.4).</summary>
internal sealed class ServerMetrics
{
    private static readonly double[] Bounds = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

    private readonly Lock gate = new();
    private readonly SortedDictionary<int, long> requests = [];
    private readonly long[] buckets = new long[Bounds.Length];
    private double seconds;
    private long timed;
    private double firstSeconds;
    private long firstTimed;
    private long promptTokens;
    private long reusedTokens;
    private long generatedTokens;

    /// <summary>Counts a request that has ended.</summary>
    public void Ended(int status, TimeSpan duration)
    {
        lock (gate)
        {
            requests[status] = requests.GetValueOrDefault(status) + 1;
            timed++;
            seconds += duration.TotalSeconds;
            for (var i = 0; i < Bounds.Length; i++)
            {
                buckets[i] += duration.TotalSeconds <= Bounds[i] ? 1 : 0;
            }
        }
    }

    /// <summary>Counts the time to the first piece of a text.</summary>
    public void Began(TimeSpan duration)
    {
        lock (gate)
        {
            firstTimed++;
            firstSeconds += duration.TotalSeconds;
        }
    }

    /// <summary>Counts the tokens of a text.</summary>
    public void Generated(int prompt, int reused, int generated)
    {
        lock (gate)
        {
            promptTokens += prompt;
            reusedTokens += reused;
            generatedTokens += generated;
        }
    }

    /// <summary>The text that GET /metrics answers.</summary>
    public string ToText(AdmissionQueue queue)
    {
        var text = new StringBuilder();
        lock (gate)
        {
            Header("requests_total", "counter", "Completion requests by status; 499 where the client left.");
            foreach (var (status, count) in requests)
            {
                Line($"requests_total{{status=\"{status}\"}}", count);
            }

            Single("requests_running", "gauge", "Requests whose text is being generated.", queue.Running);
            Single("requests_waiting", "gauge", "Requests that wait for a worker.", queue.Waiting);
            Single("prompt_tokens_total", "counter", "Tokens of prompts.", promptTokens);
            Single("reused_tokens_total", "counter", "Tokens of prompts whose state was stored.", reusedTokens);
            Single("generated_tokens_total", "counter", "Tokens generated.", generatedTokens);
            Header("first_piece_seconds", "summary", "Time from a request to the first piece of its text.");
            Line("first_piece_seconds_sum", firstSeconds);
            Line("first_piece_seconds_count", firstTimed);
            Header("request_seconds", "histogram", "Time of a request.");
            for (var i = 0; i < Bounds.Length; i++)
            {
                Line($"request_seconds_bucket{{le=\"{Bounds[i].ToString(CultureInfo.InvariantCulture)}\"}}", buckets[i]);
            }

            Line("request_seconds_bucket{le=\"+Inf\"}", timed);
            Line("request_seconds_sum", seconds);
            Line("request_seconds_count", timed);
        }

        return text.ToString();

        void Header(string name, string kind, string help) => text.Append($"# HELP hybrid_{name} {help}\n# TYPE hybrid_{name} {kind}\n");

        void Line(string name, double value) => text.Append(CultureInfo.InvariantCulture, $"hybrid_{name} {value}\n");

        void Single(string name, string kind, string help, double value)
        {
            Header(name, kind, help);
            Line(name, value);
        }
    }
}
