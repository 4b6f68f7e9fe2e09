//! From the bytes of a picture file to what the tower takes, bit for bit as the reference prepares it: decoded to RGB,
//! resized with Pillow's rules, padded and tiled for the high-definition models, normalised. Spec section 5 and 4.4.
//! Nothing here knows a tensor; the tower reads the prepared pixels patch by patch.

mod decode;
mod picture;
pub mod resample;

pub use decode::{DecodeLimits, PictureError, PictureFormat, decode_picture};
pub use picture::RgbPicture;
