//! The vision half of the network: from the bytes of a picture file to the rows that the projector takes.
//! `preprocess` makes pixels exactly as the reference does; the tower and the features it gives stand beside it.

mod bicubic;
#[cfg(test)]
mod goldens;
pub mod preprocess;
