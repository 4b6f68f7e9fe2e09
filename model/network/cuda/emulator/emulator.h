// A CPU that runs kernels as a GPU would, slowly: blocks one after the other, the threads of a block in turn, each on a stack of its
// own, switching where they wait for one another. It is here for wrong indices, missing barriers between phases and wrong fragment
// layouts; it says nothing of speed, of races inside a phase, or of rounding in tensor cores.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

struct Index { unsigned x, y, z; };
extern Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {
// Waits until all threads of the block, or of the warp, have come here.
void wait_block();
void wait_warp();
// A place that a lane's warp sees, 64 bytes for each lane.
void* exchange(unsigned lane);
unsigned lane();
extern unsigned char* dynamic_shared;
void add_kernel(const char* name, void (*run)(void** arguments));

template <typename... A, size_t... I> void spread(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(arguments[I])...);
}
template <auto KERNEL_FUNCTION> struct Runner;
template <typename... A, void (*KERNEL_FUNCTION)(A...)> struct Runner<KERNEL_FUNCTION> {
    static void run(void** arguments) { spread(KERNEL_FUNCTION, arguments, std::index_sequence_for<A...>()); }
};
struct Registration {
    Registration(const char* name, void (*run)(void**)) { add_kernel(name, run); }
};
}

struct f16_t { uint16_t bits; };
struct bf16_t { uint16_t bits; };

#define DEVICE inline
#define KERNEL extern "C" void
#define BOUNDS(threads)
// Blocks run one after the other, so one copy serves them all.
#define SHARED static
#define DYNAMIC_SHARED(name) unsigned char* name = emulator::dynamic_shared
#define EXPORT(name) static emulator::Registration registration_##name(#name, &emulator::Runner<&name>::run);

inline float bits_float(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
inline unsigned float_bits(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }

inline float to_float(float x) { return x; }
inline float to_float(bf16_t x) { return bits_float(static_cast<uint32_t>(x.bits) << 16); }
inline float to_float(f16_t x) { _Float16 half; memcpy(&half, &x.bits, 2); return static_cast<float>(half); }
template <typename T> T from_float(float x);
template <> inline float from_float<float>(float x) { return x; }
template <> inline f16_t from_float<f16_t>(float x) {
    _Float16 half = static_cast<_Float16>(x);
    f16_t result;
    memcpy(&result.bits, &half, 2);
    return result;
}
template <> inline bf16_t from_float<bf16_t>(float x) {
    uint32_t bits = float_bits(x);
    if (x != x) return {static_cast<uint16_t>(bits >> 16 | 0x40)};
    return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline float shuffle_xor(float value, int mask) {
    unsigned lane = emulator::lane();
    memcpy(emulator::exchange(lane), &value, 4);
    emulator::wait_warp();
    float other;
    memcpy(&other, emulator::exchange(lane ^ static_cast<unsigned>(mask)), 4);
    emulator::wait_warp();
    return other;
}
inline void sync_block() { emulator::wait_block(); }
inline void sync_warp() { emulator::wait_warp(); }
inline float exp2_fast(float x) { return exp2f(x); }
inline unsigned atomic_increment(unsigned* at) { return (*at)++; }
inline void atomic_add(unsigned* at, unsigned by) { *at += by; }

template <typename T> unsigned pack_halves(float low, float high, T) {
    return from_float<T>(low).bits | static_cast<unsigned>(from_float<T>(high).bits) << 16;
}

// The fragments of mma.m16n8k16 by the PTX manual: a lane has rows lane / 4 and + 8 of a and c, column lane / 4 of b, and pairs of the
// other dimension from lane % 4 * 2, + 8.
template <typename T> void multiply_tile(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, T) {
    unsigned lane = emulator::lane();
    unsigned mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
    memcpy(emulator::exchange(lane), mine, sizeof(mine));
    emulator::wait_warp();
    auto half = [](unsigned owner, int which, int high) {
        unsigned registers[6];
        memcpy(registers, emulator::exchange(owner), sizeof(registers));
        T value;
        value.bits = static_cast<uint16_t>(registers[which] >> (16 * high));
        return to_float(value);
    };
    for (int i = 0; i < 4; i++) {
        unsigned row = lane / 4 + (i >= 2 ? 8 : 0), column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 16; k++) {
            unsigned owner_of_a = row % 8 * 4 + k % 8 / 2, owner_of_b = column * 4 + k % 8 / 2;
            c[i] += half(owner_of_a, (row >= 8 ? 1 : 0) + (k >= 8 ? 2 : 0), k % 2) * half(owner_of_b, k >= 8 ? 5 : 4, k % 2);
        }
    }
    emulator::wait_warp();
}

template <bool IS_TRANSPOSED> void load_four_matrices(unsigned (&r)[4], const void* row) {
    unsigned lane = emulator::lane();
    memcpy(emulator::exchange(lane), &row, sizeof(row));
    emulator::wait_warp();
    auto element = [](int matrix, unsigned row, unsigned column) {
        const uint16_t* start;
        memcpy(&start, emulator::exchange(matrix * 8 + row), sizeof(start));
        return static_cast<unsigned>(start[column]);
    };
    for (int i = 0; i < 4; i++) {
        unsigned row = lane / 4, column = lane % 4 * 2;
        r[i] = IS_TRANSPOSED ? element(i, column, row) | element(i, column + 1, row) << 16
                             : element(i, row, column) | element(i, row, column + 1) << 16;
    }
    emulator::wait_warp();
}
inline void load_matrices(unsigned (&r)[4], const void* row) { load_four_matrices<false>(r, row); }
inline void load_matrices_transposed(unsigned (&r)[4], const void* row) { load_four_matrices<true>(r, row); }

// Done at once: whoever reads too early is not found out here.
inline void copy_async(void* to, const void* from, bool is_there) {
    if (is_there) memcpy(to, from, 16);
    else memset(to, 0, 16);
}
inline void commit_copies() {}
template <int PENDING> void wait_copies() {}
