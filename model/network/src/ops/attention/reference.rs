//! Attention as the formula has it, in f64 and without any cache layout but the block table: what the fast forms are held against.

use super::AttentionPlan;
use crate::ops::rotary::QkvLayout;

/// `keys(block, head, slot)` and `values` give rows of `head_dim` elements of the cache.
pub(super) fn attention(
    qkv: &[f32],
    layout: &QkvLayout,
    plan: &AttentionPlan,
    keys: impl Fn(u32, usize, usize) -> Vec<f32>,
    values: impl Fn(u32, usize, usize) -> Vec<f32>,
) -> Vec<f32> {
    let head_dim = layout.head_dim;
    let mut out = Vec::new();
    for sequence in &plan.sequences {
        for row in sequence.rows.clone() {
            let position = sequence.start + row - sequence.rows.start;
            for head in 0..layout.num_kv_heads * layout.group {
                let kv_head = head / layout.group;
                let column = kv_head * layout.group_width() + head % layout.group * head_dim;
                let query = &qkv[row * layout.width() + column..][..head_dim];
                let place = |key: usize| (sequence.blocks[key / 16], kv_head, key % 16);
                let scores: Vec<f64> = (0..=position)
                    .map(place)
                    .map(|(block, head, slot)| {
                        dot(query, &keys(block, head, slot)) / (head_dim as f64).sqrt()
                    })
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let mut result = vec![0.0; head_dim];
                for (key, weight) in weights.iter().enumerate() {
                    let (block, head, slot) = place(key);
                    for (result, value) in result.iter_mut().zip(values(block, head, slot)) {
                        *result += weight / sum * f64::from(value);
                    }
                }
                out.extend(result.into_iter().map(|x| x as f32));
            }
        }
    }
    out
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}
