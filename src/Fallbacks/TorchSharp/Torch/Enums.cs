namespace TorchSharp;

public static partial class torch
{
    public enum RoundingMode
    {
        None,
        trunc,
        floor,
    }
}

public enum FFTNormType
{
    Backward,
    Forward,
    Ortho,
}
