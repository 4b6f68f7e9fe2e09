//! From the bytes of a picture file to what the tower takes, bit for bit as the reference prepares it: decoded to RGB,
//! resized with Pillow's rules, padded and tiled for the high-definition models, normalised. Spec sections 4.4 and 5.
//! Nothing here knows a tensor; the tower asks a [`PreparedPicture`] for its squares.

mod decode;
mod global_view;
mod normalise;
mod picture;
mod prepared;
pub mod resample;

#[cfg(test)]
mod tests;

pub use decode::{DecodeLimits, PictureError, PictureFormat, decode_picture};
pub use picture::RgbPicture;
pub use prepared::{PreparedPicture, prepare};
