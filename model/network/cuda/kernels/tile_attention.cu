// Attention of many rows on tensor cores, with a running softmax: prefill over pages, causal behind a cached prefix, and the vision
// tower's squares, where all rows see each other. A tile holds 64 queries. Query heads that share a key and value head are queries of
// one tile, so that its keys and values are loaded once for all of them.
#include "device.cuh"

constexpr int QUERIES = 64;
constexpr int KEYS = 64;
constexpr int THREADS = 128;

// Where queries, keys and values lie.
template <typename T> struct Paged {
    const T *qkv, *keys, *values;
    const u32* table;
    int num_kv_heads, head, group, head_dim;
    DEVICE const T* query(int row, int g) const {
        return qkv + ((static_cast<u64>(row) * num_kv_heads + head) * (group + 2) + g) * head_dim;
    }
    DEVICE u64 page_row(int key) const { return (static_cast<u64>(table[key / 16]) * num_kv_heads + head) * 16 + key % 16; }
    DEVICE const T* key(int at) const { return keys + page_row(at) * head_dim; }
    DEVICE const T* value(int at) const { return values + page_row(at) * head_dim; }
};
template <typename T> struct Square {
    const T* qkv;
    int first_row, num_heads, head, head_dim;
    DEVICE const T* part(int row, int which) const {
        return qkv + ((static_cast<u64>(row) * 3 + which) * num_heads + head) * head_dim;
    }
    DEVICE const T* query(int row, int) const { return part(row, 0); }
    DEVICE const T* key(int at) const { return part(first_row + at, 1); }
    DEVICE const T* value(int at) const { return part(first_row + at, 2); }
};

// Rows of a tile in shared memory lie in 16-byte chunks, each row's in an order of its own, so that eight rows that are read
// together lie in different banks.
template <int D> DEVICE int place(int row, int chunk) { return row * D + (chunk ^ (row & 7)) * 8; }

template <typename T, int D, typename Source>
DEVICE void load_keys(const Source& from, int first_key, int num_keys, T* keys, T* values) {
    constexpr int CHUNKS = D / 8;
    for (int i = threadIdx.x; i < KEYS * CHUNKS; i += THREADS) {
        int row = i / CHUNKS, chunk = i % CHUNKS;
        bool is_there = first_key + row < num_keys;
        int key = is_there ? first_key + row : 0;
        copy_async(keys + place<D>(row, chunk), from.key(key) + chunk * 8, is_there);
        copy_async(values + place<D>(row, chunk), from.value(key) + chunk * 8, is_there);
    }
}

// Queries are `num_rows` rows from `first_row` on with `group` heads each, query i being head i % group of row i / group. Row r sees the
// keys up to `first_limit + r` where it is causal, else all. out is [rows, heads, D]; `first_head` is the tile's first.
template <typename T, int D, bool IS_CAUSAL, typename Source>
DEVICE void attend_tile(const Source& from, int first_row, int num_rows, int group, int first_limit, int num_keys, T* out, int num_heads,
                        int first_head, float scale) {
    DYNAMIC_SHARED(memory);
    T* tiles = reinterpret_cast<T*>(memory);
    // Two stages, each with keys and then values.
    auto keys = [&](int stage) { return tiles + stage * 2 * KEYS * D; };
    auto values = [&](int stage) { return tiles + (stage * 2 + 1) * KEYS * D; };
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    // A lane holds two queries of its warp's sixteen.
    int row[2], head[2], limit[2];
    bool is_there[2];
    unsigned query[D / 16][4];
    for (int i = 0; i < 2; i++) {
        int at = warp * 16 + lane / 4 + i * 8;
        is_there[i] = at < num_rows * group;
        row[i] = is_there[i] ? at / group : 0;
        head[i] = is_there[i] ? at % group : 0;
        // Every query sees the first key at least, so that each maximum below is a number.
        limit[i] = IS_CAUSAL ? first_limit + row[i] : num_keys - 1;
        const T* q = from.query(first_row + row[i], head[i]) + lane % 4 * 2;
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            query[k][i] = *reinterpret_cast<const unsigned*>(q + k * 16);
            query[k][i + 2] = *reinterpret_cast<const unsigned*>(q + k * 16 + 8);
        }
    }
    float sum[D / 8][4];
    float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
#pragma unroll
    for (int n = 0; n < D / 8; n++)
        for (int j = 0; j < 4; j++) sum[n][j] = 0.0f;

    int num_tiles = (num_keys + KEYS - 1) / KEYS;
    load_keys<T, D>(from, 0, num_keys, keys(0), values(0));
    commit_copies();
    for (int tile = 0; tile < num_tiles; tile++) {
        int stage = tile % 2;
        if (tile + 1 < num_tiles) {
            load_keys<T, D>(from, (tile + 1) * KEYS, num_keys, keys(1 - stage), values(1 - stage));
            commit_copies();
            wait_copies<1>();
        } else {
            wait_copies<0>();
        }
        sync_block();

        float score[KEYS / 8][4];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
            for (int j = 0; j < 4; j++) score[n][j] = 0.0f;
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
#pragma unroll
            for (int pair = 0; pair < KEYS / 16; pair++) {
                unsigned b[4];
                load_matrices(b, keys(stage) + place<D>(pair * 16 + lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2));
                multiply_tile(score[2 * pair], query[k], b[0], b[1], T());
                multiply_tile(score[2 * pair + 1], query[k], b[2], b[3], T());
            }
        }
        int last_key = tile * KEYS + KEYS - 1;
        if (last_key > (IS_CAUSAL ? first_limit : num_keys - 1)) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
                for (int j = 0; j < 4; j++)
                    if (tile * KEYS + n * 8 + lane % 4 * 2 + j % 2 > limit[j / 2]) score[n][j] = -INFINITY;
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float now = -INFINITY;
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) now = larger(score[n][2 * i], larger(score[n][2 * i + 1], now));
            now = larger(now, shuffle_xor(now, 1));
            now = larger(now, shuffle_xor(now, 2));
            now = larger(largest[i], now * scale);
            float correction = exp2_fast(largest[i] - now);
            largest[i] = now;
            total[i] *= correction;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                sum[n][2 * i] *= correction;
                sum[n][2 * i + 1] *= correction;
            }
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
                for (int j = 2 * i; j < 2 * i + 2; j++) {
                    score[n][j] = exp2_fast(score[n][j] * scale - now);
                    total[i] += score[n][j];
                }
            }
        }
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) {
            // What came out as two tiles of scores goes in as one tile of weights: their layouts agree.
            unsigned weights[4] = {
                pack_halves(score[2 * k][0], score[2 * k][1], T()), pack_halves(score[2 * k][2], score[2 * k][3], T()),
                pack_halves(score[2 * k + 1][0], score[2 * k + 1][1], T()), pack_halves(score[2 * k + 1][2], score[2 * k + 1][3], T())};
#pragma unroll
            for (int pair = 0; pair < D / 16; pair++) {
                unsigned b[4];
                load_matrices_transposed(b, values(stage) + place<D>(k * 16 + lane / 8 % 2 * 8 + lane % 8, pair * 2 + lane / 16));
                multiply_tile(sum[2 * pair], weights, b[0], b[1], T());
                multiply_tile(sum[2 * pair + 1], weights, b[2], b[3], T());
            }
        }
        // The tile after the next one overwrites what this one read.
        sync_block();
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        total[i] += shuffle_xor(total[i], 1);
        total[i] += shuffle_xor(total[i], 2);
        if (!is_there[i]) continue;
        T* to = out + (static_cast<u64>(first_row + row[i]) * num_heads + first_head + head[i]) * D + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            *reinterpret_cast<unsigned*>(to + n * 8) = pack_halves(sum[n][2 * i] / total[i], sum[n][2 * i + 1] / total[i], T());
    }
}

// tiles: (first row, number of rows, position of the first, first entry in tables). Grid: tiles, key and value heads.
#define PREFILL(NAME, T)                                                                                                       \
    KERNEL BOUNDS(THREADS)                                                                                                     \
    prefill_attention_##NAME(const T* qkv, const T* keys, const T* values, const u32* tables, const u32* tiles, T* out,        \
                             int num_kv_heads, int group, float scale) {                                                      \
        const u32* tile = tiles + blockIdx.x * 4;                                                                              \
        int head = blockIdx.y, first_row = tile[0], num_rows = tile[1], start = tile[2];                                       \
        Paged<T> from = {qkv, keys, values, tables + tile[3], num_kv_heads, head, group, 128};                                 \
        attend_tile<T, 128, true>(from, first_row, num_rows, group, start, start + num_rows, out, num_kv_heads * group,        \
                                  head * group, scale);                                                                        \
    }                                                                                                                          \
    EXPORT(prefill_attention_##NAME)                                                                                           \
    KERNEL BOUNDS(THREADS) square_attention_##NAME(const T* qkv, T* out, int len, int num_heads, float scale) {                \
        int head = blockIdx.y, first_row = blockIdx.z * len, first = blockIdx.x * QUERIES;                                     \
        int num_rows = len - first < QUERIES ? len - first : QUERIES;                                                          \
        Square<T> from = {qkv, first_row, num_heads, head, 64};                                                                \
        attend_tile<T, 64, false>(from, first_row + first, num_rows, 1, 0, len, out, num_heads, head, scale);                  \
    }                                                                                                                          \
    EXPORT(square_attention_##NAME)
FOR_HALVES(PREFILL)
