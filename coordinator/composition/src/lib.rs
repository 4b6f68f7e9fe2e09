//! Free-form composition: how an instruction becomes an article with pictures at the right places, and how that article is
//! edited. Pure logic over text and names of pictures: no I/O, no async, no clock, no randomness, no wire types. Whoever
//! drives it runs the generations and the searches that it asks for and hands the results back, in any order.
//!
//! Start reading in `procedure/` (which step runs when). `steps/` has a file for each question to the model: its words, the
//! form of its answer and how that is read. `article/` is what comes out and how it changes, `export/` how it leaves.

pub mod article;
pub mod export;
mod generation;
mod meter;
mod options;
mod picture;
pub mod procedure;
mod prompt;
mod segments;
pub mod steps;

pub use generation::{Asked, Constraint, Generation, Sampling};
pub use meter::{Meter, TokenizerMeter, TooLong};
pub use options::{
    CheckedRequest, ComposeRequest, MAX_CANDIDATES, MAX_PICTURE_COUNT, MAX_PICTURES, MAX_SEGMENTS,
    PictureCount, PictureSource, StepOrder, Violation,
};
pub use picture::{Picture, PictureId};
pub use prompt::{Piece, Prompt, Release, SystemText};
pub use segments::{SegmentReader, segments_of};

#[cfg(test)]
mod tests;
