//! The gate of the language model's feed-forward block: `silu(gate) * up`, with `silu(x) = x * sigmoid(x)`.

use pulp::Arch;

use crate::{
    device::{CpuDevice, Device},
    ops::exponential::exp,
    tensor::{Result, Tensor, TensorError},
};

/// `gate = silu(gate) * up`, element by element: both f32 and of one shape, gate not shared.
pub fn silu_mul(gate: &mut Tensor, up: &Tensor) -> Result<()> {
    if gate.shape() != up.shape() {
        return Err(TensorError::Shape {
            what: "silu_mul",
            wanted: format!("{:?}", gate.shape()),
            found: up.shape().to_vec(),
        });
    }
    let device = gate.device().clone();
    match device {
        Device::Cpu(device) => on_cpu(&device, gate.as_f32_mut()?, up.as_f32()?),
        Device::Cuda(device) => device.silu_mul(gate, up)?,
    }
    Ok(())
}

/// Elements that one task takes.
const CHUNK: usize = 16 << 10;

fn on_cpu(device: &CpuDevice, gate: &mut [f32], up: &[f32]) {
    device.parallel_chunks_mut(gate, CHUNK, |chunk, gate| {
        let up = &up[chunk * CHUNK..][..gate.len()];
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for (gate, up) in gate.iter_mut().zip(up) {
                    *gate = *gate / (1.0 + exp(-*gate)) * up;
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goldens::Goldens;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_f32(&Device::cpu(2), &[values.len()], values).unwrap()
    }

    #[test]
    fn equals_the_f64_formula() {
        let values: Vec<f32> = (-20_000..20_000).map(|i| i as f32 * 0.01).collect();
        let up: Vec<f32> = (0..values.len()).map(|i| (i % 7) as f32 - 3.0).collect();
        let mut gate = tensor(&values);
        silu_mul(&mut gate, &tensor(&up)).unwrap();
        for ((x, up), found) in values.iter().zip(&up).zip(gate.as_f32().unwrap()) {
            let x = f64::from(*x);
            let wanted = x / (1.0 + (-x).exp()) * f64::from(*up);
            assert!(
                (f64::from(*found) - wanted).abs() < 1e-6 * (1.0 + wanted.abs()),
                "at {x}"
            );
        }
    }

    #[test]
    fn silu_is_the_reference_s() {
        let Some(goldens) = Goldens::open("units") else {
            return;
        };
        let (_, x) = goldens.f32("act.x");
        let mut gate = tensor(&x);
        silu_mul(&mut gate, &tensor(&vec![1.0; x.len()])).unwrap();
        goldens.assert_close("act.silu", gate.as_f32().unwrap());
    }

    #[test]
    fn nan_stays_nan() {
        let mut gate = tensor(&[f32::NAN, 1.0]);
        silu_mul(&mut gate, &tensor(&[1.0, f32::NAN])).unwrap();
        assert!(gate.as_f32().unwrap().iter().all(|x| x.is_nan()));
    }
}
