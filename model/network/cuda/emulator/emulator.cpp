// See emulator.h. One kernel at a time: callers hold a lock.
#include "emulator.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

Index threadIdx, blockIdx, blockDim, gridDim;

namespace {
constexpr size_t STACK = 64 << 10;
constexpr unsigned MAX_THREADS = 1024;

struct Thread {
    void* stack_pointer;
    Index index;
    unsigned number;
    // How many barriers of the block and of its warp it has come to.
    unsigned long block_barriers, warp_barriers;
    bool is_done;
};

struct Exchange { alignas(64) unsigned char bytes[64]; };

Thread threads[MAX_THREADS];
Exchange exchanges[MAX_THREADS];
// Never given back; pages are taken as threads touch them.
unsigned char* const stacks = static_cast<unsigned char*>(malloc(STACK * MAX_THREADS));
std::vector<unsigned char> shared_memory;
void* scheduler_stack;
Thread* running;
unsigned num_threads;
void (*body)(void**);
void** body_arguments;

std::map<std::string, void (*)(void**)>& kernels() {
    static std::map<std::string, void (*)(void**)> all;
    return all;
}
}

// Saves what a call must keep, changes stacks, and returns on the other one.
extern "C" void emulator_switch(void** save, void* load);
asm(R"(
.globl emulator_switch
.type emulator_switch,@function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

namespace emulator {
unsigned char* dynamic_shared;

void add_kernel(const char* name, void (*run)(void**)) { kernels()[name] = run; }
unsigned lane() { return running->number % 32; }
void* exchange(unsigned lane) { return exchanges[running->number / 32 * 32 + lane].bytes; }

static void pause() {
    Thread* me = running;
    emulator_switch(&me->stack_pointer, scheduler_stack);
}

void wait_block() {
    unsigned long mine = ++running->block_barriers;
    for (;;) {
        bool all_here = true;
        for (unsigned i = 0; i < num_threads; i++) all_here &= threads[i].is_done || threads[i].block_barriers >= mine;
        if (all_here) return;
        pause();
    }
}

void wait_warp() {
    unsigned long mine = ++running->warp_barriers;
    unsigned first = running->number / 32 * 32;
    for (;;) {
        bool all_here = true;
        for (unsigned i = first; i < first + 32 && i < num_threads; i++)
            all_here &= threads[i].is_done || threads[i].warp_barriers >= mine;
        if (all_here) return;
        pause();
    }
}
}

static void thread_main() {
    body(body_arguments);
    running->is_done = true;
    for (;;) emulator::pause();
}

static void start(Thread& thread) {
    auto top = reinterpret_cast<uintptr_t>(stacks + (thread.number + 1) * STACK) & ~uintptr_t(63);
    // As after a call: the return address lies at a multiple of 16 plus 8 once it is taken off.
    void** frame = reinterpret_cast<void**>(top) - 10;
    memset(frame, 0, 10 * sizeof(void*));
    frame[6] = reinterpret_cast<void*>(&thread_main);
    thread.stack_pointer = frame;
}

static void run_block(unsigned num_in_block) {
    num_threads = num_in_block;
    for (unsigned i = 0; i < num_threads; i++) {
        threads[i] = {nullptr, {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y}, i, 0, 0, false};
        start(threads[i]);
    }
    unsigned long idle_rounds = 0;
    for (unsigned num_done = 0; num_done < num_threads;) {
        num_done = 0;
        unsigned long before = 0, after = 0;
        for (unsigned i = 0; i < num_threads; i++) before += threads[i].block_barriers + threads[i].warp_barriers + threads[i].is_done;
        for (unsigned i = 0; i < num_threads; i++) {
            if (!threads[i].is_done) {
                running = &threads[i];
                threadIdx = running->index;
                emulator_switch(&scheduler_stack, running->stack_pointer);
            }
            num_done += threads[i].is_done;
        }
        for (unsigned i = 0; i < num_threads; i++) after += threads[i].block_barriers + threads[i].warp_barriers + threads[i].is_done;
        idle_rounds = before == after ? idle_rounds + 1 : 0;
        if (idle_rounds > 3) {
            fprintf(stderr, "emulator: the threads of a block wait for one another without end\n");
            abort();
        }
    }
}

// Runs a kernel over its grid. 0: done; 1: there is no kernel of this name.
extern "C" int emulator_launch(const char* name, const unsigned* grid, const unsigned* block, unsigned shared_bytes, void** arguments) {
    auto found = kernels().find(name);
    if (found == kernels().end()) return 1;
    // Filled with what is no number, so that reading what was not written shows.
    shared_memory.assign(shared_bytes + 128, 0xff);
    emulator::dynamic_shared =
        reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(shared_memory.data()) + 127) & ~uintptr_t(127));
    body = found->second;
    body_arguments = arguments;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                blockIdx = {x, y, z};
                run_block(block[0] * block[1] * block[2]);
            }
    return 0;
}
