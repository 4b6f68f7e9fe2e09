//! Resizing a table of places (spec section 4.1). Published checkpoints store the table at the size their pictures need,
//! and loading takes it as it stands; this is for making a tower for another size out of CLIP's own.

use super::bicubic::{CubicTap, cubic_taps};

/// Resizes a position table `[1 + from^2, width]` to `[1 + to^2, width]`: the class row stays, the grid is interpolated.
///
/// # Panics
/// When `table` has another length than said.
pub fn resize_position_table(table: &[f32], width: usize, from: usize, to: usize) -> Vec<f32> {
    assert_eq!(
        table.len(),
        (1 + from * from) * width,
        "a class row and {from} x {from} places of {width}"
    );
    let (class, grid) = table.split_at(width);
    let taps = cubic_taps(from, to);
    let mut resized = class.to_vec();
    for row in &taps {
        for column in &taps {
            resized
                .extend((0..width).map(|unit| interpolate(grid, width, from, row, column, unit)));
        }
    }
    resized
}

fn interpolate(
    grid: &[f32],
    width: usize,
    from: usize,
    row: &CubicTap,
    column: &CubicTap,
    unit: usize,
) -> f32 {
    let place = |y: usize, x: usize| grid[(y * from + x) * width + unit];
    let across = |y: usize| -> f32 {
        column
            .sources
            .iter()
            .zip(column.weights)
            .map(|(x, w)| place(y, *x) * w)
            .sum()
    };
    row.sources
        .iter()
        .zip(row.weights)
        .map(|(y, w)| across(*y) * w)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goldens::Goldens;

    #[test]
    fn clips_table_resizes_as_in_the_reference() {
        let Some(goldens) = Goldens::open("units") else {
            return;
        };
        let (shape, base) = goldens.f32("pos.base");
        for to in [35, 16] {
            let resized = resize_position_table(&base, shape[1], 24, to);
            goldens.assert_close(&format!("pos.{to}"), &resized);
        }
        assert_eq!(resize_position_table(&base, shape[1], 24, 24), base);
    }
}
