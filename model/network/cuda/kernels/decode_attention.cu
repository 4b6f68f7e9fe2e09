// Attention of single new rows over pages: a sequence's keys are split among blocks of threads, each of which serves all query heads
// that share a key and value head, so that every key and value is read from memory once. Partial results are merged by a second
// kernel. Bound by memory: a warp keeps the loads of 16 keys and 16 values in flight.
#include "device.cuh"

constexpr int HEAD_DIM = 128;
constexpr int WARPS = 4;
// Floats of a partial result: the weighted sum, then the largest score (base 2), then the sum of weights.
constexpr int PARTIAL = HEAD_DIM + 2;

// items: (row, first entry in tables, number of keys, 0); without keys the result is zero. Grid: items, key and value heads, splits, of
// which a short sequence leaves some idle.
template <typename T, int GROUP>
DEVICE void decode_attention(const T* qkv, const T* keys, const T* values, const u32* tables, const u32* items, T* out, float* partials,
                             int num_kv_heads, int num_splits, int least_blocks, float scale) {
    SHARED float maxima[WARPS][GROUP];
    SHARED float totals[WARPS][GROUP];
    SHARED float sums[WARPS][GROUP][HEAD_DIM];

    const u32* item = items + blockIdx.x * 4;
    int row = item[0], num_keys = item[2], head = blockIdx.y, split = blockIdx.z;
    const u32* table = tables + item[1];
    int num_blocks = (num_keys + 15) / 16, per_split = (num_blocks + num_splits - 1) / num_splits;
    per_split = per_split > least_blocks ? per_split : least_blocks;
    int first = split * per_split, end = first + per_split < num_blocks ? first + per_split : num_blocks;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // Half a warp spans a row of 128: lanes 0 to 15 take the even keys of a block, the others the odd ones.
    int odd = lane / 16, dim = lane % 16 * 8;

    float query[GROUP][8];
    const T* queries = qkv + (static_cast<u64>(row) * num_kv_heads + head) * (GROUP + 2) * HEAD_DIM + dim;
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
        Pack<T> pack = load_pack(queries + g * HEAD_DIM);
#pragma unroll
        for (int j = 0; j < 8; j++) query[g][j] = to_float(pack.at[j]) * scale;
    }
    float largest[GROUP], total[GROUP], sum[GROUP][8];
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
        largest[g] = -INFINITY;
        total[g] = 0.0f;
#pragma unroll
        for (int j = 0; j < 8; j++) sum[g][j] = 0.0f;
    }

    for (int block = first + warp; block < end; block += WARPS) {
        u64 start = (static_cast<u64>(table[block]) * num_kv_heads + head) * 16 * HEAD_DIM + odd * HEAD_DIM + dim;
        Pack<T> key[8], value[8];
#pragma unroll
        for (int i = 0; i < 8; i++) key[i] = load_pack(keys + start + i * 2 * HEAD_DIM);
#pragma unroll
        for (int i = 0; i < 8; i++) value[i] = load_pack(values + start + i * 2 * HEAD_DIM);
        float score[GROUP][8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float wide[8];
#pragma unroll
            for (int j = 0; j < 8; j++) wide[j] = to_float(key[i].at[j]);
#pragma unroll
            for (int g = 0; g < GROUP; g++) {
                float product = 0.0f;
#pragma unroll
                for (int j = 0; j < 8; j++) product += query[g][j] * wide[j];
#pragma unroll
                for (int mask = 8; mask > 0; mask /= 2) product += shuffle_xor(product, mask);
                score[g][i] = product;
            }
        }
        // What the last block holds past the sequence's end counts for nothing, whatever it is.
        int num_left = num_keys - block * 16;
        float correction[GROUP];
#pragma unroll
        for (int g = 0; g < GROUP; g++) {
            float now = largest[g];
#pragma unroll
            for (int i = 0; i < 8; i++) {
                if (2 * i + odd >= num_left) score[g][i] = -INFINITY;
                now = larger(score[g][i], now);
            }
            now = larger(now, shuffle_xor(now, 16));
            correction[g] = exp2_fast(largest[g] - now);
            largest[g] = now;
            total[g] *= correction[g];
#pragma unroll
            for (int j = 0; j < 8; j++) sum[g][j] *= correction[g];
        }
#pragma unroll
        for (int i = 0; i < 8; i++) {
            bool is_there = 2 * i + odd < num_left;
            float wide[8];
#pragma unroll
            for (int j = 0; j < 8; j++) wide[j] = is_there ? to_float(value[i].at[j]) : 0.0f;
#pragma unroll
            for (int g = 0; g < GROUP; g++) {
                float weight = exp2_fast(score[g][i] - largest[g]);
                total[g] += weight;
#pragma unroll
                for (int j = 0; j < 8; j++) sum[g][j] += weight * wide[j];
            }
        }
    }

#pragma unroll
    for (int g = 0; g < GROUP; g++) {
        total[g] += shuffle_xor(total[g], 16);
#pragma unroll
        for (int j = 0; j < 8; j++) sum[g][j] += shuffle_xor(sum[g][j], 16);
        if (odd == 0) {
#pragma unroll
            for (int j = 0; j < 8; j++) sums[warp][g][dim + j] = sum[g][j];
        }
        if (lane == 0) {
            maxima[warp][g] = largest[g];
            totals[warp][g] = total[g];
        }
    }
    sync_block();
    // A thread a dimension.
    for (int g = 0; g < GROUP; g++) {
        float most = -INFINITY, weights = 0.0f, result = 0.0f;
        for (int w = 0; w < WARPS; w++) most = larger(maxima[w][g], most);
        for (int w = 0; w < WARPS; w++) {
            // A warp without a block of its own has nothing to add; its maximum is no number to subtract from.
            float factor = totals[w][g] == 0.0f ? 0.0f : exp2_fast(maxima[w][g] - most);
            weights += factor * totals[w][g];
            result += factor * sums[w][g][threadIdx.x];
        }
        u64 query_head = static_cast<u64>(head) * GROUP + g;
        if (num_splits == 1) {
            out[(static_cast<u64>(row) * num_kv_heads * GROUP + query_head) * HEAD_DIM + threadIdx.x] =
                from_float<T>(weights == 0.0f ? 0.0f : result / weights);
            continue;
        }
        float* partial = partials + ((static_cast<u64>(blockIdx.x) * num_kv_heads * GROUP + query_head) * num_splits + split) * PARTIAL;
        partial[threadIdx.x] = result;
        if (threadIdx.x == 0) {
            partial[HEAD_DIM] = most;
            partial[HEAD_DIM + 1] = weights;
        }
    }
}

// Merges the splits of one query head of one item. Grid: items, query heads; a thread a dimension.
template <typename T> DEVICE void merge_splits(const float* partials, const u32* items, T* out, int num_splits) {
    const float* mine = partials + (static_cast<u64>(blockIdx.x) * gridDim.y + blockIdx.y) * num_splits * PARTIAL;
    float most = -INFINITY, weights = 0.0f, result = 0.0f;
    for (int s = 0; s < num_splits; s++) most = larger(mine[s * PARTIAL + HEAD_DIM], most);
    for (int s = 0; s < num_splits; s++) {
        float split_weights = mine[s * PARTIAL + HEAD_DIM + 1];
        float factor = split_weights == 0.0f ? 0.0f : exp2_fast(mine[s * PARTIAL + HEAD_DIM] - most);
        weights += factor * split_weights;
        result += factor * mine[s * PARTIAL + threadIdx.x];
    }
    u64 row = items[blockIdx.x * 4];
    out[(row * gridDim.y + blockIdx.y) * HEAD_DIM + threadIdx.x] = from_float<T>(weights == 0.0f ? 0.0f : result / weights);
}

#define DECODE(NAME, T, GROUP)                                                                                                 \
    KERNEL BOUNDS(128)                                                                                                         \
    decode_attention_##GROUP##_##NAME(const T* qkv, const T* keys, const T* values, const u32* tables, const u32* items,       \
                                      T* out, float* partials, int num_kv_heads, int num_splits, int least_blocks, float scale) {    \
        decode_attention<T, GROUP>(qkv, keys, values, tables, items, out, partials, num_kv_heads, num_splits, least_blocks,    \
                                   scale);                                                                                     \
    }                                                                                                                          \
    EXPORT(decode_attention_##GROUP##_##NAME)
#define DECODES(NAME, T)                                                                                                       \
    DECODE(NAME, T, 1)                                                                                                         \
    DECODE(NAME, T, 2)                                                                                                         \
    DECODE(NAME, T, 4)                                                                                                         \
    DECODE(NAME, T, 8)                                                                                                         \
    KERNEL BOUNDS(128) merge_splits_##NAME(const float* partials, const u32* items, T* out, int num_splits) {                  \
        merge_splits<T>(partials, items, out, num_splits);                                                                     \
    }                                                                                                                          \
    EXPORT(merge_splits_##NAME)
FOR_HALVES(DECODES)
