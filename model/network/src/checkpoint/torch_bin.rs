//! A file written by `torch.save(state_dict)`: a zip archive with one pickle that describes the tensors, and one
//! uncompressed entry for each storage. Tensors may share a storage, start inside it and have any strides.

use std::ops::Range;

use super::file::StoredTensor;
use super::pickle::{self, PickledTensor};
use super::zip::{self, Entries};
use super::{CheckpointError, Shape};

/// Longest pickle that is read, in bytes. A release with 1904 tensors has about 200 kB.
const MAX_PICKLE: usize = 8 << 20;

/// Tensors of the torch file `bytes`, which messages call `file`.
pub(crate) fn parse(file: &str, bytes: &[u8]) -> Result<Vec<StoredTensor>, CheckpointError> {
    let entries = zip::parse(file, bytes)?;
    let (root, pickle) = find_pickle(file, &entries)?;
    if let Some(order) = entries.get(&format!("{root}byteorder"))
        && &bytes[order.clone()] != b"little"
    {
        return Err(corrupt(
            file,
            "its numbers are big-endian, wanted little-endian".to_owned(),
        ));
    }
    let described = pickle::parse(file, &bytes[pickle])?;
    let mut tensors = Vec::with_capacity(described.len());
    for tensor in described {
        let key = format!("{root}data/{}", tensor.storage.key);
        let Some(storage) = entries.get(&key) else {
            return Err(corrupt(
                file,
                format!(
                    "tensor {} has its numbers in {key}, which is absent",
                    tensor.name
                ),
            ));
        };
        tensors.push(locate(file, tensor, storage)?);
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tensors)
}

fn corrupt(file: &str, reason: String) -> CheckpointError {
    CheckpointError::CorruptHeader {
        file: file.to_owned(),
        reason,
    }
}

/// The folder inside the archive, with its slash, and the pickle's bytes.
fn find_pickle(file: &str, entries: &Entries) -> Result<(String, Range<usize>), CheckpointError> {
    const NAME: &str = "data.pkl";
    let mut found = entries.iter().filter_map(|(name, range)| {
        let root = name.strip_suffix(NAME)?;
        (root.is_empty() || root.ends_with('/')).then_some((root, range))
    });
    let Some((root, range)) = found.next() else {
        return Err(corrupt(file, format!("its zip archive has no {NAME}")));
    };
    if found.next().is_some() {
        return Err(corrupt(
            file,
            format!("its zip archive has more than one {NAME}"),
        ));
    }
    if range.len() > MAX_PICKLE {
        let reason = format!(
            "its {NAME} has {} bytes, the limit is {MAX_PICKLE}",
            range.len()
        );
        return Err(corrupt(file, reason));
    }
    Ok((root.to_owned(), range.clone()))
}

/// Checks that a described tensor lies inside its storage.
fn locate(
    file: &str,
    tensor: PickledTensor,
    storage: &Range<usize>,
) -> Result<StoredTensor, CheckpointError> {
    let stored = tensor.storage.stored;
    let bad = |reason: String| CheckpointError::UnsupportedLayout {
        file: file.to_owned(),
        tensor: tensor.name.clone(),
        reason,
    };
    let numbers = |values: &[i64]| {
        values
            .iter()
            .map(|&value| usize::try_from(value).ok())
            .collect::<Option<Vec<_>>>()
    };
    let (Some(shape), Some(strides), Ok(offset)) = (
        numbers(&tensor.shape),
        numbers(&tensor.strides),
        usize::try_from(tensor.offset),
    ) else {
        return Err(bad("has a negative size, stride or offset".to_owned()));
    };
    if shape.len() != strides.len() {
        return Err(bad(format!(
            "has {} dimensions but {} strides",
            shape.len(),
            strides.len()
        )));
    }
    let capacity = storage.len() / stored.size();
    if usize::try_from(tensor.storage.num_elements).ok() != Some(capacity) {
        let claimed = tensor.storage.num_elements;
        return Err(bad(format!(
            "is in a storage of {capacity} elements that is said to have {claimed}"
        )));
    }
    if !fits(&shape, &strides, offset, capacity) {
        let shape = Shape(shape);
        return Err(bad(format!(
            "of shape {shape} at element {offset} does not fit its storage of {capacity} elements"
        )));
    }
    let offset = storage.start + offset * stored.size();
    Ok(StoredTensor {
        stored,
        shape: Shape(shape),
        offset,
        strides,
        name: tensor.name,
    })
}

/// Whether every element lies in a storage of `capacity` elements, and there are no more elements than that (a stride
/// of zero could claim any number of them).
fn fits(shape: &[usize], strides: &[usize], offset: usize, capacity: usize) -> bool {
    let Some(count) = shape
        .iter()
        .try_fold(1usize, |product, &dim| product.checked_mul(dim))
    else {
        return false;
    };
    if count == 0 {
        return offset <= capacity;
    }
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(offset, |sum, (&dim, &stride)| {
            (dim - 1)
                .checked_mul(stride)
                .and_then(|step| sum.checked_add(step))
        });
    count <= capacity && last.is_some_and(|last| last < capacity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensor_must_lie_inside_its_storage() {
        assert!(fits(&[2, 3], &[3, 1], 0, 6));
        assert!(fits(&[3, 2], &[1, 3], 0, 6));
        assert!(!fits(&[2, 3], &[3, 1], 1, 6));
        assert!(!fits(&[2, 3], &[usize::MAX, 1], 0, 6));
        assert!(
            !fits(&[7], &[0], 0, 6),
            "a stride of zero must not multiply the storage"
        );
        assert!(fits(&[0, 9], &[9, 1], 6, 6));
    }
}
