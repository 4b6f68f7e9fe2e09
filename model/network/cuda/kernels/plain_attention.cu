// Attention for any type and any width of heads up to 256, a warp for a row and query head: what small models, f32 and unusual shapes
// take, and what the fast kernels are compared with on the device itself.
#include "device.cuh"

constexpr int WIDEST = 256;

// One warp: `key(i)` and `value(i)` give rows of head_dim elements.
template <typename T, typename Key, typename Value>
DEVICE void attend(const T* query, int num_keys, int head_dim, float scale, Key key, Value value, T* out) {
    int lane = threadIdx.x;
    float q[WIDEST / 32], sum[WIDEST / 32];
    for (int j = 0; j < WIDEST / 32; j++) {
        int dim = lane + 32 * j;
        q[j] = dim < head_dim ? to_float(query[dim]) * scale : 0.0f;
        sum[j] = 0.0f;
    }
    float largest = -INFINITY, total = 0.0f;
    for (int i = 0; i < num_keys; i++) {
        const T *k = key(i), *v = value(i);
        float score = 0.0f;
        for (int j = 0; j < WIDEST / 32; j++) {
            int dim = lane + 32 * j;
            if (dim < head_dim) score += q[j] * to_float(k[dim]);
        }
        score = warp_sum(score);
        float now = larger(score, largest), correction = exp2_fast(largest - now), weight = exp2_fast(score - now);
        largest = now;
        total = total * correction + weight;
        for (int j = 0; j < WIDEST / 32; j++) {
            int dim = lane + 32 * j;
            if (dim < head_dim) sum[j] = sum[j] * correction + weight * to_float(v[dim]);
        }
    }
    for (int j = 0; j < WIDEST / 32; j++) {
        int dim = lane + 32 * j;
        if (dim < head_dim) out[dim] = from_float<T>(sum[j] / total);
    }
}

// rows: (position, first entry in tables) of every row. Grid: rows, query heads.
template <typename T>
DEVICE void paged(const T* qkv, const T* keys, const T* values, const u32* tables, const u32* rows, T* out, int num_kv_heads, int group,
                  int head_dim, int value_width, float scale) {
    int row = blockIdx.x, head = blockIdx.y, kv_head = head / group;
    const u32* table = tables + rows[row * 2 + 1];
    auto page_row = [&](int i) { return (static_cast<u64>(table[i / 16]) * num_kv_heads + kv_head) * 16 + i % 16; };
    attend<T>(
        qkv + ((static_cast<u64>(row) * num_kv_heads + kv_head) * (group + 2) + head % group) * head_dim, rows[row * 2] + 1, head_dim,
        scale, [&](int i) { return keys + page_row(i) * head_dim; }, [&](int i) { return values + page_row(i) * value_width; },
        out + (static_cast<u64>(row) * num_kv_heads * group + head) * head_dim);
}

// Grid: rows, heads.
template <typename T> DEVICE void square(const T* qkv, T* out, int len, int num_heads, int head_dim, float scale) {
    int row = blockIdx.x, head = blockIdx.y, first = row / len * len;
    auto part = [&](int at, int which) { return qkv + ((static_cast<u64>(at) * 3 + which) * num_heads + head) * head_dim; };
    attend<T>(
        part(row, 0), len, head_dim, scale, [&](int i) { return part(first + i, 1); }, [&](int i) { return part(first + i, 2); },
        out + (static_cast<u64>(row) * num_heads + head) * head_dim);
}

#define PLAIN(NAME, T)                                                                                                         \
    KERNEL BOUNDS(32)                                                                                                          \
    plain_attention_##NAME(const T* qkv, const T* keys, const T* values, const u32* tables, const u32* rows, T* out,           \
                           int num_kv_heads, int group, int head_dim, int value_width, float scale) {                          \
        paged<T>(qkv, keys, values, tables, rows, out, num_kv_heads, group, head_dim, value_width, scale);                     \
    }                                                                                                                          \
    EXPORT(plain_attention_##NAME)                                                                                             \
    KERNEL BOUNDS(32)                                                                                                          \
    plain_square_attention_##NAME(const T* qkv, T* out, int len, int num_heads, int head_dim, float scale) {                   \
        square<T>(qkv, out, len, num_heads, head_dim, scale);                                                                  \
    }                                                                                                                          \
    EXPORT(plain_square_attention_##NAME)
FOR_TYPES(PLAIN)
