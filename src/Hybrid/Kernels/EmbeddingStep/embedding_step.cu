// Rows of a matrix by token id, one a sequence. A thread takes one number. An id that is none gives a row that is not a number.
// Options: ELEMENT, EMBEDDING_BYTES.

struct EmbeddingArguments
{
    element* weight;                      // [vocabulary, width]
    long long* ids;                       // [rows]
    element* y;                           // [rows, width]
    long long vocabulary, width, rows;
};

static_assert(sizeof(EmbeddingArguments) == EMBEDDING_BYTES, "EmbeddingArguments differs from its C# counterpart");

KERNEL(embedding_step, EmbeddingArguments)
{
    const long long index = thread_index();
    if (index >= p.rows * p.width)
    {
        return;
    }

    const long long id = p.ids[index / p.width];
    store(p.y + index, id >= 0 && id < p.vocabulary ? load(p.weight + id * p.width + index % p.width) : bits_to_float(0x7fc00000u));
}
