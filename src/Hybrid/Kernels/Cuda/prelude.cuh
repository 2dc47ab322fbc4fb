// What the kernels of this library are written on. It is put in front of every .cu file, and each file keeps to these conventions:
//
// 1. A file is plain C++17: no headers of CUDA or of the standard library, so that NVRTC compiles it without a toolkit. What differs
//    between devices is in this file alone. A C++ compiler with HYBRID_HOST defined takes it from host.h instead and then runs
//    the same kernels on a CPU, thread by thread with true barriers, which is how they are tested where there is no GPU.
// 2. A kernel is KERNEL(name, Arguments) { ... }: one struct of arguments, by value, called p. The same struct is declared in C#, field by
//    field in the same order (pointers and 64-bit numbers first, then int and float), and the file has
//    static_assert(sizeof(Arguments) == ..._BYTES), where ..._BYTES is the size of the C# struct, given as a compile option.
// 3. A launch has one dimension: blocks of BLOCK threads (128, so 4 warps), as many as it takes. thread_index() is 64 bits wide, and so is
//    every offset into a tensor. A thread without work returns, unless a barrier or a sum over lanes follows: then it takes part with zeros,
//    and whole warps take the same way. A kernel that calls grid_barrier is launched together (CudaRuntime.LaunchTogether): each block goes on
//    to the next work of its kind, block_count() further, until there is none.
// 4. Neighbouring threads take neighbouring channels, which lie next to each other in memory ([B, T, E]); a warp never spans two rows or two
//    groups of channels where it adds up over lanes.
// 5. Tensors hold `element` (float, bfloat16 or float16, by the option ELEMENT); arithmetic, states and sums are float. Read with load(),
//    write with store(). Channels of a Rows are next to each other; rows and steps have strides, so slices need no copy.
// 6. Sums over channels or rows never use atomics: every warp writes its part, and the parts are added up in a fixed order, so that results
//    are the same bit for bit each time.
// 7. Arrays are sized by options and indexed by constants (#pragma unroll), so that they stay in registers. A loop whose body is long says
//    #pragma unroll 1; what it indexes lies in local memory, which is slower but has its own cache.
// 8. In C#, each operation has an interface of its devices (IScanDevice: forward, backward) with one implementation for CPU and one for CUDA, so
//    that entry, autograd and self-test are written once; the class ...OnCuda fills the struct and launches. Tests give it a
//    CudaRuntime of HostCuda instead of one of a device, and the same cases as the CPU kernel.

#ifndef ELEMENT
#define ELEMENT 0
#endif

#define BLOCK 128
#define WARP 32

#ifdef HYBRID_HOST
#include "host.h"
#else

#define FUNCTION static __device__ __forceinline__
#define METHOD __device__ __forceinline__
#define SHARED __shared__
#define KERNEL(name, Arguments) extern "C" __global__ void __launch_bounds__(BLOCK) name(const Arguments p)

FUNCTION long long block_index() { return blockIdx.x; }
FUNCTION int block_thread() { return (int)threadIdx.x; }

/// Waits for all threads of the block.
FUNCTION void block_barrier() { __syncthreads(); }

FUNCTION long long block_count() { return gridDim.x; }

/// Waits for all blocks, which the launch must be for; what they wrote before is seen after. counter is CudaRuntime.Barrier: its lower bits
/// count the blocks and are 0 again when all are there, which turns the top bit over.
FUNCTION void grid_barrier(unsigned int* counter)
{
    block_barrier();
    if (block_thread() == 0)
    {
        __threadfence();
        const unsigned int before = atomicAdd(counter, block_index() == 0 ? 0x80000001u - gridDim.x : 1u);
        while (((before ^ *(volatile unsigned int*)counter) & 0x80000000u) == 0)
        {
        }

        __threadfence();
    }

    block_barrier();
}

/// Waits for all lanes of the warp, which then see what each other wrote to shared memory.
FUNCTION void lane_barrier() { __syncwarp(); }

/// The value of the lane whose number differs in the bits of mask; all lanes of a warp call it together.
FUNCTION float lane_exchange(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

FUNCTION float bits_to_float(unsigned int bits) { return __uint_as_float(bits); }
FUNCTION unsigned int float_to_bits(float value) { return __float_as_uint(value); }

FUNCTION float half_to_float(unsigned short bits)
{
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

FUNCTION unsigned short float_to_half(float value)
{
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

#if __CUDA_ARCH__ >= 800
#define HAS_CONVERSIONS
FUNCTION unsigned short float_to_bfloat(float value)
{
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// Two at once, the second in the upper half.
FUNCTION unsigned int floats_to_bfloats(float low, float high)
{
    unsigned int bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

FUNCTION unsigned int floats_to_halves(float low, float high)
{
    unsigned int bits;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}
#endif

/// 2^x in one instruction, within 2^-22 of it; results below 2^-126 are 0. exp2f takes four, of which three are for such results.
FUNCTION float fast_exp2(float x)
{
    float value;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
    return value;
}

/// 1 / x within one unit in the last place; 0 above 2^126. The division takes nine instructions and a branch.
FUNCTION float fast_reciprocal(float x)
{
    float value;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
    return value;
}

/// Asks for the memory from an address on to be brought near, for a read that comes later.
FUNCTION void prefetch(const void* address) { asm volatile("prefetch.global.L2 [%0];" : : "l"(address)); }

#endif

FUNCTION long long thread_index() { return block_index() * BLOCK + block_thread(); }
FUNCTION int lane_index() { return block_thread() % WARP; }

// --- elements ------------------------------------------------------------------------------------------------------

#if ELEMENT == 0
typedef float element;
FUNCTION float load(const element* source) { return *source; }
FUNCTION void store(element* target, float value) { *target = value; }
#elif ELEMENT == 1
// bfloat16 is the upper half of a float.
typedef unsigned short element;
FUNCTION float load(const element* source) { return bits_to_float((unsigned int)*source << 16); }
#ifndef HAS_CONVERSIONS
FUNCTION unsigned short float_to_bfloat(float value)
{
    const unsigned int bits = float_to_bits(value);
    return value != value ? 0x7fc0 : (unsigned short)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // to nearest, ties to even
}
#endif
FUNCTION void store(element* target, float value) { *target = float_to_bfloat(value); }
#else
typedef unsigned short element;
FUNCTION float load(const element* source) { return half_to_float(*source); }
FUNCTION void store(element* target, float value) { *target = float_to_half(value); }
#endif

#define WORD (4 / (int)sizeof(element))   // elements in 32 bits
#define PACK (4 * WORD)

/// An element of a word.
FUNCTION float from_word(unsigned int word, int i)
{
#if ELEMENT == 0
    return bits_to_float(word);
#else
    const element half = (element)(word >> (i * 16));
    return load(&half);
#endif
}

/// WORD values as the elements of a word.
FUNCTION unsigned int to_word(const float* values)
{
#if ELEMENT == 0
    return float_to_bits(*values);
#elif !defined(HAS_CONVERSIONS)
    element low, high;
    store(&low, values[0]);
    store(&high, values[1]);
    return low | (unsigned int)high << 16;
#elif ELEMENT == 1
    return floats_to_bfloats(values[0], values[1]);
#else
    return floats_to_halves(values[0], values[1]);
#endif
}

/// PACK neighbouring elements that are read or written at once, from an address that is a multiple of 16 bytes. As words: elements of 16 bits would
/// make the compiler read 8 bytes at a time.
struct alignas(16) Pack
{
    unsigned int words[4];

    METHOD float operator[](int i) const { return from_word(words[i / WORD], i % WORD); }

    METHOD void set(const float (&values)[PACK])
    {
#pragma unroll
        for (int i = 0; i < 4; ++i)
        {
            words[i] = to_word(values + i * WORD);
        }
    }

    METHOD void set(int i, element value)
    {
#if ELEMENT == 0
        words[i] = float_to_bits(value);
#else
        words[i / 2] |= (unsigned int)value << (i % 2 * 16);
#endif
    }
};

#ifndef PACKS
#define PACKS 0
#endif

/// The elements from source on, of which count are left: beyond them it is 0. With the option PACKS, which a file gives where its widths are
/// multiples of a pack and its tensors begin at multiples of 16 bytes, it is one read.
FUNCTION Pack read_pack(const element* source, long long count)
{
#if PACKS
    return *(const Pack*)source;
#else
    Pack pack = {};
#pragma unroll
    for (int i = 0; i < PACK; ++i)
    {
        if (i < count)
        {
            pack.set(i, source[i]);
        }
    }

    return pack;
#endif
}

/// A tensor [B, T, E] of which the channels are next to each other; no tensor where first is null.
struct Rows
{
    element* first;
    long long row;
    long long step;

    METHOD bool exists() const { return first != nullptr; }
    METHOD element* at(long long r, long long t) const { return first + r * row + t * step; }
};

// --- arithmetic ----------------------------------------------------------------------------------------------------

#define LOG2_E 1.4426950408889634f
#define INFINITE bits_to_float(0x7f800000u)

/// e^x. Where elements have 16 bits it is two instructions instead of eight, within |x| 2^-24 + 2^-22 of it relatively, which no element shows.
FUNCTION float exponential(float x)
{
#if ELEMENT == 0
    return expf(x);
#else
    return fast_exp2(x * LOG2_E);
#endif
}

FUNCTION float sigmoid(float x) { return fast_reciprocal(1.0f + exponential(-x)); }
FUNCTION float silu(float x) { return x * sigmoid(x); }
FUNCTION float silu_slope(float x)
{
    const float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}

/// log(1 + e^x); x itself above 20, as in PyTorch.
FUNCTION float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }
FUNCTION float softplus_slope(float x) { return x > 20.0f ? 1.0f : sigmoid(x); }

/// Within limits; NaN stays NaN.
FUNCTION float clamp(float x, float low, float high)
{
    x = x < low ? low : x;
    return x > high ? high : x;
}

FUNCTION long long divide_up(long long a, long long b) { return (a + b - 1) / b; }

// --- sums over lanes -----------------------------------------------------------------------------------------------

/// The sum over the lanes of a warp, in every lane.
FUNCTION float warp_sum(float value)
{
#pragma unroll
    for (int mask = WARP / 2; mask > 0; mask /= 2)
    {
        value += lane_exchange(value, mask);
    }

    return value;
}

/// The halvings of warp_sums: lanes that differ in the bit `Half` exchange half of what they still hold, and so on with half of that.
template <int Half, int Count>
FUNCTION void halve(float (&values)[Count])
{
    const bool upper = (lane_index() & Half) != 0;
#pragma unroll
    for (int i = 0; i < Half; ++i)
    {
        // Read both: a choice between two places in memory would keep the values out of registers.
        const float low = values[i], high = values[i + Half];
        values[i] = (upper ? high : low) + lane_exchange(upper ? low : high, Half);
    }

    if constexpr (Half > 1)
    {
        halve<Half / 2>(values);
    }
}

/// Adds up 32, 16, 8 or 4 values over the lanes of a warp; lane i gets the sum of values[i % Count]. For 32 that takes 31 exchanges where 32 sums
/// take 160. The values are lost.
template <int Count>
FUNCTION float warp_sums(float (&values)[Count])
{
    halve<Count / 2>(values);
    float sum = values[0];
#pragma unroll
    for (int mask = WARP / 2; mask >= Count; mask /= 2)
    {
        sum += lane_exchange(sum, mask);
    }

    return sum;
}

/// The sum over the threads of a block, in every thread.
FUNCTION float block_sum(float value)
{
    SHARED float sums[BLOCK / WARP];
    const float sum = warp_sum(value);
    block_barrier();                                        // sums may still be read from the call before
    if (lane_index() == 0)
    {
        sums[block_thread() / WARP] = sum;
    }

    block_barrier();
    float total = 0.0f;
#pragma unroll
    for (int warp = 0; warp < BLOCK / WARP; ++warp)
    {
        total += sums[warp];
    }

    return total;
}

// --- decoding ------------------------------------------------------------------------------------------------------

/// The causal convolution of one channel's new input, which its window [Taps - 1, stride between them], oldest first, is moved up by.
/// @param weight  Of the channel [Taps], oldest first.
/// @param bias    Of all channels, or null.
template <int Taps>
FUNCTION float convolve_next(const element* weight, const element* bias, long long channel, element* window, long long stride, element newest)
{
    float sum = load(weight + Taps - 1) * load(&newest);
#pragma unroll
    for (int k = 0; k < Taps - 1; ++k)
    {
        sum = fmaf(load(weight + k), load(window + k * stride), sum);
    }

#pragma unroll
    for (int k = 0; k < Taps - 1; ++k)
    {
        window[k * stride] = k < Taps - 2 ? window[(k + 1) * stride] : newest;
    }

    return bias == nullptr ? sum : sum + load(bias + channel);
}
