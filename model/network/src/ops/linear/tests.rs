//! The linear layers against plain f64 sums.

use super::{linear, linear_acc};
use crate::{
    device::Device,
    tensor::{DType, Tensor, TensorError},
};

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

#[test]
fn product_equals_the_f64_sum_for_every_type_and_odd_shapes() {
    for num_threads in [1, 2] {
        let device = Device::cpu(num_threads);
        for (m, k, n) in [
            (0, 3, 2),
            (1, 1, 1),
            (1, 33, 70),
            (3, 100, 17),
            (5, 64, 1),
            (33, 47, 65),
        ] {
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let x = Tensor::from_f32(&device, &[m, k], &numbers(1, m * k)).unwrap();
                let w = Tensor::from_f32(&device, &[n, k], &numbers(2, n * k))
                    .unwrap()
                    .to_dtype(dtype)
                    .unwrap();
                let bias = Tensor::from_f32(&device, &[n], &numbers(3, n)).unwrap();
                let mut wanted = reference(x.as_f32().unwrap(), &w.to_f32_vec().unwrap(), k, n, m);
                let case = format!("[{m}, {k}] x [{n}, {k}] {dtype:?}");
                assert_close(
                    linear(&x, &w, None).unwrap().as_f32().unwrap(),
                    &wanted,
                    k,
                    &case,
                );
                let bias_values = bias.as_f32().unwrap();
                wanted
                    .iter_mut()
                    .enumerate()
                    .for_each(|(i, wanted)| *wanted += f64::from(bias_values[i % n]));
                assert_close(
                    linear(&x, &w, Some(&bias)).unwrap().as_f32().unwrap(),
                    &wanted,
                    k,
                    &case,
                );
            }
        }
    }
}

#[test]
fn accumulating_form_adds_to_the_named_rows_only() {
    let device = Device::cpu(2);
    let (k, n, scale) = (40, 19, 1.5);
    let x = Tensor::from_f32(&device, &[3, k], &numbers(1, 3 * k)).unwrap();
    let w = Tensor::from_f32(&device, &[n, k], &numbers(2, n * k)).unwrap();
    let before = numbers(3, 6 * n);
    let mut y = Tensor::from_f32(&device, &[6, n], &before).unwrap();
    linear_acc(&x, &w, scale, &mut y, &[1..2, 3..5]).unwrap();
    let product = reference(x.as_f32().unwrap(), w.as_f32().unwrap(), k, n, 3);
    let mut wanted: Vec<f64> = before.iter().map(|&value| f64::from(value)).collect();
    for (given, row) in [1, 3, 4].into_iter().enumerate() {
        for col in 0..n {
            wanted[row * n + col] += f64::from(scale) * product[given * n + col];
        }
    }
    assert_close(y.as_f32().unwrap(), &wanted, k, "accumulate");
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
    let acc = |y: &mut Tensor, rows| linear_acc(&x, &w, 1.0, y, rows);
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
