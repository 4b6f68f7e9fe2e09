// Moving rows: embeddings of tokens, rows gathered and added back by index, and the vision tower's patches.
#include "device.cuh"

// y[i] = x[index[i]], a block a row.
template <typename T> DEVICE void gather(const T* x, const u32* index, T* y, int n) {
    const T* from = x + static_cast<u64>(index[blockIdx.x]) * n;
    T* to = y + static_cast<u64>(blockIdx.x) * n;
    if (n % Pack<T>::LEN == 0) {
        for (int i = threadIdx.x * Pack<T>::LEN; i < n; i += blockDim.x * Pack<T>::LEN) store_pack(to + i, load_pack(from + i));
        return;
    }
    for (int i = threadIdx.x; i < n; i += blockDim.x) to[i] = from[i];
}

// y[index[i]] += scale * x[i]; no index comes twice.
template <typename T> DEVICE void scatter_add(const T* x, const u32* index, T* y, int n, float scale) {
    const T* from = x + static_cast<u64>(blockIdx.x) * n;
    T* to = y + static_cast<u64>(index[blockIdx.x]) * n;
    for (int i = threadIdx.x; i < n; i += blockDim.x) to[i] = from_float<T>(to_float(to[i]) + scale * to_float(from[i]));
}

// pixels [squares, 3, side, side] to patches [squares * (side / patch)², 3 * patch * patch], columns by channel, row and column.
template <typename T> DEVICE void unfold(const T* pixels, T* patches, int side, int patch) {
    int per_side = side / patch, per_square = per_side * per_side, width = 3 * patch * patch;
    int square = blockIdx.x / per_square, place = blockIdx.x % per_square;
    int top = place / per_side * patch, left = place % per_side * patch;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        int channel = i / (patch * patch), y = i / patch % patch, x = i % patch;
        u64 from = ((static_cast<u64>(square) * 3 + channel) * side + top + y) * side + left + x;
        patches[static_cast<u64>(blockIdx.x) * width + i] = pixels[from];
    }
}

// rows [squares * (1 + patches), n]: the class row, then the embedded patches, each with its place's row added.
template <typename T>
DEVICE void place(const T* embedded, const float* class_row, const float* positions, T* rows, int per_square, int n) {
    int square = blockIdx.x / (1 + per_square), at = blockIdx.x % (1 + per_square);
    const T* patch = embedded + (static_cast<u64>(square) * per_square + at - 1) * n;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        float value = at == 0 ? class_row[i] : to_float(patch[i]);
        rows[static_cast<u64>(blockIdx.x) * n + i] = from_float<T>(value + positions[static_cast<u64>(at) * n + i]);
    }
}

#define ROWS(NAME, T)                                                                                                          \
    KERNEL BOUNDS(256) gather_##NAME(const T* x, const u32* index, T* y, int n) { gather<T>(x, index, y, n); }                 \
    EXPORT(gather_##NAME)                                                                                                      \
    KERNEL BOUNDS(256) scatter_add_##NAME(const T* x, const u32* index, T* y, int n, float scale) {                            \
        scatter_add<T>(x, index, y, n, scale);                                                                                 \
    }                                                                                                                          \
    EXPORT(scatter_add_##NAME)                                                                                                 \
    KERNEL BOUNDS(256) unfold_##NAME(const T* pixels, T* patches, int side, int patch) {                                       \
        unfold<T>(pixels, patches, side, patch);                                                                               \
    }                                                                                                                          \
    EXPORT(unfold_##NAME)                                                                                                      \
    KERNEL BOUNDS(256)                                                                                                         \
    place_##NAME(const T* embedded, const float* class_row, const float* positions, T* rows, int per_square, int n) {          \
        place<T>(embedded, class_row, positions, rows, per_square, n);                                                         \
    }                                                                                                                          \
    EXPORT(place_##NAME)
FOR_TYPES(ROWS)
