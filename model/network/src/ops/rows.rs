//! Some rows of a tensor, as ops take them that read or write only those.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use super::cuda::CudaBuffer;

/// Ranges of rows. A step has one for its pictures, which every linear of every layer uses, so a device keeps what it makes of it.
#[derive(Clone, Debug, Default)]
pub struct RowRanges {
    ranges: Vec<Range<usize>>,
    /// The numbers of all rows on the device that ops ran on first.
    pub(in crate::ops) on_device: OnceLock<Arc<CudaBuffer>>,
}

impl RowRanges {
    /// Adds the rows that come next. A range that begins where the last one ends becomes part of it.
    pub fn push(&mut self, rows: Range<usize>) {
        self.on_device = OnceLock::new();
        match self.ranges.last_mut() {
            _ if rows.is_empty() => {}
            Some(last) if last.end == rows.start => last.end = rows.end,
            _ => self.ranges.push(rows),
        }
    }

    pub fn as_slice(&self) -> &[Range<usize>] {
        &self.ranges
    }

    /// How many rows there are.
    pub fn num_rows(&self) -> usize {
        self.ranges.iter().map(Range::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.iter().all(Range::is_empty)
    }
}

/// The ranges as they are.
impl From<Vec<Range<usize>>> for RowRanges {
    fn from(ranges: Vec<Range<usize>>) -> Self {
        Self {
            ranges,
            on_device: OnceLock::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_meet_become_one() {
        let mut rows = RowRanges::default();
        assert!(rows.is_empty());
        for range in [2..5, 5..5, 5..9, 12..13] {
            rows.push(range);
        }
        assert_eq!(rows.as_slice(), [2..9, 12..13]);
        assert_eq!(rows.num_rows(), 8);
    }
}
