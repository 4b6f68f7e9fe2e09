//! Files made to do harm: whatever their bytes, parsing ends with tensors or an error, in little memory, and tensors
//! that are let through can be read.

use proptest::prelude::*;

use super::torch_file::{TorchFile, TorchTensor, archive};
use crate::checkpoint::file::StoredTensor;
use crate::checkpoint::{CheckpointError, load, pickle, safetensors, torch_bin};

/// A small safetensors file with two tensors.
fn safetensors_file() -> Vec<u8> {
    let header = br#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"bb":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(&[1; 32]);
    bytes
}

/// A small torch file with a plain and a transposed tensor.
fn torch_file() -> TorchFile {
    let tensor = |storage: &str, shape: [usize; 2], strides: [usize; 2]| TorchTensor {
        storage: storage.to_owned(),
        offset: 0,
        shape: shape.to_vec(),
        strides: strides.to_vec(),
    };
    TorchFile {
        tensors: vec![
            ("a".to_owned(), tensor("0", [2, 3], [3, 1])),
            ("b".to_owned(), tensor("1", [3, 2], [1, 3])),
        ],
        storages: vec![("0".to_owned(), vec![1; 24]), ("1".to_owned(), vec![2; 24])],
    }
}

/// Reads whatever was let through.
fn read_all(file: &[u8], tensors: Result<Vec<StoredTensor>, CheckpointError>) {
    for tensor in tensors.unwrap_or_default() {
        assert!(tensor.shape.num_elements().unwrap() * tensor.stored.size() <= file.len());
        load::read_for_test(file, &tensor);
    }
}

/// Ways to damage bytes: values put at places, then a cut.
fn damage() -> impl Strategy<Value = (Vec<(prop::sample::Index, u8)>, Option<prop::sample::Index>)>
{
    let puts = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (
        puts,
        prop::option::weighted(0.3, any::<prop::sample::Index>()),
    )
}

fn damaged(
    mut bytes: Vec<u8>,
    (puts, cut): &(Vec<(prop::sample::Index, u8)>, Option<prop::sample::Index>),
) -> Vec<u8> {
    for (place, value) in puts {
        let place = place.index(bytes.len());
        bytes[place] = *value;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len()));
    }
    bytes
}

/// Pickle made of opcodes that the reader knows, mostly with sensible arguments.
fn opcodes() -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<&[u8]> = vec![
        b"(",
        b"N",
        b"\x88",
        b"K\x02",
        b"M\x01\x02",
        b"J\xff\xff\xff\xff",
        b"\x8a\x02\x01\xff",
        b"G\0\0\0\0\0\0\0\0",
        b"X\x01\0\0\0a",
        b"\x8c\x07storage",
        b")",
        b"\x85",
        b"\x86",
        b"\x87",
        b"t",
        b"}",
        b"s",
        b"u",
        b"q\x01",
        b"\x94",
        b"h\x01",
        b"h\0",
        b"j\x01\0\0\0",
        b"ctorch\nFloatStorage\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ccollections\nOrderedDict\n",
        b"ctorch._utils\n_rebuild_parameter\n",
        b"\x93",
        b"Q",
        b"R",
        b"b",
    ];
    prop::collection::vec(prop::sample::select(known), 0..60).prop_map(|parts| {
        let mut pickle = parts.concat();
        pickle.push(b'.');
        pickle
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_safetensors_file_never_panics(damage in damage()) {
        let bytes = damaged(safetensors_file(), &damage);
        read_all(&bytes, safetensors::parse("f", &bytes));
    }

    #[test]
    fn damaged_torch_file_never_panics(damage in damage()) {
        let bytes = damaged(torch_file().bytes(), &damage);
        read_all(&bytes, torch_bin::parse("f", &bytes));
    }

    #[test]
    fn damaged_pickle_in_a_sound_archive_never_panics(damage in damage()) {
        let file = torch_file();
        let bytes = archive(&damaged(file.pickle(), &damage), &file.storages);
        read_all(&bytes, torch_bin::parse("f", &bytes));
    }

    #[test]
    fn pickle_of_random_opcodes_never_panics(pickle in opcodes()) {
        let _ = pickle::parse("f", &pickle);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = safetensors::parse("f", &bytes);
        let _ = torch_bin::parse("f", &bytes);
        let _ = pickle::parse("f", &bytes);
    }
}

#[test]
fn deep_nesting_ends_without_a_deep_stack() {
    let mut pickle = vec![b')'];
    pickle.resize(4_000_000, 0x85);
    pickle.push(b'.');
    assert!(pickle::parse("f", &pickle).is_err());
}

#[test]
fn tuple_that_doubles_each_time_costs_no_more_than_its_pickle() {
    // Each round makes a tuple of the last one, twice; written out it would have 2^500000 items.
    let mut pickle = b")q\x01".to_vec();
    for _ in 0..500_000 {
        pickle.extend_from_slice(b"h\x01h\x01\x86q\x01");
    }
    pickle.push(b'.');
    assert!(pickle::parse("f", &pickle).is_err());
}

#[test]
fn name_repeated_by_reference_is_not_copied_each_time() {
    // A megabyte of name, set a million times: refused at the second.
    let mut pickle = b"}(X\x40\x42\x0f\0".to_vec();
    pickle.resize(pickle.len() + 1_000_000, b'a');
    pickle.extend_from_slice(b"q\x01N");
    for _ in 0..1_000_000 {
        pickle.extend_from_slice(b"h\x01N");
    }
    pickle.extend_from_slice(b"u.");
    let error = pickle::parse("f", &pickle).unwrap_err().to_string();
    assert!(error.len() < 1000, "{} bytes of message", error.len());
}
