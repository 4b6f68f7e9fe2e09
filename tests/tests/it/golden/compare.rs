//! Comparing numbers with golden ones: floating point within a tolerance, everything else exactly. A difference is told with
//! the tensor, the place, what was wanted and what was found.

use std::fmt::Debug;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::folder::{Folder, Golden};

/// Holds `found` against a golden tensor within the tolerance that its manifest gives.
pub(super) fn close(folder: &Folder, name: &str, found: &[f32]) -> Result<()> {
    let atol = folder.atol(name)?;
    within(&folder.f32(name)?, found, atol)
}

/// Holds `found` against a golden tensor within `atol`.
pub(super) fn within(wanted: &Golden<f32>, found: &[f32], atol: f32) -> Result<()> {
    within_each(wanted, found, |_| atol)
}

/// The same with a tolerance for every element.
pub(super) fn within_each(
    wanted: &Golden<f32>,
    found: &[f32],
    atol: impl Fn(usize) -> f32,
) -> Result<()> {
    same_length(wanted, found)?;
    let mut worst: Option<(usize, f32)> = None;
    let mut num_beyond = 0;
    for (index, (w, f)) in wanted.values.iter().zip(found).enumerate() {
        let difference = difference(*w, *f);
        if difference <= atol(index) {
            continue;
        }
        num_beyond += 1;
        if worst.is_none_or(|(_, worst)| difference > worst) {
            worst = Some((index, difference));
        }
    }
    let Some((index, difference)) = worst else {
        return Ok(());
    };
    anyhow::bail!(
        "{}: at {:?} wanted {}, found {}, difference {difference:e}, atol {:e}; {num_beyond} of {} values are off",
        wanted.name,
        place(&wanted.shape, index),
        wanted.values[index],
        found[index],
        atol(index),
        found.len()
    );
}

/// Holds `found` against golden whole numbers, which must be equal.
pub(super) fn equal<T: PartialEq + Debug>(wanted: &Golden<T>, found: &[T]) -> Result<()> {
    same_length(wanted, found)?;
    let differ = |(w, f): (&T, &T)| w != f;
    let Some(index) = wanted.values.iter().zip(found).position(differ) else {
        return Ok(());
    };
    let num_off = wanted
        .values
        .iter()
        .zip(found)
        .filter(|(w, f)| w != f)
        .count();
    anyhow::bail!(
        "{}: at {:?} wanted {:?}, found {:?}; {num_off} of {} values are off",
        wanted.name,
        place(&wanted.shape, index),
        wanted.values[index],
        found[index],
        found.len()
    );
}

/// Holds one value against the one that is wanted.
pub(super) fn same<T: PartialEq + Debug>(what: &str, wanted: T, found: T) -> Result<()> {
    ensure!(
        wanted == found,
        "{what}: wanted {wanted:?}, found {found:?}"
    );
    Ok(())
}

/// The largest and the root-mean-square difference.
pub(super) fn differences(wanted: &[f32], found: &[f32]) -> (f32, f32) {
    let each = || wanted.iter().zip(found).map(|(w, f)| difference(*w, *f));
    let largest = each().fold(0.0, f32::max);
    let squares: f64 = each().map(|d| f64::from(d) * f64::from(d)).sum();
    (
        largest,
        (squares / wanted.len().max(1) as f64).sqrt() as f32,
    )
}

/// Infinite where either is not a number, so that no comparison lets it pass.
pub(super) fn difference(wanted: f32, found: f32) -> f32 {
    let difference = (wanted - found).abs();
    if difference.is_nan() {
        f32::INFINITY
    } else {
        difference
    }
}

fn same_length<T, U>(wanted: &Golden<T>, found: &[U]) -> Result<()> {
    ensure!(
        wanted.values.len() == found.len(),
        "{}: wanted {} values ({:?}), found {}",
        wanted.name,
        wanted.values.len(),
        wanted.shape,
        found.len()
    );
    Ok(())
}

/// The indices of an element in a tensor.
fn place(shape: &[usize], mut index: usize) -> Vec<usize> {
    let mut place = vec![0; shape.len()];
    for (at, size) in place.iter_mut().zip(shape).rev() {
        *at = index % size;
        index /= size;
    }
    place
}

/// Holds all rows of `found` against a golden tensor that may keep some of them only: those its manifest lists as `rows`.
pub(super) fn close_rows(folder: &Folder, name: &str, found: &[f32], width: usize) -> Result<()> {
    match rows_attribute(folder, name)? {
        Some(rows) => close(folder, name, &pick_rows(found, width, &rows)?),
        None => close(folder, name, found),
    }
}

/// The rows that a tensor keeps, where it does not keep all.
pub(super) fn rows_attribute(folder: &Folder, name: &str) -> Result<Option<Vec<usize>>> {
    let rows = folder.attribute(name, "rows").map(Deserialize::deserialize);
    Ok(rows.transpose()?)
}

/// Some rows of a matrix, in the order asked for.
pub(super) fn pick_rows(values: &[f32], width: usize, rows: &[usize]) -> Result<Vec<f32>> {
    let mut picked = Vec::with_capacity(rows.len() * width);
    for row in rows {
        let row = values.get(row * width..(row + 1) * width);
        picked.extend_from_slice(
            row.with_context(|| format!("rows {rows:?} of {}", values.len() / width))?,
        );
    }
    Ok(picked)
}
