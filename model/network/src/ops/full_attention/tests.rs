use super::full_attention;
use crate::{
    device::Device,
    tensor::{DType, Tensor},
};

fn numbers(count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * i + 7 * i) as f32 * 0.37).sin() * 2.0)
        .collect()
}

/// The definition in f64, one query at a time.
fn reference(
    qkv: &[f32],
    num_squares: usize,
    len: usize,
    num_heads: usize,
    head_dim: usize,
) -> Vec<f64> {
    let width = num_heads * head_dim;
    let at = |row: usize, column: usize| f64::from(qkv[row * 3 * width + column]);
    let mut out = vec![0.0; num_squares * len * width];
    for row in 0..num_squares * len {
        let square = row / len * len;
        for head in 0..num_heads {
            let column = head * head_dim;
            let score = |key: usize| -> f64 {
                let dot: f64 = (0..head_dim)
                    .map(|d| at(row, column + d) * at(square + key, width + column + d))
                    .sum();
                dot / (head_dim as f64).sqrt()
            };
            let weights: Vec<f64> = (0..len).map(|key| score(key).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for d in 0..head_dim {
                let value = |key: usize| at(square + key, 2 * width + column + d);
                out[row * width + column + d] =
                    (0..len).map(|key| weights[key] / sum * value(key)).sum();
            }
        }
    }
    out
}

#[test]
fn every_row_equals_the_definition_however_work_is_cut() {
    for (num_squares, len, num_heads, head_dim) in
        [(1, 1, 1, 1), (2, 5, 3, 7), (1, 300, 2, 16), (3, 130, 2, 64)]
    {
        let width = num_heads * head_dim;
        let values = numbers(num_squares * len * 3 * width);
        let wanted = reference(&values, num_squares, len, num_heads, head_dim);
        for num_threads in [1, 3, 8] {
            let device = Device::cpu(num_threads);
            let qkv = Tensor::from_f32(&device, &[num_squares * len, 3 * width], &values).unwrap();
            let out = full_attention(&qkv, len, num_heads).unwrap();
            let worst = out
                .as_f32()
                .unwrap()
                .iter()
                .zip(&wanted)
                .map(|(f, w)| (f64::from(*f) - w).abs());
            assert!(
                worst.fold(0.0, f64::max) < 2e-5,
                "{num_squares} squares of {len}, {num_threads} threads"
            );
        }
    }
}

#[test]
fn rows_that_do_not_fill_squares_are_an_error() {
    let device = Device::cpu(1);
    let qkv = Tensor::zeros(&device, DType::F32, &[10, 12]);
    assert!(full_attention(&qkv, 4, 2).is_err());
    assert!(full_attention(&qkv, 5, 3).is_err());
    assert!(full_attention(&qkv, 0, 2).is_err());
    assert!(full_attention(&qkv, 5, 2).is_ok());
}
