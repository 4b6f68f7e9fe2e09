//! Building a batch's input: rows of the embedding table for tokens, projected rows for pictures.

use std::ops::Range;

use crate::{
    device::Device,
    ops::rows::RowRanges,
    tensor::{CpuElements, Element, Result, Tensor, TensorError},
};

/// Writes the embeddings of `ids` to the rows of y from `first_row` on. table `[vocab_size, n]` of any type; y `[_, n]` f32,
/// not shared. An id outside the table is an error.
pub fn embed(table: &Tensor, ids: &[u32], y: &mut Tensor, first_row: usize) -> Result<()> {
    let (n, num_rows) = (table.cols(), table.rows());
    check_place("embed", n, first_row..first_row + ids.len(), y)?;
    if let Some(&id) = ids.iter().find(|&&id| id as usize >= num_rows) {
        let reason = format!("token {id} is outside the vocabulary of {num_rows}");
        return Err(TensorError::Unsupported {
            what: "embed",
            reason,
        });
    }
    match y.device().clone() {
        Device::Cuda(device) => device.gather(table, ids, y, first_row)?,
        Device::Cpu(_) => {
            let y = &mut y.as_f32_mut()?[first_row * n..];
            match table.cpu_elements()? {
                CpuElements::F32(table) => copy_embeddings(table, ids, n, y),
                CpuElements::BF16(table) => copy_embeddings(table, ids, n, y),
                CpuElements::F16(table) => copy_embeddings(table, ids, n, y),
            }
        }
    }
    Ok(())
}

fn copy_embeddings<T: Element>(table: &[T], ids: &[u32], n: usize, y: &mut [f32]) {
    for (id, y) in ids.iter().zip(y.chunks_exact_mut(n.max(1))) {
        let row = &table[*id as usize * n..][..n];
        y.iter_mut().zip(row).for_each(|(y, x)| *y = x.to_f32());
    }
}

/// Copies `rows` of x to the rows of y from `first_row` on: both f32 and of one width, y not shared.
pub fn copy_rows(x: &Tensor, rows: Range<usize>, y: &mut Tensor, first_row: usize) -> Result<()> {
    let n = x.cols();
    check_place("copy_rows", n, first_row..first_row + rows.len(), y)?;
    let x = x.narrow_rows(rows)?;
    match y.device().clone() {
        Device::Cuda(device) => device.copy_rows(&x, y, first_row)?,
        Device::Cpu(_) => {
            let x = x.as_f32()?;
            y.as_f32_mut()?[first_row * n..][..x.len()].copy_from_slice(x);
        }
    }
    Ok(())
}

/// The rows of x `[.., n]` f32 in the ranges, one range after the other. Shares x's storage where that is one range.
pub fn gather_rows(x: &Tensor, rows: &RowRanges) -> Result<Tensor> {
    let x = x.reshape(&[x.rows(), x.cols()])?;
    if let [range] = rows.as_slice() {
        return x.narrow_rows(range.clone());
    }
    let mut y = Tensor::unwritten(x.device(), x.dtype(), &[rows.num_rows(), x.cols()])?;
    if let Device::Cuda(device) = x.device() {
        // One launch for all ranges: there may be a range for every sequence of a step.
        check_ranges(&x, rows.as_slice())?;
        device.gather_rows(&x, rows, &mut y)?;
        return Ok(y);
    }
    let mut first_row = 0;
    for range in rows.as_slice() {
        copy_rows(&x, range.clone(), &mut y, first_row)?;
        first_row += range.len();
    }
    Ok(y)
}

fn check_ranges(x: &Tensor, ranges: &[Range<usize>]) -> Result<()> {
    match ranges.iter().find(|range| range.end > x.rows()) {
        Some(range) => Err(TensorError::Rows {
            what: "gather_rows",
            start: range.start,
            end: range.end,
            num_rows: x.rows(),
        }),
        None => Ok(()),
    }
}

fn check_place(what: &'static str, n: usize, rows: Range<usize>, y: &Tensor) -> Result<()> {
    if y.cols() != n {
        return Err(TensorError::Shape {
            what,
            wanted: format!("[_, {n}]"),
            found: y.shape().to_vec(),
        });
    }
    if rows.end > y.rows() {
        return Err(TensorError::Rows {
            what,
            start: rows.start,
            end: rows.end,
            num_rows: y.rows(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    fn counting(rows: usize, n: usize) -> Tensor {
        let values: Vec<f32> = (0..rows * n).map(|i| i as f32).collect();
        Tensor::from_f32(&Device::cpu(1), &[rows, n], &values).unwrap()
    }

    #[test]
    fn tokens_and_pictures_take_their_rows() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let table = counting(5, 2).to_dtype(dtype).unwrap();
            let mut y = Tensor::zeros(&Device::cpu(1), DType::F32, &[5, 2]);
            embed(&table, &[4, 0], &mut y, 1).unwrap();
            copy_rows(&counting(3, 2), 1..3, &mut y, 3).unwrap();
            assert_eq!(
                y.as_f32().unwrap(),
                [0., 0., 8., 9., 0., 1., 2., 3., 4., 5.]
            );
        }
    }

    #[test]
    fn gathered_rows_come_in_the_order_of_the_ranges() {
        let x = counting(6, 2);
        let gather = |ranges: Vec<Range<usize>>| gather_rows(&x, &ranges.into()).unwrap();
        let y = gather(vec![1..2, 4..6]);
        assert_eq!(y.as_f32().unwrap(), [2., 3., 8., 9., 10., 11.]);
        let view = gather(std::iter::once(2..4).collect());
        assert_eq!(view.as_f32().unwrap(), [4., 5., 6., 7.]);
        assert_eq!(gather(vec![]).shape(), [0, 2]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let mut y = Tensor::zeros(&Device::cpu(1), DType::F32, &[3, 2]);
        assert!(embed(&counting(5, 2), &[5], &mut y, 0).is_err());
        assert!(embed(&counting(5, 2), &[1, 1], &mut y, 2).is_err());
        assert!(embed(&counting(5, 3), &[1], &mut y, 0).is_err());
        assert!(copy_rows(&counting(2, 2), 1..3, &mut y, 0).is_err());
        assert!(gather_rows(&counting(2, 2), &vec![0..1, 1..3].into()).is_err());
    }
}
