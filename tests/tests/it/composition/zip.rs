//! Reads archives whose files are stored as they are, by the format's own description: what others wrote is held against it.

use std::collections::BTreeMap;

const END: &[u8] = b"PK\x05\x06";
const ENTRY: &[u8] = b"PK\x01\x02";
const FILE: &[u8] = b"PK\x03\x04";

/// The files of an archive by their names.
pub(super) fn read(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let end = (0..=archive.len() - 22).rfind(|at| archive[*at..].starts_with(END));
    let end = end.expect("an archive has an end");
    let count = number(archive, end + 10, 2);
    let mut at = number(archive, end + 16, 4);
    let mut files = BTreeMap::new();
    for _ in 0..count {
        assert!(archive[at..].starts_with(ENTRY), "an entry");
        let method = number(archive, at + 10, 2);
        assert_eq!(method, 0, "it is stored");
        let checksum = number(archive, at + 16, 4);
        let (packed, size) = (number(archive, at + 20, 4), number(archive, at + 24, 4));
        assert_eq!(packed, size);
        let lengths = [28, 30, 32].map(|field| number(archive, at + field, 2));
        let file = number(archive, at + 42, 4);
        let name = &archive[at + 46..at + 46 + lengths[0]];
        let name = String::from_utf8(name.to_vec()).expect("UTF-8");
        assert!(archive[file..].starts_with(FILE), "a file");
        let start = file + 30 + number(archive, file + 26, 2) + number(archive, file + 28, 2);
        let data = archive[start..start + size].to_vec();
        assert_eq!(crc32(&data) as usize, checksum, "{name} is whole");
        let is_new = files.insert(name, data).is_none();
        assert!(is_new, "each name once");
        at += 46 + lengths.iter().sum::<usize>();
    }
    files
}

/// Little-endian.
fn number(bytes: &[u8], at: usize, len: usize) -> usize {
    let bytes = bytes[at..at + len].iter().rev();
    bytes.fold(0, |number, byte| (number << 8) | usize::from(*byte))
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
        })
    };
    !bytes.iter().fold(!0, step)
}

#[test]
fn composition_archives_are_read_by_their_own_description() {
    // One file, `a`, which holds `123456789`; its checksum is the one that CRC-32 is checked by.
    let mut archive =
        b"PK\x03\x04\x0a\0\0\0\0\0\0\0\0\0\x26\x39\xf4\xcb\x09\0\0\0\x09\0\0\0\x01\0\0\0a123456789"
            .to_vec();
    let entry = archive.len() as u32;
    archive.extend(b"PK\x01\x02\x0a\0\x0a\0\0\0\0\0\0\0\0\0\x26\x39\xf4\xcb\x09\0\0\0\x09\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0a");
    let len = archive.len() as u32 - entry;
    archive.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    archive.extend([len.to_le_bytes(), entry.to_le_bytes()].concat());
    archive.extend([0, 0]);
    let files = read(&archive);
    assert_eq!(files["a"], b"123456789");
    assert_eq!(files.len(), 1);
}
