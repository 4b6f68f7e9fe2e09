//! Writes files as `torch.save(state_dict)` does, and ones it never would.

use super::models::Model;

/// A tensor as the pickle describes it; all are f32.
#[derive(Clone)]
pub(in crate::checkpoint) struct TorchTensor {
    pub(in crate::checkpoint) storage: String,
    pub(in crate::checkpoint) offset: usize,
    pub(in crate::checkpoint) shape: Vec<usize>,
    pub(in crate::checkpoint) strides: Vec<usize>,
}

pub(in crate::checkpoint) struct TorchFile {
    pub(in crate::checkpoint) tensors: Vec<(String, TorchTensor)>,
    pub(in crate::checkpoint) storages: Vec<(String, Vec<u8>)>,
}

impl TorchFile {
    /// Zeros for every tensor of `model`, each in a storage of its own.
    pub(super) fn of(model: &Model) -> Self {
        let mut file = Self {
            tensors: Vec::new(),
            storages: Vec::new(),
        };
        for (index, tensor) in model.tensors.iter().enumerate() {
            let strides = (1..=tensor.shape.len())
                .map(|next| tensor.shape[next..].iter().product())
                .collect();
            let storage = index.to_string();
            let described = TorchTensor {
                storage: storage.clone(),
                offset: 0,
                shape: tensor.shape.clone(),
                strides,
            };
            file.tensors.push((tensor.name.clone(), described));
            file.storages.push((
                storage,
                vec![0; usize::try_from(tensor.num_bytes()).unwrap()],
            ));
        }
        file
    }

    /// Describes the tensor `name` otherwise.
    pub(in crate::checkpoint) fn replace(&mut self, name: &str, with: TorchTensor) {
        let tensor = self
            .tensors
            .iter_mut()
            .find(|(other, _)| other == name)
            .unwrap();
        tensor.1 = with;
    }

    pub(in crate::checkpoint) fn bytes(&self) -> Vec<u8> {
        archive(&self.pickle(), &self.storages)
    }

    pub(in crate::checkpoint) fn pickle(&self) -> Vec<u8> {
        let mut pickle = vec![0x80, 2];
        pickle.extend_from_slice(b"ccollections\nOrderedDict\n)R(");
        for (name, tensor) in &self.tensors {
            text(&mut pickle, name);
            self.describe(&mut pickle, tensor);
        }
        // The state dict carries its versions as an attribute.
        pickle.extend_from_slice(b"u}");
        text(&mut pickle, "_metadata");
        pickle.extend_from_slice(b"}sb.");
        pickle
    }

    fn describe(&self, pickle: &mut Vec<u8>, tensor: &TorchTensor) {
        let bytes = self
            .storages
            .iter()
            .find(|(key, _)| *key == tensor.storage)
            .map_or(0, |(_, bytes)| bytes.len());
        pickle.extend_from_slice(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(pickle, "storage");
        pickle.extend_from_slice(b"ctorch\nFloatStorage\n");
        text(pickle, &tensor.storage);
        text(pickle, "cpu");
        int(pickle, bytes / 4);
        pickle.extend_from_slice(b"tQ");
        int(pickle, tensor.offset);
        for numbers in [&tensor.shape, &tensor.strides] {
            pickle.push(b'(');
            numbers.iter().for_each(|&number| int(pickle, number));
            pickle.push(b't');
        }
        pickle.extend_from_slice(b"\x89ccollections\nOrderedDict\n)RtR");
    }
}

fn text(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    pickle.extend_from_slice(&(text.len() as u32).to_le_bytes());
    pickle.extend_from_slice(text.as_bytes());
}

fn int(pickle: &mut Vec<u8>, number: usize) {
    pickle.push(b'J');
    pickle.extend_from_slice(&i32::try_from(number).unwrap().to_le_bytes());
}

/// The archive around a pickle and its storages.
pub(in crate::checkpoint) fn archive(pickle: &[u8], storages: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut entries = vec![
        ("model/data.pkl".to_owned(), pickle),
        ("model/byteorder".to_owned(), b"little".as_slice()),
    ];
    entries.extend(
        storages
            .iter()
            .map(|(key, bytes)| (format!("model/data/{key}"), bytes.as_slice())),
    );
    zip(&entries)
}

/// A zip archive of stored entries, without checksums.
pub(in crate::checkpoint) fn zip(entries: &[(String, &[u8])]) -> Vec<u8> {
    zip_as(entries, Width::Narrow)
}

/// Whether sizes and places are in the 32-bit fields, or in the 64-bit records that archives above 4 GB need.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::checkpoint) enum Width {
    Narrow,
    Wide,
}

pub(in crate::checkpoint) fn zip_as(entries: &[(String, &[u8])], width: Width) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let (at, size) = (archive.len() as u64, bytes.len() as u64);
        archive.extend_from_slice(b"PK\x03\x04");
        archive.extend_from_slice(&common_fields(size as u32, name, 0));
        archive.extend_from_slice(name.as_bytes());
        archive.extend_from_slice(bytes);

        let extra = match width {
            Width::Narrow => Vec::new(),
            // Another record comes first, as some writers have it.
            Width::Wide => [&[9, 0, 1, 0, 7, 1, 0, 24, 0][..], &wide(&[size, size, at])].concat(),
        };
        let narrow = |number: u64| {
            if width == Width::Wide {
                u32::MAX
            } else {
                number as u32
            }
        };
        directory.extend_from_slice(b"PK\x01\x02\0\0");
        directory.extend_from_slice(&common_fields(narrow(size), name, extra.len() as u16));
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&narrow(at).to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
        directory.extend_from_slice(&extra);
    }
    let (start, size, count) = (
        archive.len() as u64,
        directory.len() as u64,
        entries.len() as u64,
    );
    archive.extend_from_slice(&directory);
    if width == Width::Wide {
        let end = archive.len() as u64;
        archive.extend_from_slice(b"PK\x06\x06");
        archive.extend_from_slice(&wide(&[44]));
        // Versions and disks.
        archive.extend_from_slice(&[0; 12]);
        archive.extend_from_slice(&wide(&[count, count, size, start]));
        archive.extend_from_slice(b"PK\x06\x07\0\0\0\0");
        archive.extend_from_slice(&wide(&[end]));
        archive.extend_from_slice(&1u32.to_le_bytes());
    }
    let narrow = |number: u64| {
        if width == Width::Wide {
            u32::MAX
        } else {
            number as u32
        }
    };
    archive.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    archive.extend_from_slice(&(count as u16).to_le_bytes());
    archive.extend_from_slice(&(count as u16).to_le_bytes());
    archive.extend_from_slice(&narrow(size).to_le_bytes());
    archive.extend_from_slice(&narrow(start).to_le_bytes());
    archive.extend_from_slice(&[0; 2]);
    archive
}

/// What both headers of an entry have: version, flags, method, time, date and checksum, all zero; then the sizes and
/// the lengths of the name and of what follows it.
fn common_fields(size: u32, name: &str, extra_len: u16) -> Vec<u8> {
    let mut fields = vec![0; 14];
    fields.extend_from_slice(&size.to_le_bytes());
    fields.extend_from_slice(&size.to_le_bytes());
    fields.extend_from_slice(&(name.len() as u16).to_le_bytes());
    fields.extend_from_slice(&extra_len.to_le_bytes());
    fields
}

fn wide(numbers: &[u64]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
}
