using Xunit;

// libtorch uses every core by itself, and live-tensor counts are global: tests run one after the other.
[assembly: CollectionBehavior(DisableTestParallelization = true)]
