//! Numbers that look normally distributed, each a pure function of the seed, the tensor's name and the position, so
//! that any part of any tensor can be made by any thread and comes out the same.

/// A stream of numbers for one tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NormalStream {
    key: u64,
}

impl NormalStream {
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(name.as_bytes());
        let hash = hasher.finalize();
        let (key, _) = hash
            .as_bytes()
            .split_first_chunk::<8>()
            .expect("the hash has 32 bytes");
        Self {
            key: u64::from_le_bytes(*key),
        }
    }

    /// Fills `block` with numbers `first..` of the stream, of the given mean and deviation.
    ///
    /// A number is the sum of the four 16-bit parts of one 64-bit hash: near enough to a normal distribution for
    /// weights (it ends at 3.46 deviations), and cheap.
    pub(crate) fn fill(self, first: u64, mean: f32, deviation: f32, block: &mut [f32]) {
        // The variance of one part is (2^32 - 1) / 12; four of them have the root of 2^32 / 3 as deviation.
        const DEVIATION_OF_SUM: f32 = 37837.227;
        const MEAN_OF_SUM: f32 = 131_070.0;
        let scale = deviation / DEVIATION_OF_SUM;
        for (index, number) in block.iter_mut().enumerate() {
            let hash = self.hash(first + index as u64);
            let even = (hash & 0x0000_ffff_0000_ffff) + (hash >> 16 & 0x0000_ffff_0000_ffff);
            let sum = ((even >> 32) + (even & 0xffff_ffff)) as u32;
            *number = (sum as f32 - MEAN_OF_SUM) * scale + mean;
        }
    }

    /// The finaliser of SplitMix64 over a Weyl sequence that starts at the key.
    fn hash(self, counter: u64) -> u64 {
        let mut z = self
            .key
            .wrapping_add(counter.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_mean_and_deviation_asked_for() {
        let mut block = vec![0f32; 100_000];
        NormalStream::new(7, "a").fill(0, 1.0, 0.5, &mut block);
        let count = block.len() as f64;
        let mean = block.iter().map(|&number| f64::from(number)).sum::<f64>() / count;
        let variance = block
            .iter()
            .map(|&number| (f64::from(number) - mean).powi(2))
            .sum::<f64>()
            / count;
        assert!((mean - 1.0).abs() < 0.005, "{mean}");
        assert!((variance.sqrt() - 0.5).abs() < 0.005, "{variance}");
    }

    #[test]
    fn numbers_depend_on_position_name_and_seed_only() {
        let stream = NormalStream::new(7, "a");
        let (mut whole, mut part) = ([0f32; 64], [0f32; 16]);
        stream.fill(0, 0.0, 1.0, &mut whole);
        stream.fill(16, 0.0, 1.0, &mut part);
        assert_eq!(part, whole[16..32]);
        for other in [NormalStream::new(8, "a"), NormalStream::new(7, "b")] {
            other.fill(16, 0.0, 1.0, &mut part);
            assert_ne!(part, whole[16..32]);
        }
    }
}
