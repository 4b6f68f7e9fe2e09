//! Random numbers that depend on the seed, the branch and the token's index alone: a sequence that moves to another group, is
//! recomputed after a preemption or runs in another batch draws the same numbers as if it had stayed.

use rand_chacha::{
    ChaCha12Rng,
    rand_core::{RngCore, SeedableRng},
};

/// The number in `[0, 1)` for token `token_index` of answer `branch` of the request with this seed. Seed and branch are the key of
/// the cipher and the index its stream, so that numbers of neighbours have nothing in common.
pub fn uniform(seed: u64, branch: u64, token_index: u64) -> f64 {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&branch.to_le_bytes());
    let mut rng = ChaCha12Rng::from_seed(key);
    rng.set_stream(token_index);
    // The 53 highest bits fill a double's precision.
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The token in which `point` in `[0, 1)` falls when the probabilities are laid end to end. `None` only for no tokens.
pub(super) fn token_at(probabilities: &[(u32, f64)], point: f64) -> Option<u32> {
    let mut end = 0.0;
    let holds_point = |&&(_, p): &&(u32, f64)| {
        end += p;
        point < end
    };
    // Rounding can leave the sum a little below the point; then it is the last token that can be drawn at all.
    let last = || probabilities.iter().rfind(|&&(_, p)| p > 0.0);
    let token = probabilities.iter().find(holds_point).or_else(last)?;
    Some(token.0)
}
