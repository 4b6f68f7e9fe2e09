//! Pictures and tenants that nobody had before, so that no cache knows them; and pictures that somebody had.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

/// The end of every PNG: length, name and checksum of its last chunk.
const PNG_END: usize = 12;
/// A chunk of text that decoders pass over.
const CHUNK: &[u8; 4] = b"tEXt";
/// Its keyword, which ends with a zero.
const KEYWORD: &[u8] = b"Comment\0";

/// Whether the cluster has met an article's pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acquaintance {
    NeverSeen,
    /// Another tenant's article was offered them.
    SeenBefore,
}

/// Pictures for one article.
pub(super) struct Pictures<'a> {
    pub(super) novelty: &'a Novelty,
    acquaintance: Acquaintance,
}

impl Pictures<'_> {
    /// A drawing as it is sent.
    pub(super) fn file(&self, png: &[u8]) -> Vec<u8> {
        match self.acquaintance {
            Acquaintance::NeverSeen => self.novelty.picture(png),
            Acquaintance::SeenBefore => png.to_vec(),
        }
    }
}

/// Numbers that are given out once.
pub(super) struct Novelty {
    /// Tells this measurement from others of the same server.
    measurement: u128,
    next: AtomicU64,
}

impl Novelty {
    pub(super) fn new() -> Self {
        let since = SystemTime::UNIX_EPOCH.elapsed();
        Self {
            measurement: since.map_or(0, |since| since.as_nanos()),
            next: AtomicU64::new(0),
        }
    }

    /// Pictures that the cluster has met, or has not.
    pub(super) fn pictures(&self, acquaintance: Acquaintance) -> Pictures<'_> {
        Pictures {
            novelty: self,
            acquaintance,
        }
    }

    /// A tenant that never asked before.
    pub(super) fn tenant(&self) -> String {
        format!("bench-{}", self.once())
    }

    /// The same picture in bytes that were never sent before.
    pub(super) fn picture(&self, png: &[u8]) -> Vec<u8> {
        with_comment(png, &self.once())
    }

    fn once(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{}-{number}", self.measurement)
    }
}

/// A PNG with a comment before its end.
fn with_comment(png: &[u8], comment: &str) -> Vec<u8> {
    let (before, end) = png.split_at(png.len().saturating_sub(PNG_END));
    let text = [KEYWORD, comment.as_bytes()].concat();
    let length = (text.len() as u32).to_be_bytes();
    let named = [CHUNK, &text[..]].concat();
    let checksum = crc32(&named).to_be_bytes();
    [before, &length, &named, &checksum, end].concat()
}

/// As PNG has it, bit by bit: some bytes for each picture are no work.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = crc & 1 == 1;
            crc >>= 1;
            if carry {
                crc ^= 0xedb8_8320;
            }
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use inkstone_model::clip::preprocess::{DecodeLimits, decode_picture};
    use inkstone_world::draw_illustrations;

    use super::*;

    #[test]
    fn the_checksum_is_that_of_png() {
        // The last chunk of every PNG, which has no data.
        assert_eq!(crc32(b"IEND"), 0xae42_6082);
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_picture_in_other_bytes_is_the_same_picture() {
        let limits = DecodeLimits {
            max_bytes: 1 << 20,
            max_pixels: 1 << 20,
        };
        let drawn = draw_illustrations(1).next().unwrap().picture;
        let novelty = Novelty::new();
        let [a, b] = [(); 2].map(|()| novelty.picture(&drawn));
        assert_ne!(a, b);
        assert_ne!(a, drawn);
        let pixels = |file: &[u8]| decode_picture(file, &limits).unwrap().pixels().to_vec();
        assert_eq!(pixels(&a), pixels(&drawn));
        assert_eq!(pixels(&b), pixels(&drawn));
        assert_ne!(novelty.tenant(), novelty.tenant());
    }

    #[test]
    fn a_picture_that_was_seen_before_comes_in_the_same_bytes() {
        let novelty = Novelty::new();
        let seen = novelty.pictures(Acquaintance::SeenBefore);
        let new = novelty.pictures(Acquaintance::NeverSeen);
        let drawn = draw_illustrations(1).next().unwrap().picture;
        assert_eq!(seen.file(&drawn), drawn);
        assert_ne!(new.file(&drawn), new.file(&drawn));
    }
}
