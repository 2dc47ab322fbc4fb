// Attention of one new token a row against its cache: the token's query and key turn, key and value take their slot, and the query heads that
// share a key head mix its values. The keys of a row are split among blocks, each with a softmax of its own; when all are done, blocks put
// the parts together (Dao et al., Flash-Decoding). It is launched together.
// Options: HEADS (query heads of a key head that a block takes), WIDTH (K), PACKS (1: K and addresses allow reads of 16 bytes), ELEMENT,
// STEP_BYTES.

#define MOST_FREQUENCIES 128
#define MOST_ROWS 64

// Threads beside each other that read the values of a key, a pack each; keys whose values the block reads at once; and how many such reads are
// on their way at a time.
#define COLUMNS ((WIDTH + PACK - 1) / PACK)
#define KEYS_AT_ONCE (BLOCK / COLUMNS)
#define KEYS_IN_FLIGHT 4

struct StepArguments
{
    element* query;                       // [B, H, K], not turned yet
    element* key;                         // [B, G, K], likewise
    element* value;                       // [B, G, K]
    element* keys;                        // the cache [B, G, S, K]; the token's slot is written
    element* values;                      // [B, G, S, K]
    float* parts;                         // of each unit of work, for each of its heads: largest score, sum of weights, mixed values [HEADS, 2 + K]
    element* y;                           // [B, H, K]
    unsigned int* barrier;
    long long slots;                      // S
    long long window;                     // keys that a token sees, itself counted; token p is in slot p mod window
    int batch, groups, heads;             // B, G, H
    int splits;                           // parts that the keys of a row come in
    int turning;                          // channels R that turn; 0 for none
    int ragged;                           // 1 where rows have positions of their own, 0 where all have the first one
    float scale, cap;                     // of the scores; a cap of 0 is none
    float amplitude;                      // of sines and cosines
    float frequencies[MOST_FREQUENCIES];  // angles of a position [R / 2]
    int positions[MOST_ROWS];             // tokens of each row before this one
};

static_assert(sizeof(StepArguments) == STEP_BYTES, "StepArguments differs from its C# counterpart");

/// What a block works on: a row, a key head, some of its query heads, and a part of its keys.
struct Unit
{
    int row, group, first_head, head_count, position, visible, start, end;
    long long index;

    METHOD Unit(const StepArguments& p, unsigned int work) : index(work)
    {
        const int of_group = p.heads / p.groups, tiles = (of_group + HEADS - 1) / HEADS;
        const int split = (int)(work % p.splits), tile = (int)(work / p.splits % tiles), row_group = (int)(work / p.splits / tiles);
        row = row_group / p.groups;
        group = row_group % p.groups;
        first_head = group * of_group + tile * HEADS;
        head_count = of_group - tile * HEADS < HEADS ? of_group - tile * HEADS : HEADS;
        position = p.positions[p.ragged ? row : 0];
        visible = position + 1 < p.window ? position + 1 : (int)p.window;

        // Parts are multiples of BLOCK keys, so that only the last has threads without one.
        const int span = (visible + p.splits * BLOCK - 1) / (p.splits * BLOCK) * BLOCK;
        start = split * span < visible ? split * span : visible;
        end = start + span < visible ? start + span : visible;
    }

    METHOD element* slot(const StepArguments& p, element* cache, long long at) const
    {
        return cache + ((row * p.groups + group) * p.slots + at) * WIDTH;
    }

    METHOD float* part(const StepArguments& p, int head) const { return p.parts + (index * HEADS + head) * (2 + WIDTH); }
};

/// A channel of a query or key after it has turned by the angle of a position.
FUNCTION float turned(const StepArguments& p, const element* vector, int channel, int position)
{
    const int half = p.turning / 2;
    const float own = load(vector + channel);
    if (channel >= p.turning)
    {
        return own;
    }

    const bool upper = channel >= half;
    const float other = load(vector + (upper ? channel - half : channel + half));
    const float angle = (float)position * p.frequencies[upper ? channel - half : channel];
    const float c = p.amplitude * cosf(angle), s = p.amplitude * sinf(angle);
    return upper ? fmaf(other, s, own * c) : fmaf(own, c, -(other * s));
}

/// The largest value over the threads of a block, in every thread.
FUNCTION float block_max(float value)
{
    SHARED float largest[BLOCK / WARP];
#pragma unroll
    for (int mask = WARP / 2; mask > 0; mask /= 2)
    {
        const float other = lane_exchange(value, mask);
        value = other > value ? other : value;
    }

    block_barrier();                                        // largest may still be read from the call before
    if (lane_index() == 0)
    {
        largest[block_thread() / WARP] = value;
    }

    block_barrier();
    float all = largest[0];
#pragma unroll
    for (int warp = 1; warp < BLOCK / WARP; ++warp)
    {
        all = largest[warp] > all ? largest[warp] : all;
    }

    return all;
}

/// The query heads, turned and scaled, into shared memory; and the token's key and value into their slot, by the block that will read it.
FUNCTION void enter(const StepArguments& p, const Unit& unit, float* query)
{
    for (int i = block_thread(); i < HEADS * WIDTH; i += BLOCK)
    {
        const element* vector = p.query + ((long long)unit.row * p.heads + unit.first_head + i / WIDTH) * WIDTH;
        query[i] = i / WIDTH < unit.head_count ? turned(p, vector, i % WIDTH, unit.position) * p.scale : 0.0f;
    }

    const int slot = (int)(unit.position % p.window);
    if (slot >= unit.start && slot < unit.end)
    {
        const long long own = ((long long)unit.row * p.groups + unit.group) * WIDTH;
        for (int channel = block_thread(); channel < WIDTH; channel += BLOCK)
        {
            store(unit.slot(p, p.keys, slot) + channel, turned(p, p.key + own, channel, unit.position));
            unit.slot(p, p.values, slot)[channel] = p.value[own + channel];
        }
    }

    block_barrier();
}

/// The scores of a thread's key with all heads.
FUNCTION void score(const StepArguments& p, const element* key, const float* query, float (&scores)[HEADS])
{
#pragma unroll
    for (int head = 0; head < HEADS; ++head)
    {
        scores[head] = 0.0f;
    }

#pragma unroll 4
    for (int k = 0; k < WIDTH; k += PACK)
    {
        const Pack pack = read_pack(key + k, WIDTH - k);
#pragma unroll
        for (int head = 0; head < HEADS; ++head)
        {
#pragma unroll
            for (int i = 0; i < PACK; ++i)
            {
                scores[head] = k + i < WIDTH ? fmaf(pack[i], query[head * WIDTH + k + i], scores[head]) : scores[head];
            }
        }
    }

    if (p.cap > 0.0f)
    {
#pragma unroll
        for (int head = 0; head < HEADS; ++head)
        {
            scores[head] = p.cap * tanhf(scores[head] * fast_reciprocal(p.cap));
        }
    }
}

/// A unit of work: its keys in tiles of one a thread, with a running softmax.
FUNCTION void attend(const StepArguments& p, const Unit& unit, float* query)
{
    SHARED float weights[HEADS][BLOCK];
    SHARED float mixed_of_threads[BLOCK * PACK];
    enter(p, unit, query);
    const int column = block_thread() % COLUMNS * PACK, first_key = block_thread() / COLUMNS;
    float largest[HEADS], sums[HEADS], mixed[HEADS][PACK];
#pragma unroll
    for (int head = 0; head < HEADS; ++head)
    {
        largest[head] = -INFINITE;
        sums[head] = 0.0f;
#pragma unroll
        for (int i = 0; i < PACK; ++i)
        {
            mixed[head][i] = 0.0f;
        }
    }

#pragma unroll 1
    for (int tile = unit.start; tile < unit.end; tile += BLOCK)
    {
        const int own = tile + block_thread(), count = unit.end - tile < BLOCK ? unit.end - tile : BLOCK;
        float scores[HEADS];
        score(p, unit.slot(p, p.keys, own < unit.end ? own : unit.start), query, scores);
#pragma unroll
        for (int head = 0; head < HEADS; ++head)
        {
            const float seen = own < unit.end ? scores[head] : -INFINITE, tile_largest = block_max(seen);
            const float next = tile_largest > largest[head] ? tile_largest : largest[head];
            const float kept = fast_exp2((largest[head] - next) * LOG2_E), weight = fast_exp2((seen - next) * LOG2_E);
            largest[head] = next;
            sums[head] = fmaf(sums[head], kept, weight);
            weights[head][block_thread()] = weight;
#pragma unroll
            for (int i = 0; i < PACK; ++i)
            {
                mixed[head][i] *= kept;
            }
        }

        block_barrier();
        if (first_key < KEYS_AT_ONCE)
        {
            for (int key = first_key; key < count; key += KEYS_IN_FLIGHT * KEYS_AT_ONCE)
            {
                Pack packs[KEYS_IN_FLIGHT];
#pragma unroll
                for (int next = 0; next < KEYS_IN_FLIGHT; ++next)
                {
                    const int at = key + next * KEYS_AT_ONCE;
                    packs[next] = read_pack(unit.slot(p, p.values, tile + (at < count ? at : key)) + column, WIDTH - column);
                }

#pragma unroll
                for (int next = 0; next < KEYS_IN_FLIGHT; ++next)
                {
                    const int at = key + next * KEYS_AT_ONCE;
#pragma unroll
                    for (int head = 0; head < HEADS; ++head)
                    {
                        const float weight = at < count ? weights[head][at] : 0.0f;
#pragma unroll
                        for (int i = 0; i < PACK; ++i)
                        {
                            mixed[head][i] = fmaf(weight, packs[next][i], mixed[head][i]);
                        }
                    }
                }
            }
        }
    }

#pragma unroll
    for (int head = 0; head < HEADS; ++head)
    {
        const float sum = block_sum(sums[head]);            // its barriers also keep the head before from being overwritten
#pragma unroll
        for (int i = 0; i < PACK; ++i)
        {
            mixed_of_threads[block_thread() * PACK + i] = mixed[head][i];
        }

        block_barrier();
        float* part = unit.part(p, head);
        for (int channel = block_thread(); channel < WIDTH; channel += BLOCK)
        {
            float total = 0.0f;
            for (int key = 0; key < KEYS_AT_ONCE; ++key)
            {
                total += mixed_of_threads[key * COLUMNS * PACK + channel];
            }

            part[2 + channel] = total;
        }

        if (block_thread() == 0)
        {
            part[0] = largest[head];
            part[1] = sum;
        }
    }
}

/// The output of a head, from the parts of its keys.
FUNCTION void join(const StepArguments& p, unsigned int work)
{
    const int of_group = p.heads / p.groups, tiles = (of_group + HEADS - 1) / HEADS;
    const int head = (int)(work % p.heads), row = (int)(work / p.heads), of_own = head % of_group;
    const float* part = p.parts + (((long long)(row * p.groups + head / of_group) * tiles + of_own / HEADS) * p.splits * HEADS + of_own % HEADS) * (2 + WIDTH);
    const int stride = HEADS * (2 + WIDTH);
    float largest = -INFINITE, sum = 0.0f;
    for (int split = 0; split < p.splits; ++split)
    {
        largest = part[split * stride] > largest ? part[split * stride] : largest;
    }

    for (int split = 0; split < p.splits; ++split)
    {
        sum = fmaf(part[split * stride + 1], fast_exp2((part[split * stride] - largest) * LOG2_E), sum);
    }

    for (int channel = block_thread(); channel < WIDTH; channel += BLOCK)
    {
        float total = 0.0f;
        for (int split = 0; split < p.splits; ++split)
        {
            total = fmaf(part[split * stride + 2 + channel], fast_exp2((part[split * stride] - largest) * LOG2_E), total);
        }

        store(p.y + (long long)work * WIDTH + channel, total * fast_reciprocal(sum));
    }
}

KERNEL(attention_step, StepArguments)
{
    alignas(16) SHARED float query[HEADS * WIDTH];
    const unsigned int blocks = (unsigned int)block_count(), of_group = (unsigned int)(p.heads / p.groups);
    const unsigned int units = (unsigned int)p.batch * p.groups * ((of_group + HEADS - 1) / HEADS) * p.splits;
    for (unsigned int work = (unsigned int)block_index(); work < units; work += blocks)
    {
        attend(p, Unit(p, work), query);
        block_barrier();                                    // query may still be read
    }

    grid_barrier(p.barrier);
    for (unsigned int work = (unsigned int)block_index(); work < (unsigned int)(p.batch * p.heads); work += blocks)
    {
        join(p, work);
    }
}
