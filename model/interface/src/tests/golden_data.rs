//! Numbers of the reference: the golden data under `$INKSTONE_GOLDENS` or `tests/goldens`, and the real tokenizer, which
//! is too large for the repository: `$INKSTONE_TOKENIZER`, or `shared/tokenizer` beside the workspace. Tests skip what
//! is absent and say so.

use std::path::{Path, PathBuf};

const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The bytes of a file of the golden data.
pub(crate) fn read(path: &str) -> Option<Vec<u8>> {
    let root = std::env::var_os("INKSTONE_GOLDENS").map_or_else(
        || Path::new(WORKSPACE).join("tests/goldens"),
        |root| Path::new(WORKSPACE).join(root),
    );
    read_or_say(root.join(path))
}

/// The bytes of the real `tokenizer.model`.
pub(crate) fn real_tokenizer() -> Option<Vec<u8>> {
    let beside = || Path::new(WORKSPACE).join("../shared/tokenizer/tokenizer.model");
    read_or_say(std::env::var_os("INKSTONE_TOKENIZER").map_or_else(beside, PathBuf::from))
}

#[expect(clippy::print_stderr, reason = "a test that skips must say so")]
fn read_or_say(file: PathBuf) -> Option<Vec<u8>> {
    let bytes = std::fs::read(&file).ok();
    if bytes.is_none() {
        eprintln!("skipped: {} is absent", file.display());
    }
    bytes
}

/// The int32 tensors of a safetensors file: a header of JSON after its length, then the numbers.
pub(crate) struct IntTensors {
    header: serde_json::Value,
    data: Vec<u8>,
}

impl IntTensors {
    pub(crate) fn read(path: &str) -> Option<Self> {
        let file = read(path)?;
        let (length, rest) = file
            .split_first_chunk()
            .expect("the file begins with eight bytes of length");
        let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
        let header = serde_json::from_slice(header).expect("the header is JSON");
        Some(Self {
            header,
            data: data.to_owned(),
        })
    }

    /// The numbers of a tensor, row by row.
    pub(crate) fn get(&self, name: &str) -> Option<Vec<i32>> {
        let entry = self
            .header
            .get(name)
            .filter(|entry| entry["dtype"] == "I32")?;
        let offset = |which: usize| {
            entry["data_offsets"][which]
                .as_u64()
                .expect("offsets are numbers") as usize
        };
        let bytes = &self.data[offset(0)..offset(1)];
        Some(
            bytes
                .chunks_exact(4)
                .map(|four| i32::from_le_bytes(four.try_into().expect("four bytes")))
                .collect(),
        )
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.header
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str())
            .collect()
    }
}
