//! The linear layers against plain f64 sums: one body for every instruction set that the machine has, every weight type,
//! and shapes with odd ends.

use std::ops::Range;

use proptest::prelude::*;

use super::{linear, linear_acc};
use crate::{
    device::{CpuDevice, Device},
    ops::rows::RowRanges,
    ops::simd::InstructionSet,
    tensor::{DType, Tensor, TensorError},
};

const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// A device for each instruction set.
fn devices(num_threads: usize) -> impl Iterator<Item = Device> {
    let device = CpuDevice::new(num_threads);
    InstructionSet::all().map(move |set| Device::Cpu(device.with_instruction_set(set)))
}

fn describe(device: &Device) -> String {
    let Device::Cpu(cpu) = device else {
        return format!("{device:?}");
    };
    format!(
        "{:?} with {} threads",
        cpu.instruction_set(),
        cpu.num_threads()
    )
}

/// Numbers in -1..1 that look random and are the same in every run.
pub(super) fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn reference(x: &[f32], w: &[f32], k: usize, n: usize, m: usize) -> Vec<f64> {
    let dot = |row: usize, col: usize| -> f64 {
        let (x, w) = (&x[row * k..][..k], &w[col * k..][..k]);
        x.iter()
            .zip(w)
            .map(|(&x, &w)| f64::from(x) * f64::from(w))
            .sum()
    };
    (0..m * n).map(|i| dot(i / n, i % n)).collect()
}

fn assert_close(found: &[f32], wanted: &[f64], k: usize, case: &str) {
    assert_eq!(found.len(), wanted.len(), "{case}");
    // Products of numbers below 1 add up to about sqrt(k); f32 sums of k terms lose a few units of their last place.
    let tolerance = 1e-6 * (k as f64).sqrt().max(1.0) * 4.0;
    for (index, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        assert!(
            (f64::from(*found) - wanted).abs() <= tolerance,
            "{case}: [{index}] {found} against {wanted}"
        );
    }
}

fn tensor(device: &Device, shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_f32(device, shape, &numbers(seed, shape.iter().product())).unwrap()
}

/// Compares both forms with f64 sums, for one shape.
fn check(device: &Device, m: usize, k: usize, n: usize, dtype: DType) {
    let case = format!("[{m}, {k}] x [{n}, {k}] {dtype:?} {}", describe(device));
    let x = tensor(device, &[m, k], 1);
    let w = tensor(device, &[n, k], 2).to_dtype(dtype).unwrap();
    let bias = tensor(device, &[n], 3);
    let product = reference(x.as_f32().unwrap(), &w.to_f32_vec().unwrap(), k, n, m);
    assert_close(
        linear(&x, &w, None).unwrap().as_f32().unwrap(),
        &product,
        k,
        &case,
    );

    let bias_values = bias.as_f32().unwrap();
    let wanted: Vec<f64> = product
        .iter()
        .enumerate()
        .map(|(i, y)| y + f64::from(bias_values[i % n]))
        .collect();
    assert_close(
        linear(&x, &w, Some(&bias)).unwrap().as_f32().unwrap(),
        &wanted,
        k,
        &case,
    );

    // Rows 1, 3, 4, 6, 7, ...: ranges of one and of two rows with gaps.
    let rows: Vec<usize> = (0..m).map(|given| 1 + given + given.div_ceil(2)).collect();
    let ranges: Vec<_> = rows.iter().map(|&row| row..row + 1).collect();
    let mut y = tensor(device, &[2 * m + 2, n], 4);
    let mut wanted: Vec<f64> = y
        .as_f32()
        .unwrap()
        .iter()
        .map(|&value| f64::from(value))
        .collect();
    linear_acc(&x, &w, 1.5, &mut y, &ranges.into()).unwrap();
    for (given, row) in rows.into_iter().enumerate() {
        (0..n).for_each(|col| wanted[row * n + col] += 1.5 * product[given * n + col]);
    }
    assert_close(
        y.as_f32().unwrap(),
        &wanted,
        k,
        &format!("{case}, accumulated"),
    );
}

#[test]
fn product_equals_the_f64_sum_for_odd_shapes() {
    for device in devices(2) {
        for dtype in DTYPES {
            for m in 0..=33 {
                check(&device, m, 75, 37, dtype);
            }
            for (m, k, n) in [
                (1, 1, 1),
                (2, 3, 1),
                (1, 300, 530),
                (7, 1000, 33),
                (40, 513, 290),
                (530, 31, 40),
            ] {
                check(&device, m, k, n, dtype);
            }
        }
    }
}

#[test]
fn product_without_depth_is_the_bias() {
    for device in devices(1) {
        for m in [1, 5, 20] {
            check(&device, m, 0, 19, DType::BF16);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn product_equals_the_f64_sum_for_any_shape(m in 0usize..70, k in 1usize..700, n in 1usize..150, dtype in 0usize..3) {
        for device in devices(2) {
            check(&device, m, k, n, DTYPES[dtype]);
        }
    }
}

#[test]
fn number_of_threads_does_not_change_a_bit() {
    for dtype in DTYPES {
        for m in [1, 3, 16, 40] {
            let product = |device: &Device| {
                let (x, w) = (
                    tensor(device, &[m, 600], 1),
                    tensor(device, &[700, 600], 2).to_dtype(dtype).unwrap(),
                );
                linear(&x, &w, None).unwrap().to_f32_vec().unwrap()
            };
            for (one, three) in devices(1).zip(devices(3)) {
                assert!(
                    product(&one) == product(&three),
                    "{m} rows of {dtype:?}, {}",
                    describe(&one)
                );
            }
        }
    }
}

/// The bits of `linear` with a bias and of `linear_acc`, for these rows of x, row after row.
fn bits(x: &Tensor, rows: Range<usize>, w: &Tensor, bias: &Tensor) -> [Vec<u32>; 2] {
    let x = x.narrow_rows(rows.clone()).unwrap();
    let product = linear(&x, w, Some(bias)).unwrap();
    let mut sum = tensor(x.device(), &[rows.len(), w.rows()], 4);
    sum.as_f32_mut().unwrap().fill(0.3);
    let mut all = RowRanges::default();
    all.push(0..rows.len());
    linear_acc(&x, w, 1.5, &mut sum, &all).unwrap();
    [product, sum].map(|y| {
        let values = y.to_f32_vec().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    })
}

#[test]
fn company_of_other_rows_does_not_change_a_bit() {
    // Alone, and in companies of every size, whatever kernels these go to.
    const MOST: usize = 64;
    for device in devices(2) {
        for dtype in DTYPES {
            for (k, n) in [(75, 37), (300, 70), (1030, 16), (64, 1)] {
                let (x, bias) = (tensor(&device, &[MOST, k], 1), tensor(&device, &[n], 3));
                let w = tensor(&device, &[n, k], 2).to_dtype(dtype).unwrap();
                let alone: Vec<_> = (0..MOST)
                    .map(|row| bits(&x, row..row + 1, &w, &bias))
                    .collect();
                for count in 2..=MOST {
                    let rows = MOST - count..MOST;
                    let together = bits(&x, rows.clone(), &w, &bias);
                    for (at, row) in rows.enumerate() {
                        for (together, alone) in together.iter().zip(&alone[row]) {
                            assert!(
                                together[at * n..][..n] == alone[..],
                                "[{count}, {k}] x [{n}, {k}] {dtype:?}, row {row}, {}",
                                describe(&device)
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn activations_keep_all_their_bits() {
    // The weights pick out single activations, whose product must be exact whatever pieces they are multiplied in.
    for device in devices(1) {
        let values: Vec<f32> = numbers(5, 32 * 32)
            .iter()
            .map(|value| value * 1.0e3 + 1.0e-3)
            .collect();
        let x = Tensor::from_f32(&device, &[32, 32], &values).unwrap();
        let unit: Vec<f32> = (0..32 * 32)
            .map(|i| if i / 32 == i % 32 { 1.0 } else { 0.0 })
            .collect();
        let w = Tensor::from_f32(&device, &[32, 32], &unit)
            .unwrap()
            .to_dtype(DType::BF16)
            .unwrap();
        for m in [1, 2, 32] {
            let found = linear(&x.narrow_rows(0..m).unwrap(), &w, None).unwrap();
            assert_eq!(
                found.as_f32().unwrap(),
                &values[..m * 32],
                "{}",
                describe(&device)
            );
        }
    }
}

#[test]
fn infinity_and_nan_stay_in_their_row() {
    for device in devices(1) {
        for m in [3, 20] {
            let mut values = vec![1.0; m * 40];
            values[5] = f32::INFINITY;
            values[40 + 7] = f32::from_bits(0x7f80_0001);
            let x = Tensor::from_f32(&device, &[m, 40], &values).unwrap();
            let w = Tensor::from_f32(&device, &[3, 40], &[1.0; 120])
                .unwrap()
                .to_dtype(DType::BF16)
                .unwrap();
            let y = linear(&x, &w, None).unwrap().to_f32_vec().unwrap();
            assert!(
                y[..3].iter().all(|&y| y == f32::INFINITY),
                "{:?} {}",
                &y[..3],
                describe(&device)
            );
            assert!(
                y[3..6].iter().all(|y| y.is_nan()) && y[6..].iter().all(|&y| y == 40.0),
                "{}",
                describe(&device)
            );
        }
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let device = Device::cpu(1);
    let zeros = |shape: &[usize]| Tensor::zeros(&device, DType::F32, shape);
    assert!(matches!(
        linear(&zeros(&[2, 3]), &zeros(&[4, 5]), None),
        Err(TensorError::Shape { .. })
    ));
    assert!(matches!(
        linear(&zeros(&[2, 3]), &zeros(&[4, 3]), Some(&zeros(&[3]))),
        Err(TensorError::Shape { .. })
    ));
    let (x, w) = (zeros(&[2, 3]), zeros(&[4, 3]));
    let acc =
        |y: &mut Tensor, rows: &[Range<usize>]| linear_acc(&x, &w, 1.0, y, &rows.to_vec().into());
    assert!(matches!(
        acc(&mut zeros(&[5, 4]), &[0..1, 3..6]),
        Err(TensorError::Rows { num_rows: 5, .. })
    ));
    assert!(matches!(
        acc(&mut zeros(&[5, 4]), &[2..3, 1..2]),
        Err(TensorError::Rows { .. })
    ));
    assert!(matches!(
        acc(&mut zeros(&[5, 4]), std::slice::from_ref(&(0..3))),
        Err(TensorError::Unsupported { .. })
    ));
}
