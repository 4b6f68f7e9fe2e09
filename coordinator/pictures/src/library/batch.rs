//! Batches of records as they lie in the store: one object a batch, written once and never changed, one JSON object a line.
//!
//! A name is `MILLISECONDS-HASH.jsonl`. Names sort by time, and a later record of a picture wins over an earlier one. The hash is that of
//! the content, so a batch that was torn by a loss of power is noticed and counts as never written.

use std::fmt;

use super::picture::is_digest;
use super::record::Record;

/// Far above what an import writes.
pub(super) const MAX_BATCH_BYTES: u64 = 64 << 20;

const TIME_DIGITS: usize = 15;
const HASH_DIGITS: usize = 32;
const SUFFIX: &str = ".jsonl";

/// Sorts by time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BatchName(String);

impl BatchName {
    /// None for whatever else lies beside the batches.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (time, hash) = name.strip_suffix(SUFFIX)?.split_once('-')?;
        let is_name = time.len() == TIME_DIGITS
            && time.bytes().all(|byte| byte.is_ascii_digit())
            && hash.len() == HASH_DIGITS
            && hash
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_name.then(|| Self(name.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn milliseconds(&self) -> u64 {
        self.0
            .split('-')
            .next()
            .and_then(|time| time.parse().ok())
            .unwrap_or(0)
    }

    fn hash(&self) -> &str {
        self.0
            .strip_suffix(SUFFIX)
            .and_then(|name| name.split('-').nth(1))
            .unwrap_or_default()
    }
}

impl fmt::Display for BatchName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What a batch holds, or would hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) name: BatchName,
    pub(super) records: Vec<Record>,
    /// Lines that are no records. The batch is whole, so somebody wrote them.
    pub(super) foreign_lines: usize,
}

/// The name and bytes of a batch of these records.
pub(super) fn encode(
    milliseconds: u64,
    records: &[Record],
) -> Result<(BatchName, Vec<u8>), serde_json::Error> {
    let mut data = Vec::new();
    for record in records {
        serde_json::to_writer(&mut data, record)?;
        data.push(b'\n');
    }
    let hash = content_hash(&data);
    let name = BatchName(format!("{milliseconds:0TIME_DIGITS$}-{hash}{SUFFIX}"));
    Ok((name, data))
}

/// None when these are not the bytes that were written under this name.
pub(super) fn decode(name: BatchName, data: &[u8]) -> Option<Batch> {
    if content_hash(data) != name.hash() {
        return None;
    }
    let mut batch = Batch {
        name,
        records: Vec::new(),
        foreign_lines: 0,
    };
    for line in data
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        match serde_json::from_slice::<Record>(line) {
            Ok(record) if is_digest(&record.index) => batch.records.push(record),
            Ok(_) | Err(_) => batch.foreign_lines += 1,
        }
    }
    Some(batch)
}

fn content_hash(data: &[u8]) -> String {
    let mut hash = blake3::hash(data).to_hex().to_string();
    hash.truncate(HASH_DIGITS);
    hash
}
