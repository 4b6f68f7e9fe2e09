//! Layer norm with bias, as the vision tower has it: `(x - mean) / sqrt(variance + eps) * weight + bias` by row.

use crate::{
    device::{CpuDevice, Device},
    ops::vectorised::vectorised,
    tensor::{Result, Tensor, TensorError},
};

/// Norms the rows of x `[.., n]` f32; weight and bias `[n]` f32. Gives a tensor of x's shape.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let n = x.cols();
    for (parameter, wanted) in [(weight, "[n] for the weight"), (bias, "[n] for the bias")] {
        if parameter.shape() != [n] {
            return Err(TensorError::Shape {
                what: "layer_norm",
                wanted: format!("{wanted}, n = {n}"),
                found: parameter.shape().to_vec(),
            });
        }
    }
    let mut y = Tensor::unwritten(x.device(), x.dtype(), x.shape())?;
    match x.device() {
        Device::Cpu(device) => on_cpu(
            device,
            x.as_f32()?,
            weight.as_f32()?,
            bias.as_f32()?,
            eps as f32,
            y.as_f32_mut()?,
        ),
        Device::Cuda(device) => device.layer_norm(x, weight, bias, eps as f32, &mut y)?,
    }
    Ok(y)
}

/// Rows that one task norms.
const ROWS: usize = 16;

fn on_cpu(device: &CpuDevice, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
    let n = weight.len().max(1);
    device.parallel_chunks_mut(y, ROWS * n, |chunk, y| {
        let x = &x[chunk * ROWS * n..][..y.len()];
        vectorised(
            #[inline(always)]
            || {
                for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
                    norm_row(x, weight, bias, eps, y);
                }
            },
        );
    });
}

#[inline(always)]
fn norm_row(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
    let n = x.len() as f32;
    let mean = sum(
        x,
        #[inline(always)]
        |x| x,
    ) / n;
    let variance = sum(
        x,
        #[inline(always)]
        |x| (x - mean) * (x - mean),
    ) / n;
    let scale = 1.0 / (variance + eps).sqrt();
    for (((y, x), weight), bias) in y.iter_mut().zip(x).zip(weight).zip(bias) {
        *y = ((x - mean) * scale).mul_add(*weight, *bias);
    }
}

/// The sum of `f` over a row, in lanes that a vector can hold.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let (blocks, rest) = x.as_chunks::<16>();
    for block in blocks {
        for lane in 0..16 {
            lanes[lane] += f(block[lane]);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|x| f(*x)).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn a_normed_row_equals_the_f64_formula() {
        let device = Device::cpu(2);
        for (rows, n) in [(1, 1), (3, 16), (40, 37), (17, 1024)] {
            let x: Vec<f32> = (0..rows * n)
                .map(|i| (i as f32 * 0.7).sin() * 3.0 + 5.0)
                .collect();
            let weight: Vec<f32> = (0..n).map(|i| 1.0 + i as f32 * 0.01).collect();
            let bias: Vec<f32> = (0..n).map(|i| i as f32 * -0.02).collect();
            let tensor =
                |shape: &[usize], values: &[f32]| Tensor::from_f32(&device, shape, values).unwrap();
            let y = layer_norm(
                &tensor(&[rows, n], &x),
                &tensor(&[n], &weight),
                &tensor(&[n], &bias),
                1e-5,
            )
            .unwrap();
            for (row, found) in x.chunks(n).zip(y.as_f32().unwrap().chunks(n)) {
                let row: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
                let mean = row.iter().sum::<f64>() / n as f64;
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
                for (i, found) in found.iter().enumerate() {
                    let normed = (row[i] - mean) / (variance + 1e-5).sqrt();
                    let wanted = normed * f64::from(weight[i]) + f64::from(bias[i]);
                    assert!(
                        (f64::from(*found) - wanted).abs() < 2e-5 * (1.0 + wanted.abs()),
                        "{found} against {wanted}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_weight_of_another_width_is_an_error() {
        let device = Device::cpu(1);
        let of = |n: usize| Tensor::zeros(&device, DType::F32, &[n]);
        let error = layer_norm(&of(4), &of(3), &of(4), 1e-5).unwrap_err();
        assert!(error.to_string().contains("weight"), "{error}");
    }
}
