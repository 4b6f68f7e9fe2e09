// What sampling needs of a row of logits: how many are no numbers, the largest, the sum of exponentials, and all logits from a bound on
// that at least `count` reach. Ties and the exact choice are the host's: it sees a superset of the best, as a rule little larger.
#include "device.cuh"

constexpr int THREADS = 1024;

// A number whose order among unsigned integers is that of the float.
DEVICE u32 ordered(float x) {
    u32 bits = float_bits(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// stats [rows, 4]: number of logits that are not finite, number of candidates found, the largest logit and the sum of exp(logit -
// largest), the last two as bits. found [rows, capacity, 2]: column and bits of the logit, in no order; `number found` may exceed it.
KERNEL BOUNDS(THREADS) candidates(const float* logits, u32* stats, u32* found, int columns, int count, int capacity) {
    SHARED u32 histogram[256];
    SHARED u32 num_bad, num_found, prefix, wanted;
    SHARED float maxima[32];
    const float* row = logits + static_cast<u64>(blockIdx.x) * columns;
    u32* mine = found + static_cast<u64>(blockIdx.x) * capacity * 2;
    if (threadIdx.x == 0) {
        num_bad = 0;
        num_found = 0;
        prefix = 0;
        wanted = count;
    }
    sync_block();
    float most = -INFINITY;
    u32 bad = 0;
    for (int i = threadIdx.x; i < columns; i += THREADS) {
        float x = row[i];
        // Differences of what is not finite are no numbers, and no number equals itself then.
        if (!(x - x == 0.0f)) bad++;
        else most = larger(x, most);
    }
    if (bad) atomic_add(&num_bad, bad);
    // At least `count` logits reach the count-th largest of the threads' maxima. Found digit by digit, from the highest.
    u32 mine_ordered = ordered(most);
    for (int shift = 24; shift >= 0; shift -= 8) {
        if (threadIdx.x < 256) histogram[threadIdx.x] = 0;
        sync_block();
        if (shift == 24 || mine_ordered >> (shift + 8) == prefix >> (shift + 8)) atomic_increment(&histogram[mine_ordered >> shift & 255]);
        sync_block();
        if (threadIdx.x == 0) {
            int digit = 255;
            while (digit > 0 && histogram[digit] < wanted) wanted -= histogram[digit--];
            prefix |= static_cast<u32>(digit) << shift;
        }
        sync_block();
    }
    u32 bound = prefix;
    float largest = most;
    for (int mask = 16; mask > 0; mask /= 2) largest = larger(largest, shuffle_xor(largest, mask));
    if (threadIdx.x % 32 == 0) maxima[threadIdx.x / 32] = largest;
    sync_block();
    for (int w = 0; w < 32; w++) largest = larger(largest, maxima[w]);
    float sum = 0.0f;
    for (int i = threadIdx.x; i < columns; i += THREADS) {
        float x = row[i];
        sum += expf(x - largest);
        if (x - x == 0.0f && ordered(x) >= bound) {
            u32 place = atomic_increment(&num_found);
            if (place < static_cast<u32>(capacity)) {
                mine[place * 2] = i;
                mine[place * 2 + 1] = float_bits(x);
            }
        }
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        stats[blockIdx.x * 4] = num_bad;
        stats[blockIdx.x * 4 + 1] = num_found;
        stats[blockIdx.x * 4 + 2] = float_bits(largest);
        stats[blockIdx.x * 4 + 3] = float_bits(sum);
    }
}
EXPORT(candidates)
