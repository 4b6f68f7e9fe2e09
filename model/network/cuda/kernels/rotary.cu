// Rotary angles of a batch, and the rotation of queries and keys fused with writing keys and values to their pages.
#include "device.cuh"

// cos and sin [rows, half]. A row's position is divided already; `spans[row]` names its row of frequencies [spans, half].
KERNEL BOUNDS(256)
rotary_angles(const float* positions, const u32* spans, const float* frequencies, float* cosines, float* sines, int half) {
    const float* frequency = frequencies + static_cast<u64>(spans[blockIdx.x]) * half;
    for (int m = threadIdx.x; m < half; m += blockDim.x) {
        float angle = positions[blockIdx.x] * frequency[m];
        cosines[static_cast<u64>(blockIdx.x) * half + m] = cosf(angle);
        sines[static_cast<u64>(blockIdx.x) * half + m] = sinf(angle);
    }
}
EXPORT(rotary_angles)

// A block for a row and a key and value head: turns the group's queries in place, and its key on the way to the pages. Pages here
// are [blocks, heads, 16, head_dim] for keys and [blocks, heads, 16, value_width] for values; slots[row] is 16 * block + place, or
// NO_SLOT for a row that writes nothing.
constexpr u32 NO_SLOT = 0xffffffffu;

template <typename T>
DEVICE void rotate_and_write(T* qkv, const float* cosines, const float* sines, const u32* slots, T* keys, T* values, int num_kv_heads,
                             int group, int head_dim, int value_width) {
    int row = blockIdx.x, head = blockIdx.y, half = head_dim / 2;
    T* heads = qkv + (static_cast<u64>(row) * num_kv_heads + head) * (group + 2) * head_dim;
    u32 block = slots[row] / 16, slot = slots[row] % 16;
    u64 page_row = (static_cast<u64>(block) * num_kv_heads + head) * 16 + slot;
    for (int i = threadIdx.x; i < (group + 1) * half; i += blockDim.x) {
        int which = i / half, m = i % half;
        float cosine = cosines[static_cast<u64>(row) * half + m], sine = sines[static_cast<u64>(row) * half + m];
        T* at = heads + which * head_dim + m;
        float low = to_float(at[0]), high = to_float(at[half]);
        T turned_low = from_float<T>(low * cosine - high * sine), turned_high = from_float<T>(high * cosine + low * sine);
        at[0] = turned_low;
        at[half] = turned_high;
        if (which == group && slots[row] != NO_SLOT) {
            keys[page_row * head_dim + m] = turned_low;
            keys[page_row * head_dim + half + m] = turned_high;
        }
    }
    if (slots[row] == NO_SLOT) return;
    const T* value = heads + (group + 1) * head_dim;
    for (int i = threadIdx.x; i < head_dim; i += blockDim.x) values[page_row * value_width + i] = value[i];
}

// Writes keys and values as they are: for rows that were rotated before.
template <typename T>
DEVICE void write_pages(const T* qkv, const u32* slots, T* keys, T* values, int num_kv_heads, int group, int head_dim, int value_width) {
    int row = blockIdx.x, head = blockIdx.y;
    if (slots[row] == NO_SLOT) return;
    const T* key = qkv + ((static_cast<u64>(row) * num_kv_heads + head) * (group + 2) + group) * head_dim;
    u64 page_row = (static_cast<u64>(slots[row] / 16) * num_kv_heads + head) * 16 + slots[row] % 16;
    for (int i = threadIdx.x; i < head_dim; i += blockDim.x) {
        keys[page_row * head_dim + i] = key[i];
        values[page_row * value_width + i] = key[head_dim + i];
    }
}

template <typename T>
DEVICE void rotate(T* qkv, const float* cosines, const float* sines, int num_kv_heads, int group, int head_dim) {
    int row = blockIdx.x, head = blockIdx.y, half = head_dim / 2;
    T* heads = qkv + (static_cast<u64>(row) * num_kv_heads + head) * (group + 2) * head_dim;
    for (int i = threadIdx.x; i < (group + 1) * half; i += blockDim.x) {
        int m = i % half;
        float cosine = cosines[static_cast<u64>(row) * half + m], sine = sines[static_cast<u64>(row) * half + m];
        T* at = heads + i / half * head_dim + m;
        float low = to_float(at[0]), high = to_float(at[half]);
        at[0] = from_float<T>(low * cosine - high * sine);
        at[half] = from_float<T>(high * cosine + low * sine);
    }
}

#define ROTARY(NAME, T)                                                                                                        \
    KERNEL BOUNDS(256)                                                                                                         \
    rotate_and_write_##NAME(T* qkv, const float* cosines, const float* sines, const u32* slots, T* keys, T* values,            \
                            int num_kv_heads, int group, int head_dim, int value_width) {                                      \
        rotate_and_write<T>(qkv, cosines, sines, slots, keys, values, num_kv_heads, group, head_dim, value_width);             \
    }                                                                                                                          \
    EXPORT(rotate_and_write_##NAME)                                                                                            \
    KERNEL BOUNDS(256)                                                                                                         \
    write_pages_##NAME(const T* qkv, const u32* slots, T* keys, T* values, int num_kv_heads, int group, int head_dim,          \
                       int value_width) {                                                                                      \
        write_pages<T>(qkv, slots, keys, values, num_kv_heads, group, head_dim, value_width);                                  \
    }                                                                                                                          \
    EXPORT(write_pages_##NAME)                                                                                                 \
    KERNEL BOUNDS(256)                                                                                                         \
    rotate_##NAME(T* qkv, const float* cosines, const float* sines, int num_kv_heads, int group, int head_dim) {               \
        rotate<T>(qkv, cosines, sines, num_kv_heads, group, head_dim);                                                         \
    }                                                                                                                          \
    EXPORT(rotate_##NAME)
FOR_TYPES(ROTARY)
