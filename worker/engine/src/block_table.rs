//! The blocks of a sequence.

use std::{ops::Deref, sync::Arc};

use crate::BlockId;

/// A sequence's blocks, in order of position. A clone shares its memory until one of the two grows: every plan names the tables of
/// all its sequences, and most of them are those of the plan before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockTable(Arc<Vec<BlockId>>);

impl BlockTable {
    pub(crate) fn push(&mut self, block: BlockId) {
        Arc::make_mut(&mut self.0).push(block);
    }

    /// Puts another block in the place of the last one and gives that.
    pub(crate) fn replace_last(&mut self, block: BlockId) -> Option<BlockId> {
        let last = Arc::make_mut(&mut self.0).last_mut()?;
        Some(std::mem::replace(last, block))
    }

    /// Leaves it empty.
    pub(crate) fn take(&mut self) -> Vec<BlockId> {
        Arc::unwrap_or_clone(std::mem::take(&mut self.0))
    }
}

impl Deref for BlockTable {
    type Target = [BlockId];

    fn deref(&self) -> &[BlockId] {
        &self.0
    }
}

impl From<Vec<BlockId>> for BlockTable {
    fn from(blocks: Vec<BlockId>) -> Self {
        Self(Arc::new(blocks))
    }
}

impl FromIterator<BlockId> for BlockTable {
    fn from_iter<T: IntoIterator<Item = BlockId>>(blocks: T) -> Self {
        blocks.into_iter().collect::<Vec<_>>().into()
    }
}
