//! CLIP's activation: `x * sigmoid(1.702 x)`.

use crate::{
    device::{CpuDevice, Device},
    ops::{exponential::exp, vectorised::vectorised},
    tensor::{Result, Tensor},
};

/// Applies the activation to every element of x (f32, not shared), in place.
pub fn quick_gelu(x: &mut Tensor) -> Result<()> {
    let device = x.device().clone();
    match device {
        Device::Cpu(device) => on_cpu(&device, x.as_f32_mut()?),
        Device::Cuda(device) => device.quick_gelu(x)?,
    }
    Ok(())
}

/// Elements that one task takes.
const CHUNK: usize = 16 << 10;

fn on_cpu(device: &CpuDevice, x: &mut [f32]) {
    device.parallel_chunks_mut(x, CHUNK, |_, x| {
        vectorised(
            #[inline(always)]
            || x.iter_mut().for_each(|x| *x /= 1.0 + exp(-1.702 * *x)),
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_f64_formula_and_vanishes_far_left() {
        let device = Device::cpu(2);
        let values: Vec<f32> = (-4000..4000).map(|i| i as f32 * 0.05).collect();
        let mut x = Tensor::from_f32(&device, &[values.len()], &values).unwrap();
        quick_gelu(&mut x).unwrap();
        for (value, found) in values.iter().zip(x.as_f32().unwrap()) {
            let value = f64::from(*value);
            let wanted = value / (1.0 + (-1.702 * value).exp());
            assert!(
                (f64::from(*found) - wanted).abs() < 1e-6 * (1.0 + wanted.abs()),
                "{found} against {wanted}"
            );
        }
    }
}
