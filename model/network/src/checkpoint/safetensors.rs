//! The header of a safetensors file: eight bytes of length, then JSON that gives type, shape and byte range of each
//! tensor. Read by hand rather than with the format's crate so that each defect is reported with the tensor's name.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::file::{StoredTensor, contiguous_strides};
use super::{CheckpointError, Shape, StoredType};

/// The format's own limit on the header's length in bytes.
const MAX_HEADER: u64 = 100_000_000;

/// Tensors of the safetensors file `bytes`, which messages call `file`.
pub(crate) fn parse(file: &str, bytes: &[u8]) -> Result<Vec<StoredTensor>, CheckpointError> {
    let (header, data_start) = split_header(file, bytes)?;
    let corrupt = |reason: String| CheckpointError::CorruptHeader {
        file: file.to_owned(),
        reason,
    };
    let header: Header =
        serde_json::from_slice(header).map_err(|error| corrupt(error.to_string()))?;
    let mut entries = header.0;
    entries.sort_by(|a, b| {
        a.1.data_offsets
            .cmp(&b.1.data_offsets)
            .then_with(|| a.0.cmp(&b.0))
    });
    check_overlaps(file, &entries)?;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        tensors.push(locate(file, bytes.len(), data_start, name, entry)?);
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    match tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(corrupt(format!(
            "tensor {} stands in it twice",
            pair[0].name
        ))),
        None => Ok(tensors),
    }
}

fn split_header<'a>(file: &str, bytes: &'a [u8]) -> Result<(&'a [u8], usize), CheckpointError> {
    let found = bytes.len() as u64;
    let truncated = |what: &str, wanted| CheckpointError::Truncated {
        file: file.to_owned(),
        what: what.to_owned(),
        wanted,
        found,
    };
    let (length, rest) = bytes
        .split_first_chunk::<8>()
        .ok_or_else(|| truncated("the header's length", 8))?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(CheckpointError::CorruptHeader {
            file: file.to_owned(),
            reason: format!("it claims {length} bytes of header, the format allows {MAX_HEADER}"),
        });
    }
    let header = rest
        .get(..length as usize)
        .ok_or_else(|| truncated("the header", 8 + length))?;
    Ok((header, 8 + length as usize))
}

fn check_overlaps(file: &str, sorted: &[(String, Entry)]) -> Result<(), CheckpointError> {
    let mut last: Option<&(String, Entry)> = None;
    for entry in sorted
        .iter()
        .filter(|(_, entry)| entry.data_offsets.0 < entry.data_offsets.1)
    {
        if let Some((other, _)) =
            last.filter(|(_, last)| last.data_offsets.1 > entry.1.data_offsets.0)
        {
            return Err(CheckpointError::Overlap {
                file: file.to_owned(),
                tensor: entry.0.clone(),
                other: other.clone(),
            });
        }
        last = Some(entry);
    }
    Ok(())
}

fn locate(
    file: &str,
    file_len: usize,
    data_start: usize,
    name: String,
    entry: Entry,
) -> Result<StoredTensor, CheckpointError> {
    let Some(stored) = StoredType::from_name(&entry.dtype) else {
        return Err(CheckpointError::WrongType {
            file: file.to_owned(),
            tensor: name,
            found: entry.dtype,
        });
    };
    let (begin, end) = entry.data_offsets;
    let shape = Shape(entry.shape);
    let wanted = shape
        .num_elements()
        .and_then(|count| count.checked_mul(stored.size()))
        .map(|wanted| wanted as u64);
    if wanted.is_none() || end.checked_sub(begin) != wanted {
        let wanted = wanted.unwrap_or(u64::MAX);
        return Err(CheckpointError::BadOffsets {
            file: file.to_owned(),
            tensor: name,
            begin,
            end,
            shape,
            wanted,
        });
    }
    let wanted = end.saturating_add(data_start as u64);
    if wanted > file_len as u64 {
        let what = format!("tensor {name}");
        return Err(CheckpointError::Truncated {
            file: file.to_owned(),
            what,
            wanted,
            found: file_len as u64,
        });
    }
    let strides = contiguous_strides(&shape.0);
    Ok(StoredTensor {
        name,
        stored,
        shape,
        offset: data_start + begin as usize,
        strides,
    })
}

/// The header's entries in the order of the file, doubles and all.
struct Header(Vec<(String, Entry)>);

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                entries.push((name, map.next_value()?));
            }
        }
        Ok(Header(entries))
    }
}
