//! What is wrong with a message. All of its fields are read before it is refused, so that its sender mends them in one go.

use bytes::Bytes;

use crate::{
    config::Limits,
    error::{FieldViolation, RequestError},
};

/// Faults reported at most; a broken client may have one in each of many messages.
const MAX_VIOLATIONS: usize = 16;

/// What is wrong with a message, as far as it was read.
#[derive(Default)]
pub(super) struct Faults(Vec<FieldViolation>);

impl Faults {
    pub(super) fn add(&mut self, path: impl Into<String>, description: impl Into<String>) {
        if self.0.len() < MAX_VIOLATIONS {
            self.0.push(FieldViolation::new(path, description));
        }
    }

    /// The error, where there is a fault.
    pub(super) fn none(self) -> Result<(), RequestError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(RequestError::Invalid(self.0))
        }
    }

    pub(super) fn at_most(&mut self, path: &str, found: usize, limit: usize, of: &str) {
        if found > limit {
            self.add(path, format!("has {found} {of}, limit is {limit}"));
        }
    }

    /// The bytes of a picture, where there are any. Whether they can be decoded is for a vision worker to find out.
    pub(super) fn picture(&mut self, path: &str, data: Bytes, limits: &Limits) -> Option<Bytes> {
        if data.is_empty() {
            self.add(path, "must have data, found none");
            return None;
        }
        self.at_most(path, data.len(), limits.max_picture_bytes, "bytes");
        Some(data)
    }
}
