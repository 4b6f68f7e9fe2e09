//! Paged attention against the plain formula: odd sizes, groups, block tables out of order, every element type and instruction set;
//! and the promise that a row's bits do not depend on its company.

use super::*;
use crate::{device::CpuDevice, kv_cache::KvPages, ops::simd::InstructionSet, tensor::DType};

/// Numbers in -1..1 without structure.
fn numbers(seed: usize, count: usize) -> Vec<f32> {
    let number = |i: usize| {
        let mixed = (i + 1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(seed * 77_777);
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed >> 40) & 0xffff) as f32 / 32_768.0 - 1.0
    };
    (0..count).map(number).collect()
}

/// A sequence: positions in the cache already, new rows, and its blocks.
struct Sequence {
    start: usize,
    num_rows: usize,
    blocks: Vec<u32>,
}

/// Sequences with their blocks taken in turn from a shuffled cache.
fn sequences(sizes: &[(usize, usize)]) -> (Vec<Sequence>, usize) {
    let num_needed: usize = sizes
        .iter()
        .map(|(start, rows)| (start + rows).div_ceil(16))
        .sum();
    let num_blocks = num_needed + 3;
    // Any step without a common divisor visits all blocks.
    let step = (num_blocks / 2 + 1..)
        .find(|step| gcd(*step, num_blocks) == 1)
        .unwrap();
    let mut order = (0..num_blocks).map(|i| (i * step % num_blocks) as u32);
    let sequence = |&(start, num_rows): &(usize, usize)| Sequence {
        start,
        num_rows,
        blocks: order
            .by_ref()
            .take((start + num_rows).div_ceil(16))
            .collect(),
    };
    (sizes.iter().map(sequence).collect(), num_blocks)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn plan(sequences: &[Sequence], num_blocks: usize) -> AttentionPlan {
    let rows: Vec<_> = sequences
        .iter()
        .map(|sequence| SequenceRows {
            start: sequence.start,
            num_rows: sequence.num_rows,
            block_table: &sequence.blocks,
        })
        .collect();
    AttentionPlan::new(&rows, num_blocks).unwrap()
}

/// Queries, keys and values of all positions of a sequence.
fn rows(layout: &QkvLayout, sequence: usize, positions: std::ops::Range<usize>) -> Vec<f32> {
    let width = layout.width();
    let all = numbers(sequence, positions.end * width);
    all[positions.start * width..]
        .iter()
        .map(|x| x * 2.0)
        .collect()
}

fn tensor(device: &Device, layout: &QkvLayout, values: &[f32]) -> Tensor {
    let shape = [values.len() / layout.width(), layout.width()];
    Tensor::from_f32(device, &shape, values).unwrap()
}

/// Pages that hold every position of the sequences before its new rows.
fn filled(
    device: &Device,
    layout: &QkvLayout,
    sequences: &[Sequence],
    num_blocks: usize,
    dtype: DType,
) -> KvPages {
    let mut pages = KvPages::new(
        num_blocks,
        layout.num_kv_heads,
        layout.head_dim,
        dtype,
        device,
    );
    for (index, sequence) in sequences.iter().enumerate().filter(|(_, s)| s.start > 0) {
        let before = [Sequence {
            start: 0,
            num_rows: sequence.start,
            blocks: sequence.blocks.clone(),
        }];
        let qkv = tensor(device, layout, &rows(layout, index, 0..sequence.start));
        write_pages(&qkv, layout, &plan(&before, num_blocks), &mut pages).unwrap();
    }
    pages
}

fn batch_rows(layout: &QkvLayout, sequences: &[Sequence]) -> Vec<f32> {
    let new_rows = |(index, sequence): (usize, &Sequence)| {
        rows(
            layout,
            index,
            sequence.start..sequence.start + sequence.num_rows,
        )
    };
    sequences.iter().enumerate().flat_map(new_rows).collect()
}

/// Runs a batch and returns its output.
fn run(
    device: &Device,
    layout: &QkvLayout,
    sequences: &[Sequence],
    num_blocks: usize,
    dtype: DType,
) -> (Vec<f32>, KvPages) {
    let mut pages = filled(device, layout, sequences, num_blocks, dtype);
    let plan = plan(sequences, num_blocks);
    let qkv = tensor(device, layout, &batch_rows(layout, sequences));
    write_pages(&qkv, layout, &plan, &mut pages).unwrap();
    let out = attention(&qkv, layout, &plan, &pages).unwrap();
    (out.to_f32_vec().unwrap(), pages)
}

fn check(layout: &QkvLayout, sizes: &[(usize, usize)], dtype: DType) {
    let (sequences, num_blocks) = sequences(sizes);
    for set in InstructionSet::all() {
        let device = Device::Cpu(CpuDevice::new(2).with_instruction_set(set));
        let (found, pages) = run(&device, layout, &sequences, num_blocks, dtype);
        let (heads, head_dim) = (layout.num_kv_heads, layout.head_dim);
        let (keys, values) = (
            pages.keys.to_f32_vec().unwrap(),
            pages.values.to_f32_vec().unwrap(),
        );
        let key = |block: u32, head: usize, slot: usize| {
            let start = (block as usize * heads + head) * head_dim * 16 + slot;
            keys[start..]
                .iter()
                .step_by(16)
                .take(head_dim)
                .copied()
                .collect()
        };
        let width = pages.value_width();
        let value = |block: u32, head: usize, slot: usize| {
            values[((block as usize * heads + head) * 16 + slot) * width..][..head_dim].to_vec()
        };
        let plan = plan(&sequences, num_blocks);
        let qkv = batch_rows(layout, &sequences);
        let wanted = reference::attention(&qkv, layout, &plan, key, value);
        assert_eq!(found.len(), wanted.len());
        for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            let difference = (found - wanted).abs();
            assert!(
                difference < 1e-5,
                "{layout:?} {sizes:?} {dtype:?} {set:?} at {i}: {found}, wanted {wanted}"
            );
        }
    }
}

fn layout(num_kv_heads: usize, group: usize, head_dim: usize) -> QkvLayout {
    QkvLayout {
        num_kv_heads,
        group,
        head_dim,
    }
}

#[test]
fn paged_attention_is_the_formula() {
    for (layout, sizes) in [
        (layout(1, 1, 16), &[(0, 1)][..]),
        (layout(2, 2, 8), &[(0, 5), (17, 1), (3, 30)]),
        (layout(1, 4, 128), &[(0, 67), (63, 1), (64, 1), (200, 9)]),
        (layout(3, 1, 20), &[(15, 2), (0, 70), (16, 16)]),
        (layout(2, 7, 64), &[(31, 33), (100, 1)]),
        (layout(1, 16, 80), &[(5, 13), (0, 1)]),
    ] {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            check(&layout, sizes, dtype);
        }
    }
}

#[test]
fn long_contexts_are_merged_from_segments() {
    check(
        &layout(1, 2, 16),
        &[(511, 1), (512, 1), (1300, 1), (505, 20), (1100, 50)],
        DType::F32,
    );
}

#[test]
fn a_row_has_the_same_bits_in_any_company() {
    let layout = layout(2, 2, 32);
    let (all, num_blocks) = sequences(&[(700, 40), (1030, 1), (0, 3)]);
    for dtype in [DType::F32, DType::BF16] {
        let device = Device::cpu(3);
        let (together, _) = run(&device, &layout, &all, num_blocks, dtype);
        let mut alone = Vec::new();
        for (index, sequence) in all.iter().enumerate() {
            // Alone, and each row in a chunk of its own, on one thread.
            let device = Device::cpu(1);
            let mut pages = filled(&device, &layout, &all, num_blocks, dtype);
            for position in sequence.start..sequence.start + sequence.num_rows {
                let rows = rows(&layout, index, position..position + 1);
                let row = [Sequence {
                    start: position,
                    num_rows: 1,
                    blocks: sequence.blocks.clone(),
                }];
                let plan = plan(&row, num_blocks);
                let qkv = tensor(&device, &layout, &rows);
                write_pages(&qkv, &layout, &plan, &mut pages).unwrap();
                let out = attention(&qkv, &layout, &plan, &pages).unwrap();
                alone.extend(out.to_f32_vec().unwrap());
            }
        }
        assert!(together == alone, "{dtype:?}");
    }
}

#[test]
fn what_was_left_in_a_block_is_not_seen() {
    let layout = layout(1, 2, 16);
    let device = Device::cpu(1);
    let (sequences, num_blocks) = sequences(&[(0, 19)]);
    let (wanted, _) = run(&device, &layout, &sequences, num_blocks, DType::F32);
    let mut pages = KvPages::new(num_blocks, 1, 16, DType::F32, &device);
    pages.keys.as_f32_mut().unwrap().fill(f32::NAN);
    pages.values.as_f32_mut().unwrap().fill(f32::NAN);
    let plan = plan(&sequences, num_blocks);
    let qkv = tensor(&device, &layout, &batch_rows(&layout, &sequences));
    write_pages(&qkv, &layout, &plan, &mut pages).unwrap();
    // The padding of values belongs to no head dimension.
    let found = attention(&qkv, &layout, &plan, &pages).unwrap();
    assert!(found.as_f32().unwrap() == wanted);
}

#[test]
fn nan_reaches_the_rows_that_see_it() {
    let layout = layout(1, 1, 16);
    let device = Device::cpu(1);
    let (sequences, num_blocks) = sequences(&[(0, 40)]);
    let plan = plan(&sequences, num_blocks);
    for column in [16, 32] {
        let mut values = batch_rows(&layout, &sequences);
        values[20 * layout.width() + column] = f32::NAN;
        let qkv = tensor(&device, &layout, &values);
        let mut pages = KvPages::new(num_blocks, 1, 16, DType::F32, &device);
        write_pages(&qkv, &layout, &plan, &mut pages).unwrap();
        let out = attention(&qkv, &layout, &plan, &pages).unwrap();
        for (row, out) in out
            .as_f32()
            .unwrap()
            .chunks(16)
            .enumerate()
            .filter(|(row, _)| *row > 19)
        {
            assert!(out.iter().any(|x| x.is_nan()), "row {row}, column {column}");
        }
    }
}

#[test]
fn batches_that_do_not_fit_the_cache_are_refused() {
    let new = |rows: &[(usize, usize, &[u32])]| {
        let rows: Vec<_> = rows
            .iter()
            .map(|&(start, num_rows, block_table)| SequenceRows {
                start,
                num_rows,
                block_table,
            })
            .collect();
        AttentionPlan::new(&rows, 8).map(drop)
    };
    let few = PlanError::TooFewBlocks {
        sequence: 1,
        end: 17,
        num_blocks: 1,
    };
    assert_eq!(new(&[(0, 1, &[1]), (16, 1, &[2])]), Err(few));
    let beyond = PlanError::NoSuchBlock {
        sequence: 0,
        block: 8,
        num_blocks: 8,
    };
    assert_eq!(new(&[(0, 20, &[3, 8])]), Err(beyond));
    assert_eq!(
        new(&[(0, 20, &[3, 4]), (17, 1, &[5, 4])]),
        Err(PlanError::WrittenTwice { block: 4 })
    );
    // Shared blocks may be read.
    assert_eq!(new(&[(16, 1, &[3, 4]), (16, 1, &[3, 5])]), Ok(()));
}
