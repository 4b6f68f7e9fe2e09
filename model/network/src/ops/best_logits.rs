//! The best of each row of logits, so that a host which draws from them need not fetch all: a row of the 7B's vocabulary has 370 kB.

use crate::{
    device::Device,
    tensor::{DType, Result, Tensor, TensorError},
};

/// What is known of a row of logits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BestLogits {
    /// How many are NaN or infinite. Where any is, nothing else holds.
    pub num_not_finite: usize,
    /// Logarithm of the sum of the exponentials of all.
    pub log_sum_exp: f32,
    /// The columns of all logits from some bound on, rising: at least as many as were wanted, or none where the device has no room for
    /// all that reach it.
    pub columns: Vec<u32>,
    /// Their logits.
    pub logits: Vec<f32>,
}

/// The best `count` logits or more of each row of `logits` `[_, n]` f32. A row with fewer columns gives all of them.
pub fn best_logits(logits: &Tensor, count: usize) -> Result<Vec<BestLogits>> {
    if logits.dtype() != DType::F32 {
        let reason = format!("wanted logits of F32, found {:?}", logits.dtype());
        return Err(TensorError::Unsupported {
            what: "best_logits",
            reason,
        });
    }
    let count = count.clamp(1, logits.cols().max(1));
    match logits.device() {
        Device::Cuda(device) => device.best_logits(logits, count),
        Device::Cpu(_) => {
            let rows = logits.as_f32()?.chunks_exact(logits.cols().max(1));
            Ok(rows.map(|row| best_of_row(row, count)).collect())
        }
    }
}

/// The plain form.
fn best_of_row(row: &[f32], count: usize) -> BestLogits {
    let num_not_finite = row.iter().filter(|logit| !logit.is_finite()).count();
    if num_not_finite > 0 {
        return BestLogits {
            num_not_finite,
            ..BestLogits::default()
        };
    }
    let mut sorted = row.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let (largest, bound) = (sorted[0], sorted[count - 1]);
    let sum: f64 = row
        .iter()
        .map(|logit| f64::from(logit - largest).exp())
        .sum();
    let reaching = (0..).zip(row).filter(|(_, logit)| **logit >= bound);
    let (columns, logits) = reaching.map(|(column, &logit)| (column, logit)).unzip();
    BestLogits {
        num_not_finite: 0,
        log_sum_exp: largest + sum.ln() as f32,
        columns,
        logits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_with_the_last_are_among_the_best() {
        let logits = [
            0.5,
            -1.0,
            3.0,
            0.5,
            2.0,
            -7.0,
            f32::NAN,
            1.0,
            1.0,
            1.0,
            1.0,
            1.0,
        ];
        let logits = Tensor::from_f32(&Device::cpu(1), &[2, 6], &logits).unwrap();
        let best = best_logits(&logits, 3).unwrap();
        assert_eq!(best[0].columns, [0, 2, 3, 4]);
        assert_eq!(best[0].logits, [0.5, 3.0, 0.5, 2.0]);
        assert_eq!(best[1].num_not_finite, 1);
        let log_sum = [0.5_f32, -1.0, 3.0, 0.5, 2.0, -7.0];
        let log_sum = log_sum.iter().map(|x| x.exp()).sum::<f32>().ln();
        assert!((best[0].log_sum_exp - log_sum).abs() < 1e-6);
    }

    #[test]
    fn rows_shorter_than_the_count_are_whole() {
        let logits = Tensor::from_f32(&Device::cpu(1), &[1, 2], &[1.0, 2.0]).unwrap();
        assert_eq!(best_logits(&logits, 50).unwrap()[0].columns, [0, 1]);
    }
}
