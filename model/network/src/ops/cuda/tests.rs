//! Every op on every device: the CPU's form, which its own tests hold against the formula, is what the emulated GPU and, where there is
//! one, the real GPU are compared with, in f32 and in both halves. One body for all devices.

mod graphs;

use std::{ops::Range, slice};

use super::gpus;
use crate::{
    device::Device,
    kv_cache::KvPages,
    ops::{
        activation::{gelu_erf, quick_gelu, silu_mul},
        attention::{
            AttentionPlan, SequenceRows, attention, copy_block, rotate_and_write_pages, write_pages,
        },
        best_logits::best_logits,
        elementwise::add_assign,
        embedding::{copy_rows, embed, gather_rows},
        full_attention::full_attention,
        linear::{linear, linear_acc, linear_wide},
        norm::{add_rms_norm, layer_norm, rms_norm},
        patch_embedding::patch_embedding,
        rotary::{QkvLayout, RotaryAngles, RotarySpan},
    },
    tensor::{DType, Tensor},
};

/// A device to check, with the type of its weights and activations.
struct Place {
    name: &'static str,
    device: Device,
    dtype: DType,
}

impl Place {
    fn tensor(&self, shape: &[usize], values: &[f32]) -> Tensor {
        let tensor = Tensor::from_f32(&self.device, shape, values).unwrap();
        tensor
            .to_dtype(self.device.activation_dtype(self.dtype))
            .unwrap()
    }

    fn weight(&self, shape: &[usize], values: &[f32]) -> Tensor {
        let tensor = Tensor::from_f32(&self.device, shape, values).unwrap();
        tensor.to_dtype(self.dtype).unwrap()
    }

    fn parameter(&self, values: &[f32]) -> Tensor {
        Tensor::from_f32(&self.device, &[values.len()], values).unwrap()
    }

    /// `shape` random numbers that the type holds exactly, so that all devices begin with the same.
    fn numbers(&self, seed: usize, count: usize) -> Vec<f32> {
        let values = numbers(seed, count);
        let tensor = Tensor::from_f32(&Device::cpu(1), &[count], &values).unwrap();
        tensor.to_dtype(self.dtype).unwrap().to_f32_vec().unwrap()
    }
}

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

const ALL_TYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// Products that most ops here sum at most.
const SHORT_SUM: usize = 72;

/// Runs `op` on the CPU and on every other device, with each type, and compares: half types are given what they round the result to,
/// `steps` of it, besides what sums in another order differ by.
fn check(steps: f32, op: impl Fn(&Place) -> Vec<f32>) {
    check_types(steps, SHORT_SUM, &ALL_TYPES, op);
}

/// [`check`] for an op whose outputs are sums of `depth` products. One after the other, each addition rounds what has been summed so
/// far, and that strays as √depth times the unit roundoff (Higham and Mary 2019, "A new approach to probabilistic rounding error
/// analysis").
fn check_sums(steps: f32, depth: usize, op: impl Fn(&Place) -> Vec<f32>) {
    check_types(steps, depth.max(SHORT_SUM), &ALL_TYPES, op);
}

fn check_types(steps: f32, depth: usize, dtypes: &[DType], op: impl Fn(&Place) -> Vec<f32>) {
    let order_of_summation = f32::EPSILON / 2.0 * (depth as f32).sqrt();
    for &dtype in dtypes {
        let wanted = op(&Place {
            name: "CPU",
            device: Device::cpu(1),
            dtype,
        });
        let largest = wanted
            .iter()
            .fold(0.0_f32, |largest, x| largest.max(x.abs()));
        let (unit, other_order) = match dtype {
            DType::F32 => (1e-6, order_of_summation),
            DType::F16 => (1.0 / 2048.0, 0.5 / 2048.0),
            DType::BF16 => (1.0 / 256.0, 0.5 / 256.0),
        };
        for (name, device) in gpus() {
            let found = op(&Place {
                name,
                device,
                dtype,
            });
            assert_eq!(found.len(), wanted.len());
            for (index, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                let allowed = unit * steps * wanted.abs() + other_order * largest + 1e-6;
                assert!(
                    (found - wanted).abs() <= allowed,
                    "{name} {dtype:?} at {index}: {found}, the CPU has {wanted}, allowed {allowed}"
                );
            }
        }
    }
}

#[test]
fn elementwise_ops() {
    for count in [1, 7, 4096, 10_001] {
        check(2.0, |place| {
            let (a, b) = (place.numbers(1, count), place.numbers(2, count));
            let mut sum = place.tensor(&[count], &a);
            add_assign(&mut sum, &place.tensor(&[count], &b)).unwrap();
            sum.to_f32_vec().unwrap()
        });
        check(4.0, |place| {
            let (a, b) = (place.numbers(3, count), place.numbers(4, count));
            let mut gate = place.tensor(&[count], &a);
            silu_mul(&mut gate, &place.tensor(&[count], &b)).unwrap();
            let mut x = place.tensor(&[count], &a);
            quick_gelu(&mut x).unwrap();
            let mut y = place.tensor(&[count], &a);
            gelu_erf(&mut y).unwrap();
            [gate, x, y]
                .map(|tensor| tensor.to_f32_vec().unwrap())
                .concat()
        });
    }
}

#[test]
fn norms() {
    for (rows, n) in [(1, 8), (3, 20), (2, 37), (3, 4096)] {
        check(4.0, |place| {
            let (x, delta) = (place.numbers(5, rows * n), place.numbers(6, rows * n));
            let weight = place.parameter(&numbers(7, n));
            let plain = rms_norm(&place.tensor(&[rows, n], &x), &weight, 1e-5).unwrap();
            let mut hidden = place.tensor(&[rows, n], &x);
            let normed = add_rms_norm(
                &mut hidden,
                &place.tensor(&[rows, n], &delta),
                &weight,
                1e-5,
            )
            .unwrap();
            let bias = place.parameter(&numbers(8, n));
            let layer = layer_norm(&place.tensor(&[rows, n], &x), &weight, &bias, 1e-5).unwrap();
            [plain, hidden, normed, layer]
                .map(|tensor| tensor.to_f32_vec().unwrap())
                .concat()
        });
    }
}

#[test]
fn rows_are_gathered_embedded_and_added_back() {
    for n in [8, 36, 5] {
        check(2.0, |place| {
            let table = place.weight(&[11, n], &place.numbers(9, 11 * n));
            let mut y = place.tensor(&[9, n], &vec![0.0; 9 * n]);
            embed(&table, &[10, 0, 3], &mut y, 1).unwrap();
            copy_rows(
                &place.tensor(&[4, n], &place.numbers(10, 4 * n)),
                1..4,
                &mut y,
                5,
            )
            .unwrap();
            let gathered = gather_rows(&y, &vec![1..3, 5..6, 7..8].into()).unwrap();
            let view = gather_rows(&y, &vec![Range { start: 2, end: 6 }].into()).unwrap();
            [y.deep_copy().unwrap(), gathered, view]
                .map(|tensor| tensor.to_f32_vec().unwrap())
                .concat()
        });
    }
}

#[test]
fn linears_of_few_and_many_rows() {
    for (rows, columns, depth) in [
        (1, 40, 64),
        (2, 9, 512),
        (3, 16, 1288),
        (4, 5, 2048),
        (5, 24, 40),
        (70, 33, 72),
    ] {
        check_sums(4.0, depth, |place| {
            let x = place.tensor(&[rows, depth], &place.numbers(11, rows * depth));
            let w = place.weight(&[columns, depth], &place.numbers(12, columns * depth));
            let bias = place.tensor(&[columns], &place.numbers(13, columns));
            let plain = linear(&x, &w, None).unwrap();
            let biased = linear(&x, &w, Some(&bias)).unwrap();
            let wide = linear_wide(&x, &w).unwrap();
            assert_eq!(wide.dtype(), DType::F32, "{}", place.name);
            [plain, biased, wide]
                .map(|tensor| tensor.to_f32_vec().unwrap())
                .concat()
        });
    }
}

#[test]
fn the_best_logits_are_found() {
    for (columns, count) in [(5, 3), (700, 1), (3000, 104), (20_000, 512)] {
        let rows = 3;
        let mut logits: Vec<f32> = numbers(14, rows * columns);
        // Many that tie in the second row; one that is no number in the third.
        logits[columns..2 * columns]
            .iter_mut()
            .for_each(|x| *x = (*x * 40.0).round());
        logits[2 * columns + 1] = f32::INFINITY;
        let tensor = |device: &Device| Tensor::from_f32(device, &[rows, columns], &logits).unwrap();
        let wanted = best_logits(&tensor(&Device::cpu(1)), count).unwrap();
        for (name, device) in gpus() {
            let found = best_logits(&tensor(&device), count).unwrap();
            assert_eq!(found[2].num_not_finite, 1, "{name}");
            for (row, (found, wanted)) in found.iter().zip(&wanted).take(2).enumerate() {
                let logits = &logits[row * columns..][..columns];
                let difference = found.log_sum_exp - wanted.log_sum_exp;
                assert!(difference.abs() < 1e-5, "{name}: {difference}");
                if row == 1 && found.columns.is_empty() {
                    // More tie than there is room for.
                    continue;
                }
                assert!(found.columns.is_sorted() && found.columns.len() >= count.min(columns));
                let least = found.logits.iter().copied().fold(f32::INFINITY, f32::min);
                let reaching = (0..columns).filter(|&column| logits[column] >= least);
                let reaching: Vec<u32> = reaching.map(|column| column as u32).collect();
                assert_eq!(found.columns, reaching, "{name}");
                let theirs = reaching.iter().map(|&column| logits[column as usize]);
                assert!(theirs.eq(found.logits.iter().copied()), "{name}");
            }
            assert!(!found[0].columns.is_empty(), "{name}");
        }
    }
}

#[test]
fn partial_lora_adds_to_its_rows_alone() {
    let cases: [&[Range<usize>]; 4] = [
        slice::from_ref(&(2..9)),
        &[0..1, 4..7],
        &[],
        slice::from_ref(&(0..10)),
    ];
    for rows in cases {
        check(6.0, |place| {
            let num_rows: usize = rows.iter().map(ExactSizeIterator::len).sum();
            let x = place.tensor(&[num_rows, 16], &place.numbers(14, num_rows * 16));
            let w = place.weight(&[24, 16], &place.numbers(15, 24 * 16));
            let mut y = place.tensor(&[10, 24], &place.numbers(16, 240));
            // Again, with what the device keeps of the rows.
            let rows = rows.to_vec().into();
            linear_acc(&x, &w, 2.0, &mut y, &rows).unwrap();
            linear_acc(&x, &w, -0.5, &mut y, &rows).unwrap();
            y.to_f32_vec().unwrap()
        });
    }
}

#[test]
fn patches_get_their_places() {
    check(4.0, |place| {
        let pixels = place.tensor(&[2, 3, 12, 12], &place.numbers(17, 2 * 3 * 144));
        let weight = place.weight(&[8, 48], &place.numbers(18, 8 * 48));
        let positions = Tensor::from_f32(&place.device, &[10, 8], &numbers(20, 80)).unwrap();
        let rows = patch_embedding(
            &pixels,
            &weight,
            &place.parameter(&numbers(19, 8)),
            &positions,
        );
        rows.unwrap().to_f32_vec().unwrap()
    });
}

#[test]
fn squares_attend_to_themselves() {
    for (squares, len, heads, head_dim) in
        [(1, 5, 2, 8), (2, 70, 2, 64), (1, 129, 1, 64), (2, 9, 1, 80)]
    {
        check(4.0, |place| {
            let width = heads * head_dim;
            let qkv = place.numbers(21, squares * len * 3 * width);
            let qkv = place.tensor(&[squares * len, 3 * width], &qkv);
            full_attention(&qkv, len, heads)
                .unwrap()
                .to_f32_vec()
                .unwrap()
        });
    }
}

/// Positions in the cache already, and new rows.
type Sizes = [(usize, usize)];

fn paged(place: &Place, layout: &QkvLayout, sizes: &Sizes) -> Vec<f32> {
    let num_blocks: usize = sizes
        .iter()
        .map(|(start, rows)| (start + rows).div_ceil(16))
        .sum::<usize>()
        + 2;
    // Blocks of a sequence lie apart and in falling order.
    let mut free = (0..num_blocks as u32).rev();
    let tables: Vec<Vec<u32>> = sizes
        .iter()
        .map(|(start, rows)| free.by_ref().take((start + rows).div_ceil(16)).collect())
        .collect();
    let dtype = place.dtype;
    let mut pages = KvPages::new(
        num_blocks,
        layout.num_kv_heads,
        layout.head_dim,
        dtype,
        &place.device,
    );
    let plan = |sizes: &Sizes| {
        let rows: Vec<_> = sizes
            .iter()
            .zip(&tables)
            .filter(|((_, num_rows), _)| *num_rows > 0)
            .map(|(&(start, num_rows), block_table)| SequenceRows {
                start,
                num_rows,
                block_table,
            })
            .collect();
        AttentionPlan::new(&rows, num_blocks).unwrap()
    };
    let qkv = |seed: usize, plan: &AttentionPlan| {
        let count = plan.num_rows() * layout.width();
        place.tensor(
            &[plan.num_rows(), layout.width()],
            &place.numbers(seed, count),
        )
    };
    let before: Vec<_> = sizes.iter().map(|&(start, _)| (0, start)).collect();
    let before = plan(&before);
    if before.num_rows() > 0 {
        write_pages(&qkv(22, &before), layout, &before, &mut pages).unwrap();
    }
    let spans: Vec<_> = sizes
        .iter()
        .map(|&(start, num_rows)| RotarySpan {
            num_rows,
            start,
            base: 1e4 + start as f64,
            divisor: 1.0,
        })
        .collect();
    let now = plan(sizes);
    let mut rows = qkv(23, &now);
    let angles = RotaryAngles::new(&place.device, layout.head_dim, &spans).unwrap();
    rotate_and_write_pages(&mut rows, layout, &angles, &now, &mut pages).unwrap();
    copy_block(&mut pages, tables[0][0], num_blocks as u32 - 1).unwrap();
    let mut out = attention(&rows, layout, &now, &pages)
        .unwrap()
        .to_f32_vec()
        .unwrap();
    out.extend(rows.to_f32_vec().unwrap());
    out
}

#[test]
fn paged_attention_of_prompts_and_single_rows() {
    let layout = |num_kv_heads, group, head_dim| QkvLayout {
        num_kv_heads,
        group,
        head_dim,
    };
    let cases: [(QkvLayout, &Sizes); 6] = [
        (layout(1, 2, 8), &[(0, 5), (17, 1)]),
        (layout(2, 4, 128), &[(0, 67), (63, 1), (64, 1), (200, 9)]),
        (layout(1, 1, 128), &[(15, 1), (16, 1), (300, 1), (1, 130)]),
        (layout(1, 8, 128), &[(700, 1), (3, 20)]),
        (layout(1, 7, 128), &[(33, 1), (5, 19)]),
        (layout(2, 1, 20), &[(15, 2), (0, 33)]),
    ];
    for (layout, sizes) in cases {
        check(6.0, |place| paged(place, &layout, sizes));
    }
}

#[test]
fn what_is_not_ones_own_is_not_written() {
    for (name, device) in gpus() {
        let mut x = Tensor::zeros(&device, DType::F32, &[4, 8]);
        let view = x.narrow_rows(1..2).unwrap();
        let error = quick_gelu(&mut x).unwrap_err();
        assert!(error.to_string().contains("shared"), "{name}: {error}");
        assert!(
            x.as_f32().is_err(),
            "{name}: elements on a GPU are no slice"
        );
        drop(view);
        quick_gelu(&mut x).unwrap();
        x.change_f32(|values| {
            values.fill(3.0);
            Ok::<_, crate::tensor::TensorError>(())
        })
        .unwrap();
        assert_eq!(x.to_host_f32().unwrap().as_f32().unwrap(), [3.0; 32]);
    }
}
