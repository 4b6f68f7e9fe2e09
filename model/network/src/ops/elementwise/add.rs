//! Adding one tensor to another of the same shape: the residual stream.

use crate::{
    device::{CpuDevice, Device},
    tensor::{Result, Tensor, TensorError},
};

/// `y += x`: both f32 and of one shape, y not shared.
pub fn add_assign(y: &mut Tensor, x: &Tensor) -> Result<()> {
    if x.shape() != y.shape() {
        return Err(TensorError::Shape {
            what: "add_assign",
            wanted: format!("{:?}", y.shape()),
            found: x.shape().to_vec(),
        });
    }
    let device = y.device().clone();
    match device {
        Device::Cpu(device) => on_cpu(&device, y.as_f32_mut()?, x.as_f32()?),
        Device::Cuda(device) => device.add(y, x)?,
    }
    Ok(())
}

/// Elements that one task takes.
const CHUNK: usize = 16 << 10;

fn on_cpu(device: &CpuDevice, y: &mut [f32], x: &[f32]) {
    device.parallel_chunks_mut(y, CHUNK, |chunk, y| {
        y.iter_mut()
            .zip(&x[chunk * CHUNK..])
            .for_each(|(y, x)| *y += x);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_element_by_element_and_refuses_another_shape() {
        let device = Device::cpu(2);
        let values: Vec<f32> = (0..40_000).map(|i| i as f32).collect();
        let x = Tensor::from_f32(&device, &[200, 200], &values).unwrap();
        let mut y = x.deep_copy().unwrap();
        add_assign(&mut y, &x).unwrap();
        assert!(
            y.as_f32()
                .unwrap()
                .iter()
                .zip(&values)
                .all(|(y, x)| *y == 2.0 * x)
        );
        assert!(add_assign(&mut y, &x.reshape(&[40_000]).unwrap()).is_err());
    }
}
