// Element by element: adding, the gates and activations, and changing types.
#include "device.cuh"

// Calls `visit(i)` for every element of `count`, strided over the whole grid. Kernels below take whole packs where they can.
template <typename F> DEVICE void for_elements(u64 count, F visit) {
    u64 step = static_cast<u64>(gridDim.x) * blockDim.x;
    for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) visit(i);
}

// y[i] = f(y[i], x[i]), in packs and then one by one; storage starts at a multiple of 16 bytes or the caller says it does not.
template <typename T, typename F> DEVICE void combine(T* y, const T* x, u64 count, F f) {
    bool is_aligned = (reinterpret_cast<u64>(y) | reinterpret_cast<u64>(x)) % 16 == 0;
    u64 num_packs = is_aligned ? count / Pack<T>::LEN : 0;
    for_elements(num_packs, [&](u64 i) {
        Pack<T> a = load_pack(y + i * Pack<T>::LEN), b = load_pack(x + i * Pack<T>::LEN);
        for (int j = 0; j < Pack<T>::LEN; j++) a.at[j] = from_float<T>(f(to_float(a.at[j]), to_float(b.at[j])));
        store_pack(y + i * Pack<T>::LEN, a);
    });
    u64 first = num_packs * Pack<T>::LEN;
    for_elements(count - first, [&](u64 i) { y[first + i] = from_float<T>(f(to_float(y[first + i]), to_float(x[first + i]))); });
}

DEVICE float silu(float x) { return x / (1.0f + expf(-x)); }

#define ELEMENTWISE(NAME, T)                                                                                                   \
    KERNEL BOUNDS(256) add_##NAME(T* y, const T* x, u64 count) {                                                               \
        combine<T>(y, x, count, [](float a, float b) { return a + b; });                                                       \
    }                                                                                                                          \
    EXPORT(add_##NAME)                                                                                                         \
    KERNEL BOUNDS(256) silu_mul_##NAME(T* gate, const T* up, u64 count) {                                                      \
        combine<T>(gate, up, count, [](float a, float b) { return silu(a) * b; });                                             \
    }                                                                                                                          \
    EXPORT(silu_mul_##NAME)                                                                                                    \
    KERNEL BOUNDS(256) quick_gelu_##NAME(T* x, u64 count) {                                                                    \
        combine<T>(x, x, count, [](float a, float) { return a / (1.0f + expf(-1.702f * a)); });                                \
    }                                                                                                                          \
    EXPORT(quick_gelu_##NAME)                                                                                                  \
    KERNEL BOUNDS(256) gelu_erf_##NAME(T* x, u64 count) {                                                                      \
        combine<T>(x, x, count, [](float a, float) { return 0.5f * a * (1.0f + erff(a * 0.70710678f)); });                     \
    }                                                                                                                          \
    EXPORT(gelu_erf_##NAME)                                                                                                    \
    KERNEL BOUNDS(256) widen_##NAME(const T* x, float* y, u64 count) {                                                         \
        for_elements(count, [&](u64 i) { y[i] = to_float(x[i]); });                                                            \
    }                                                                                                                          \
    EXPORT(widen_##NAME)                                                                                                       \
    KERNEL BOUNDS(256) narrow_##NAME(const float* x, T* y, u64 count) {                                                        \
        for_elements(count, [&](u64 i) { y[i] = from_float<T>(x[i]); });                                                       \
    }                                                                                                                          \
    EXPORT(narrow_##NAME)
FOR_TYPES(ELEMENTWISE)
