//! RMS norm, as the language model has it: `x / sqrt(mean(x²) + eps) * weight` by row (spec section 2).

use pulp::Arch;

use crate::{
    device::{CpuDevice, Device},
    ops::elementwise::add_assign,
    tensor::{Result, Tensor, TensorError},
};

/// Norms the rows of x `[.., n]` f32; weight `[n]` f32. Gives a tensor of x's shape.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let n = x.cols();
    if weight.shape() != [n] {
        return Err(TensorError::Shape {
            what: "rms_norm",
            wanted: format!("[{n}] for the weight"),
            found: weight.shape().to_vec(),
        });
    }
    let mut y = Tensor::unwritten(x.device(), x.dtype(), x.shape())?;
    let eps = eps as f32;
    match x.device() {
        Device::Cpu(device) => {
            on_cpu(device, x.as_f32()?, weight.as_f32()?, eps, y.as_f32_mut()?);
        }
        Device::Cuda(device) => device.rms_norm(&mut x.clone(), None, weight, eps, &mut y)?,
    }
    Ok(y)
}

/// `x += delta`, and then the norm of x's rows: both of one shape and type, x not shared. What closes one block and opens the next
/// goes over the rows together where a device gains by that.
pub fn add_rms_norm(x: &mut Tensor, delta: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let device = x.device().clone();
    let Device::Cuda(device) = device else {
        add_assign(x, delta)?;
        return rms_norm(x, weight, eps);
    };
    if delta.shape() != x.shape() || weight.shape() != [x.cols()] {
        return Err(TensorError::Shape {
            what: "add_rms_norm",
            wanted: format!("{:?} and [{}] for the weight", x.shape(), x.cols()),
            found: [delta.shape(), weight.shape()].concat(),
        });
    }
    let mut y = Tensor::unwritten(x.device(), x.dtype(), x.shape())?;
    device.rms_norm(x, Some(delta), weight, eps as f32, &mut y)?;
    Ok(y)
}

/// Elements that one task norms, about: fewer are not worth waking a thread for.
const ELEMENTS: usize = 16 << 10;

fn on_cpu(device: &CpuDevice, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let n = weight.len().max(1);
    let chunk_len = (ELEMENTS / n).max(1) * n;
    device.parallel_chunks_mut(y, chunk_len, |chunk, y| {
        let x = &x[chunk * chunk_len..][..y.len()];
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
                    norm_row(x, weight, eps, y);
                }
            },
        );
    });
}

#[inline(always)]
fn norm_row(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
    for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
        *y = x * scale * weight;
    }
}

/// The sum in lanes that a vector can hold.
#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 32];
    let (blocks, rest) = x.as_chunks::<32>();
    for block in blocks {
        for lane in 0..32 {
            lanes[lane] += block[lane] * block[lane];
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{goldens::Goldens, tensor::DType};

    #[test]
    fn a_normed_row_equals_the_f64_formula() {
        let device = Device::cpu(2);
        for (rows, n) in [(1, 1), (3, 16), (40, 37), (17, 4096)] {
            let x: Vec<f32> = (0..rows * n)
                .map(|i| (i as f32 * 0.7).sin() * 3.0)
                .collect();
            let weight: Vec<f32> = (0..n).map(|i| 1.0 + i as f32 * 0.01).collect();
            let tensor = Tensor::from_f32(&device, &[rows, n], &x).unwrap();
            let y = rms_norm(
                &tensor,
                &Tensor::from_f32(&device, &[n], &weight).unwrap(),
                1e-5,
            );
            for (row, found) in x.chunks(n).zip(y.unwrap().as_f32().unwrap().chunks(n)) {
                let mean: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n as f64;
                for ((x, weight), found) in row.iter().zip(&weight).zip(found) {
                    let wanted = f64::from(*x) / (mean + 1e-5).sqrt() * f64::from(*weight);
                    assert!((f64::from(*found) - wanted).abs() < 1e-5 * (1.0 + wanted.abs()));
                }
            }
        }
    }

    #[test]
    fn the_norm_is_the_reference_s() {
        let Some(goldens) = Goldens::open("units") else {
            return;
        };
        let tensor = |name: &str| {
            let (shape, values) = goldens.f32(name);
            Tensor::from_f32(&Device::cpu(1), &shape, &values).unwrap()
        };
        let eps = goldens.manifest["spec"]["eps"].as_f64().unwrap();
        let y = rms_norm(&tensor("plora.x"), &tensor("norm.weight"), eps).unwrap();
        goldens.assert_close("norm.y", y.as_f32().unwrap());
    }

    #[test]
    fn a_weight_of_another_width_is_an_error() {
        let of = |n: usize| Tensor::zeros(&Device::cpu(1), DType::F32, &[n]);
        assert!(rms_norm(&of(4), &of(3), 1e-5).is_err());
    }
}
