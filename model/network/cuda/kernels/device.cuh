// What every kernel stands on: element types, 16-byte packs, sums over a warp and a block, tensor-core tiles and asynchronous
// copies. Kernels use these names and nothing of CUDA beside them, so that `../emulator` can run the very same source on a CPU,
// thread by thread, and tests find wrong indices on machines without a GPU.
#pragma once

#ifdef INKSTONE_EMULATOR
#include "../emulator/emulator.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef __half f16_t;
typedef __nv_bfloat16 bf16_t;

#define DEVICE __device__ __forceinline__
#define KERNEL extern "C" __global__ void
#define BOUNDS(threads) __launch_bounds__(threads)
#define SHARED __shared__
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#define EXPORT(name)

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(f16_t x) { return __half2float(x); }
DEVICE float to_float(bf16_t x) { return __bfloat162float(x); }

template <typename T> DEVICE T from_float(float x);
template <> DEVICE float from_float<float>(float x) { return x; }
template <> DEVICE f16_t from_float<f16_t>(float x) { return __float2half_rn(x); }
template <> DEVICE bf16_t from_float<bf16_t>(float x) { return __float2bfloat16_rn(x); }

DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
DEVICE void sync_block() { __syncthreads(); }
DEVICE void sync_warp() { __syncwarp(); }
DEVICE float exp2_fast(float x) { return exp2f(x); }
DEVICE unsigned float_bits(float x) { return __float_as_uint(x); }
DEVICE unsigned atomic_increment(unsigned* at) { return atomicAdd(at, 1u); }
DEVICE void atomic_add(unsigned* at, unsigned by) { atomicAdd(at, by); }

// A fragment's two halves as one register, the first in the low bits.
DEVICE unsigned pack_halves(float low, float high, f16_t) {
    __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<unsigned*>(&pair);
}
DEVICE unsigned pack_halves(float low, float high, bf16_t) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<unsigned*>(&pair);
}

// c += a · b for a tile of 16 x 8 x 16; fragments as the PTX manual lays them out over a warp.
DEVICE void multiply_tile(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, f16_t) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEVICE void multiply_tile(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, bf16_t) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 x 8 matrices of halves from shared memory: lanes 8i to 8i + 7 name the rows of matrix i.
DEVICE void load_matrices(unsigned (&r)[4], const void* row) {
    unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
DEVICE void load_matrices_transposed(unsigned (&r)[4], const void* row) {
    unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

// 16 bytes to shared memory behind the program's back; zeros where there is no source.
DEVICE void copy_async(void* to, const void* from, bool is_there) {
    unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(to));
    int num_bytes = is_there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(num_bytes) : "memory");
}
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> DEVICE void wait_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory"); }
#endif

typedef unsigned int u32;
typedef unsigned long long u64;

// As many elements as one 16-byte access moves.
template <typename T> struct alignas(16) Pack {
    static constexpr int LEN = 16 / sizeof(T);
    T at[LEN];
};

template <typename T> DEVICE Pack<T> load_pack(const T* from) { return *reinterpret_cast<const Pack<T>*>(from); }
template <typename T> DEVICE void store_pack(T* to, const Pack<T>& pack) { *reinterpret_cast<Pack<T>*>(to) = pack; }

DEVICE float larger(float a, float b) { return a > b ? a : b; }

DEVICE float warp_sum(float value) {
    for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
    return value;
}

// The sum over all threads of a block, on every thread. At most 1024 threads, whole warps. May be called again at once.
DEVICE float block_sum(float value) {
    SHARED float sums[32];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, num_warps = blockDim.x / 32;
    value = warp_sum(value);
    sync_block();
    if (lane == 0) sums[warp] = value;
    sync_block();
    return warp_sum(lane < num_warps ? sums[lane] : 0.0f);
}

#define FOR_HALVES(X) X(f16, f16_t) X(bf16, bf16_t)
#define FOR_TYPES(X) X(f32, float) FOR_HALVES(X)
