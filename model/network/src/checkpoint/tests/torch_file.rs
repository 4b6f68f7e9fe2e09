//! Writes files as `torch.save(state_dict)` does, and ones it never would.

use super::models::Model;

/// A tensor as the pickle describes it; all are f32.
#[derive(Clone)]
pub(super) struct TorchTensor {
    pub(super) storage: String,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

pub(super) struct TorchFile {
    pub(super) tensors: Vec<(String, TorchTensor)>,
    pub(super) storages: Vec<(String, Vec<u8>)>,
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
    pub(super) fn replace(&mut self, name: &str, with: TorchTensor) {
        let tensor = self
            .tensors
            .iter_mut()
            .find(|(other, _)| other == name)
            .unwrap();
        tensor.1 = with;
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        archive(&self.pickle(), &self.storages)
    }

    pub(super) fn pickle(&self) -> Vec<u8> {
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
pub(super) fn archive(pickle: &[u8], storages: &[(String, Vec<u8>)]) -> Vec<u8> {
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
pub(super) fn zip(entries: &[(String, &[u8])]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let (at, size, name_len) = (
            archive.len() as u32,
            (bytes.len() as u32).to_le_bytes(),
            name.len() as u16,
        );
        // Version, flags, method, time, date and checksum, all zero; then sizes and the name's length.
        let mut common = vec![0; 14];
        common.extend_from_slice(&size);
        common.extend_from_slice(&size);
        common.extend_from_slice(&name_len.to_le_bytes());
        common.extend_from_slice(&[0; 2]);

        archive.extend_from_slice(b"PK\x03\x04");
        archive.extend_from_slice(&common);
        archive.extend_from_slice(name.as_bytes());
        archive.extend_from_slice(bytes);

        directory.extend_from_slice(b"PK\x01\x02\0\0");
        directory.extend_from_slice(&common);
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&at.to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
    }
    let (start, size, count) = (
        archive.len() as u32,
        directory.len() as u32,
        entries.len() as u16,
    );
    archive.extend_from_slice(&directory);
    archive.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    archive.extend_from_slice(&count.to_le_bytes());
    archive.extend_from_slice(&count.to_le_bytes());
    archive.extend_from_slice(&size.to_le_bytes());
    archive.extend_from_slice(&start.to_le_bytes());
    archive.extend_from_slice(&[0; 2]);
    archive
}
