// The part of the prelude that differs between devices, for a CPU. The threads of a block are fibers that run one at a time until they end
// or wait, so barriers and exchanges between lanes mean what they mean on a GPU. Every other block runs its threads in reverse order:
// what depends on an order that nothing guarantees gives other numbers. A barrier that not all threads reach is an error. Blocks that are
// launched together run at once, each on a thread of the system.
#pragma once

#include <cmath>
#include <condition_variable>
#include <csetjmp>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <ucontext.h>
#include <vector>

#define FUNCTION static inline
#define METHOD inline
#define SHARED static thread_local

namespace host
{
    enum class Wait { None, Lanes, Block, Finished };

    constexpr int StackBytes = 256 * 1024;

    struct Fiber
    {
        ucontext_t start;
        jmp_buf at;
        bool started;
        Wait wait;
        int mask;                 // of the exchange it waits in
        int parity;               // which of its two slots it uses next
        float slots[2];
        std::unique_ptr<char[]> stack;
    };

    struct Block
    {
        std::vector<Fiber> fibers;
        jmp_buf scheduler;
        ucontext_t origin;
        long long index;
        int current;
        void (*run)(const void*);
        const void* arguments;
    };

    inline thread_local Block block;

    /// Where blocks that run at once wait for each other.
    struct Grid
    {
        std::mutex mutex;
        std::condition_variable changed;
        int blocks = 0, arrived = 0, round = 0;
        const char* problem = nullptr;

        void wait()
        {
            std::unique_lock<std::mutex> lock(mutex);
            const int mine = round;
            if (++arrived == blocks)
            {
                arrived = 0;
                ++round;
                changed.notify_all();
            }

            changed.wait(lock, [&] { return round != mine || problem != nullptr; });
        }

        /// A block has ended; one that ends in the middle would keep the others waiting.
        void end(const char* what)
        {
            const std::lock_guard<std::mutex> lock(mutex);
            problem = problem == nullptr ? what : problem;
            --blocks;
            if (what == nullptr && blocks > 0 && arrived == blocks)
            {
                problem = "a barrier that not all blocks reach";
            }

            changed.notify_all();
        }
    };

    inline thread_local Grid* grid = nullptr;
    inline thread_local long long blocks_of_launch = 0;

    inline void wait(Wait kind)
    {
        Fiber& fiber = block.fibers[block.current];
        fiber.wait = kind;
        if (_setjmp(fiber.at) == 0)
        {
            _longjmp(block.scheduler, 1);
        }
    }

    inline void begin()
    {
        block.run(block.arguments);
        block.fibers[block.current].wait = Wait::Finished;
        _longjmp(block.scheduler, 1);
    }

    inline void resume(int thread)
    {
        block.current = thread;
        Fiber& fiber = block.fibers[thread];
        fiber.wait = Wait::None;
        if (_setjmp(block.scheduler) == 0)
        {
            if (fiber.started)
            {
                _longjmp(fiber.at, 1);
            }

            fiber.started = true;
            getcontext(&fiber.start);
            fiber.start.uc_stack.ss_sp = fiber.stack.get();
            fiber.start.uc_stack.ss_size = StackBytes;
            fiber.start.uc_link = nullptr;
            makecontext(&fiber.start, begin, 0);
            setcontext(&fiber.start);
        }
    }

    /// Runs the threads of a block from one wait to the next; null, or what went wrong.
    inline const char* run_block(int threads)
    {
        const int step = block.index % 2 == 0 ? 1 : -1;
        for (;;)
        {
            int finished = 0, at_barrier = 0;
            for (int first = 0; first < threads; first += 32)
            {
                const int count = threads - first < 32 ? threads - first : 32;
                for (;;)
                {
                    int exchanging = 0, waiting = 0, done = 0;
                    for (int i = 0; i < count; ++i)
                    {
                        const int thread = step > 0 ? first + i : first + count - 1 - i;
                        if (block.fibers[thread].wait == Wait::None || block.fibers[thread].wait == Wait::Lanes)
                        {
                            resume(thread);
                        }
                    }

                    for (int i = first; i < first + count; ++i)
                    {
                        exchanging += block.fibers[i].wait == Wait::Lanes;
                        waiting += block.fibers[i].wait == Wait::Block;
                        done += block.fibers[i].wait == Wait::Finished;
                        if (block.fibers[i].wait == Wait::Lanes && block.fibers[i].mask != block.fibers[first].mask)
                        {
                            return "lanes of a warp exchange with different masks";
                        }
                    }

                    if (exchanging == 0)
                    {
                        finished += done;
                        at_barrier += waiting;
                        break;
                    }

                    if (exchanging != 32)
                    {
                        return "an exchange between lanes that not all lanes of a warp reach";
                    }
                }
            }

            if (finished == threads)
            {
                return nullptr;
            }

            if (at_barrier != threads)
            {
                return "a barrier that not all threads of a block reach";
            }

            for (Fiber& fiber : block.fibers)
            {
                fiber.wait = Wait::None;
            }
        }
    }

    inline void prepare(int threads, void (*run)(const void*), const void* arguments, long long blocks)
    {
        if (static_cast<int>(block.fibers.size()) != threads)
        {
            block.fibers = std::vector<Fiber>(threads);
            for (Fiber& fiber : block.fibers)
            {
                fiber.stack = std::make_unique<char[]>(StackBytes);
            }
        }

        block.run = run;
        block.arguments = arguments;
        blocks_of_launch = blocks;
    }

    inline const char* run_block(long long index, int threads)
    {
        block.index = index;
        for (Fiber& fiber : block.fibers)
        {
            fiber.started = false;
            fiber.wait = Wait::None;
            fiber.parity = 0;
        }

        return run_block(threads);
    }

    inline const char* run_in_turn(long long blocks, int threads, void (*run)(const void*), const void* arguments)
    {
        prepare(threads, run, arguments, blocks);
        for (long long index = 0; index < blocks; ++index)
        {
            if (const char* problem = run_block(index, threads))
            {
                return problem;
            }
        }

        return nullptr;
    }

    inline const char* run_together(long long blocks, int threads, void (*run)(const void*), const void* arguments)
    {
        Grid together;
        together.blocks = static_cast<int>(blocks);
        std::vector<std::thread> workers;
        for (long long index = 0; index < blocks; ++index)
        {
            workers.emplace_back([&, index]
            {
                grid = &together;
                prepare(threads, run, arguments, blocks);
                together.end(run_block(index, threads));
            });
        }

        for (std::thread& worker : workers)
        {
            worker.join();
        }

        return together.problem;
    }
}

// A kernel is exported under its name: it takes the array of parameters of cuLaunchKernel, and whether its blocks run together, and returns null
// or what went wrong.
#define KERNEL(name, Arguments)                                                                    \
    static void name##_body(const Arguments& p);                                                   \
    extern "C" const char* name(void** parameters, long long blocks, int threads, bool together)   \
    {                                                                                              \
        const Arguments arguments = *static_cast<const Arguments*>(parameters[0]);                 \
        const auto run = [](const void* p) { name##_body(*static_cast<const Arguments*>(p)); };    \
        return together ? host::run_together(blocks, threads, run, &arguments) : host::run_in_turn(blocks, threads, run, &arguments); \
    }                                                                                              \
    static void name##_body(const Arguments& p)

FUNCTION long long block_index() { return host::block.index; }
FUNCTION long long block_count() { return host::blocks_of_launch; }
FUNCTION int block_thread() { return host::block.current; }
FUNCTION void block_barrier() { host::wait(host::Wait::Block); }

/// The system's own barrier takes the place of the counter, which must be there and 0 all the same.
FUNCTION void grid_barrier(unsigned int* counter)
{
    block_barrier();
    if (block_thread() == 0)
    {
        if (host::grid == nullptr || *counter != 0)
        {
            std::abort();
        }

        host::grid->wait();
    }

    block_barrier();
}

FUNCTION float lane_exchange(float value, int mask)
{
    const int thread = block_thread();
    host::Fiber& fiber = host::block.fibers[thread];
    const int parity = fiber.parity;
    fiber.parity = 1 - parity;
    fiber.slots[parity] = value;
    fiber.mask = mask;
    host::wait(host::Wait::Lanes);
    return host::block.fibers[thread ^ mask].slots[parity];
}

FUNCTION void lane_barrier() { lane_exchange(0.0f, 1); }

FUNCTION float bits_to_float(unsigned int bits)
{
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

FUNCTION unsigned int float_to_bits(float value)
{
    unsigned int bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
}

FUNCTION float fast_exp2(float x) { return std::exp2(x); }
FUNCTION float fast_reciprocal(float x) { return 1.0f / x; }
FUNCTION void prefetch(const void*) {}

FUNCTION float half_to_float(unsigned short bits)
{
    _Float16 value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

FUNCTION unsigned short float_to_half(float value)
{
    const _Float16 half = static_cast<_Float16>(value);
    unsigned short bits;
    std::memcpy(&bits, &half, sizeof(bits));
    return bits;
}
