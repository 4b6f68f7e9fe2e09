//! The vision half of the network: from the bytes of a picture file to the rows that the projector takes.
//! `preprocess` makes pixels exactly as the reference does, [`VisionModel`] turns them into [`PictureFeatures`].

mod arrangement;
mod bicubic;
mod features;
mod model;
mod position_table;
pub mod preprocess;
mod tower;

#[cfg(test)]
mod tests;

pub use features::{FeaturesError, PictureFeatures};
pub use model::{VisionError, VisionModel};
pub use position_table::resize_position_table;
