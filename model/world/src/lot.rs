//! Drawing by lot: a counter-based generator, so that the same seed, purpose and index give the same on every machine, and
//! case 400 can be drawn without the 399 before it.

use rand::{Rng, RngCore, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

/// A source of chance.
#[derive(Debug, Clone)]
pub struct Lot(ChaCha8Rng);

impl Lot {
    /// The lot of one case: `purpose` and `index` tell it from others of the same seed.
    pub fn new(seed: u64, purpose: &str, index: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&index.to_le_bytes());
        for (at, byte) in purpose.bytes().enumerate() {
            let held = &mut key[16 + at % 16];
            *held = held.wrapping_mul(31) ^ byte;
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// True with this probability.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.0.random::<f64>() < probability
    }

    /// From 0 to 1.
    pub(crate) fn share(&mut self) -> f64 {
        self.0.random()
    }

    /// Anywhere between two numbers.
    pub(crate) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.share()
    }

    /// Below `end`, which is at least 1.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    /// From `low` to `high`, both among them.
    pub(crate) fn between(&mut self, low: usize, high: usize) -> usize {
        self.0.random_range(low..=high)
    }

    /// One of some, of which there is at least one.
    pub(crate) fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }

    /// One of some wordings.
    pub(crate) fn wording<'a>(&mut self, among: &'a [String]) -> &'a str {
        self.pick::<String>(among)
    }

    /// `count` different ones, in any order.
    pub(crate) fn sample<T: Copy>(&mut self, among: &[T], count: usize) -> Vec<T> {
        among.choose_multiple(&mut self.0, count).copied().collect()
    }

    /// From the normal distribution around 0 with deviation 1.
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.share()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.share()).cos()
    }

    /// A seed for something that is drawn apart.
    pub(crate) fn seed(&mut self) -> u64 {
        self.0.next_u64()
    }
}
