// x · wᵀ for one to four rows of x: bound by reading the weights, each of which is read once. A warp makes one column of the result.
#include "device.cuh"

constexpr int WARPS = 8;

template <typename T> DEVICE void put(T* at, float value) { *at = from_float<T>(value); }

// x [ROWS, depth], w [columns, depth], y [ROWS, columns]; depth is a multiple of 8.
template <typename T, typename Out, int ROWS> DEVICE void few_rows(const T* x, const T* w, Out* y, int columns, int depth) {
    constexpr int LEN = Pack<T>::LEN;
    constexpr int AHEAD = 4;
    int column = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (column >= columns) return;
    const T* weights = w + static_cast<u64>(column) * depth;
    float sum[ROWS];
    for (int r = 0; r < ROWS; r++) sum[r] = 0.0f;
    for (int first = lane * LEN; first < depth; first += 32 * LEN * AHEAD) {
        Pack<T> weight[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; a++)
            if (first + a * 32 * LEN < depth) weight[a] = load_pack(weights + first + a * 32 * LEN);
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            if (first + a * 32 * LEN >= depth) break;
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                Pack<T> input = load_pack(x + static_cast<u64>(r) * depth + first + a * 32 * LEN);
#pragma unroll
                for (int j = 0; j < LEN; j++) sum[r] += to_float(weight[a].at[j]) * to_float(input.at[j]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float total = warp_sum(sum[r]);
        if (lane == 0) put(y + static_cast<u64>(r) * columns + column, total);
    }
}

#define FEW(NAME, T, ROWS)                                                                                                     \
    KERNEL BOUNDS(256) few_rows_##ROWS##_##NAME(const T* x, const T* w, T* y, int columns, int depth) {                        \
        few_rows<T, T, ROWS>(x, w, y, columns, depth);                                                                         \
    }                                                                                                                          \
    EXPORT(few_rows_##ROWS##_##NAME)                                                                                           \
    KERNEL BOUNDS(256) few_rows_wide_##ROWS##_##NAME(const T* x, const T* w, float* y, int columns, int depth) {               \
        few_rows<T, float, ROWS>(x, w, y, columns, depth);                                                                     \
    }                                                                                                                          \
    EXPORT(few_rows_wide_##ROWS##_##NAME)
#define FEWS(NAME, T) FEW(NAME, T, 1) FEW(NAME, T, 2) FEW(NAME, T, 3) FEW(NAME, T, 4)
FOR_HALVES(FEWS)
