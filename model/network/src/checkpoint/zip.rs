//! The directory of a zip archive, as far as torch writes one: every entry stored as it is, so that a tensor can be
//! cut from the mapped file. Handles the 64-bit records of archives above 4 GB. Every number is checked before use.

use std::collections::HashMap;
use std::ops::Range;

use super::CheckpointError;

const END: [u8; 4] = *b"PK\x05\x06";
const END_64: [u8; 4] = *b"PK\x06\x06";
const END_64_LOCATOR: [u8; 4] = *b"PK\x06\x07";
const ENTRY: [u8; 4] = *b"PK\x01\x02";
const LOCAL: [u8; 4] = *b"PK\x03\x04";
const END_LEN: usize = 22;
const ENTRY_LEN: usize = 46;
const LOCAL_LEN: usize = 30;
const ZIP_64_EXTRA: u16 = 1;

/// Byte range of each entry's content in the archive, by entry name.
pub(crate) type Entries = HashMap<String, Range<usize>>;

/// Reads the directory of the archive `bytes`, which messages call `file`.
pub(crate) fn parse(file: &str, bytes: &[u8]) -> Result<Entries, CheckpointError> {
    let archive = Archive { file, bytes };
    let directory = archive.find_directory()?;
    let mut entries = Entries::new();
    let mut at = directory.start;
    while at < directory.end {
        let entry = archive.entry(at)?;
        at = entry.next;
        let content = archive.content(&entry)?;
        if entries.insert(entry.name.clone(), content).is_some() {
            return Err(archive.corrupt(format!(
                "the zip archive has the entry {} twice",
                entry.name
            )));
        }
    }
    Ok(entries)
}

struct Archive<'a> {
    file: &'a str,
    bytes: &'a [u8],
}

struct Entry {
    name: String,
    size: u64,
    local_header: u64,
    /// Where the next entry begins.
    next: usize,
}

impl<'a> Archive<'a> {
    fn corrupt(&self, reason: String) -> CheckpointError {
        CheckpointError::CorruptHeader {
            file: self.file.to_owned(),
            reason,
        }
    }

    fn slice(&self, at: usize, len: usize, what: &str) -> Result<&'a [u8], CheckpointError> {
        let end = at.saturating_add(len);
        self.bytes
            .get(at..end)
            .ok_or_else(|| CheckpointError::Truncated {
                file: self.file.to_owned(),
                what: what.to_owned(),
                wanted: end as u64,
                found: self.bytes.len() as u64,
            })
    }

    fn u16(&self, at: usize) -> Result<u16, CheckpointError> {
        let bytes = self.slice(at, 2, "a zip record")?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&self, at: usize) -> Result<u32, CheckpointError> {
        let bytes = self.slice(at, 4, "a zip record")?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn u64(&self, at: usize) -> Result<u64, CheckpointError> {
        Ok(u64::from(self.u32(at)?) | u64::from(self.u32(at.saturating_add(4))?) << 32)
    }

    /// Byte range of the central directory, from the record at the end of the file.
    fn find_directory(&self) -> Result<Range<usize>, CheckpointError> {
        // The end record is followed only by a comment of at most 65535 bytes.
        let first = self
            .bytes
            .len()
            .saturating_sub(END_LEN + usize::from(u16::MAX));
        let end = self.bytes[first..]
            .windows(END.len())
            .rposition(|window| window == END);
        let Some(end) = end.map(|index| first + index) else {
            let reason = "it has no zip directory at its end: the file is cut short, or no archive of torch.save (the \
                          format before torch 1.6 is not read)";
            return Err(self.corrupt(reason.to_owned()));
        };
        let (mut size, mut start) = (
            u64::from(self.u32(end + 12)?),
            u64::from(self.u32(end + 16)?),
        );
        if let Some(record) = self.end_64(end)? {
            size = self.u64(record.saturating_add(40))?;
            start = self.u64(record.saturating_add(48))?;
        }
        match start.checked_add(size) {
            Some(limit) if limit <= end as u64 => Ok(start as usize..limit as usize),
            _ => Err(self.corrupt(format!(
                "its zip directory is said to be {size} bytes at byte {start}, past the end"
            ))),
        }
    }

    fn end_64(&self, end: usize) -> Result<Option<usize>, CheckpointError> {
        let Some(locator) = end
            .checked_sub(20)
            .filter(|&at| self.bytes[at..].starts_with(&END_64_LOCATOR))
        else {
            return Ok(None);
        };
        let record = usize::try_from(self.u64(locator + 8)?).unwrap_or(usize::MAX);
        if self.slice(record, 4, "the zip directory's 64-bit record")? != END_64 {
            return Err(self.corrupt(
                "the 64-bit record of its zip directory is not where it is said to be".to_owned(),
            ));
        }
        Ok(Some(record))
    }

    fn entry(&self, at: usize) -> Result<Entry, CheckpointError> {
        let record = self.slice(at, ENTRY_LEN, "the zip directory")?;
        if !record.starts_with(&ENTRY) {
            return Err(self.corrupt(format!("its zip directory has no entry at byte {at}")));
        }
        let (name_len, extra_len) = (
            usize::from(self.u16(at + 28)?),
            usize::from(self.u16(at + 30)?),
        );
        let comment_len = usize::from(self.u16(at + 32)?);
        let name = self.slice(at + ENTRY_LEN, name_len, "the zip directory")?;
        let name = String::from_utf8_lossy(name).into_owned();
        let extra_at = at + ENTRY_LEN + name_len;
        self.slice(extra_at, extra_len, "the zip directory")?;

        let (packed, size) = (u64::from(self.u32(at + 20)?), u64::from(self.u32(at + 24)?));
        let mut fields = [size, packed, u64::from(self.u32(at + 42)?)];
        self.widen(&mut fields, extra_at, extra_len)?;
        let [size, packed, local_header] = fields;
        let method = self.u16(at + 10)?;
        if method != 0 || packed != size {
            return Err(self.corrupt(format!(
                "zip entry {name} is compressed, wanted it stored as torch.save does"
            )));
        }
        Ok(Entry {
            name,
            size,
            local_header,
            next: extra_at + extra_len + comment_len,
        })
    }

    /// Replaces those of the three numbers that are all ones by the 64-bit values of the extra field.
    fn widen(
        &self,
        fields: &mut [u64; 3],
        extra_at: usize,
        extra_len: usize,
    ) -> Result<(), CheckpointError> {
        let limit = extra_at + extra_len;
        let mut at = extra_at;
        while at + 4 <= limit {
            let (kind, len) = (self.u16(at)?, usize::from(self.u16(at + 2)?));
            at += 4;
            if kind == ZIP_64_EXTRA {
                let wide = fields
                    .iter_mut()
                    .filter(|field| **field == u64::from(u32::MAX));
                for (index, field) in wide.enumerate() {
                    *field = self.u64(at + 8 * index)?;
                }
                return Ok(());
            }
            at += len;
        }
        Ok(())
    }

    /// Byte range of an entry's content, which follows its local header.
    fn content(&self, entry: &Entry) -> Result<Range<usize>, CheckpointError> {
        let at = usize::try_from(entry.local_header).unwrap_or(usize::MAX);
        let what = format!("zip entry {}", entry.name);
        let header = self.slice(at, LOCAL_LEN, &what)?;
        if !header.starts_with(&LOCAL) {
            return Err(self.corrupt(format!(
                "zip entry {} has no header at byte {at}",
                entry.name
            )));
        }
        let skip = usize::from(self.u16(at + 26)?) + usize::from(self.u16(at + 28)?);
        let start = at + LOCAL_LEN + skip;
        let size = usize::try_from(entry.size).unwrap_or(usize::MAX);
        self.slice(start, size, &what)?;
        Ok(start..start + size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tests::torch_file::{Width, zip_as};

    #[test]
    fn entries_are_found_through_narrow_and_wide_records() {
        for width in [Width::Narrow, Width::Wide] {
            let archive = zip_as(
                &[
                    ("a/b".to_owned(), b"first".as_slice()),
                    ("c".to_owned(), b"second".as_slice()),
                ],
                width,
            );
            let entries = parse("f", &archive).unwrap();
            assert_eq!(&archive[entries["a/b"].clone()], b"first");
            assert_eq!(&archive[entries["c"].clone()], b"second");
        }
    }

    #[test]
    fn compressed_entry_is_refused() {
        let mut archive = zip_as(&[("a".to_owned(), b"first".as_slice())], Width::Narrow);
        let entry = archive
            .windows(4)
            .position(|window| window == ENTRY)
            .unwrap();
        archive[entry + 10] = 8;
        let error = parse("f", &archive).unwrap_err().to_string();
        assert!(error.contains("zip entry a is compressed"), "{error}");
    }
}
