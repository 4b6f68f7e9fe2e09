//! Tiny checkpoints with weights of zero whose list of tensors a test can change before they are written.

use inkstone_interface::config::ModelConfig;
use serde_json::Value;
use tempfile::TempDir;

use super::torch_file::TorchFile;
use crate::checkpoint::{TensorSpec, WeightsWriter, inventory};
use crate::synthesize::Preset;
use crate::tensor::DType;

pub(super) struct Model {
    pub(super) config: ModelConfig,
    pub(super) tensors: Vec<TensorSpec>,
    pub(super) max_file_bytes: u64,
}

impl Model {
    pub(super) fn tiny() -> Self {
        Self::of(Preset::Tiny)
    }

    pub(super) fn of(preset: Preset) -> Self {
        let config = preset.config();
        let tensors = inventory(&config, &preset.structure())
            .into_iter()
            .map(|tensor| TensorSpec {
                name: tensor.name,
                shape: tensor.shape.0,
                dtype: DType::F32,
            })
            .collect();
        Self {
            config,
            tensors,
            max_file_bytes: u64::MAX,
        }
    }

    pub(super) fn add(&mut self, name: &str, shape: &[usize]) {
        self.tensors.push(TensorSpec {
            name: name.to_owned(),
            shape: shape.to_vec(),
            dtype: DType::F32,
        });
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.tensors.retain(|tensor| tensor.name != name);
    }

    pub(super) fn reshape(&mut self, name: &str, shape: &[usize]) {
        let tensor = self
            .tensors
            .iter_mut()
            .find(|tensor| tensor.name == name)
            .unwrap();
        tensor.shape = shape.to_vec();
    }

    pub(super) fn set_ranks(&mut self, wqkv: usize, others: usize) {
        for tensor in &mut self.tensors {
            let rank = if tensor.name.contains("wqkv") {
                wqkv
            } else {
                others
            };
            if tensor.name.contains("Plora_A") {
                tensor.shape[0] = rank;
            } else if tensor.name.contains("Plora_B") {
                tensor.shape[1] = rank;
            }
        }
    }

    /// A folder with the config and the weights as safetensors.
    pub(super) fn write(&self) -> TempDir {
        let temp = self.write_config();
        let mut writer = WeightsWriter::new(temp.path(), self.tensors.clone(), self.max_file_bytes);
        let bytes = usize::try_from(writer.bytes_total()).unwrap();
        writer.write(&vec![0; bytes]).unwrap();
        writer.finish().unwrap();
        temp
    }

    /// A folder with the config and `file` as weights.
    pub(super) fn write_torch(&self, file: &TorchFile) -> TempDir {
        let temp = self.write_config();
        std::fs::write(temp.path().join("pytorch_model.bin"), file.bytes()).unwrap();
        temp
    }

    fn write_config(&self) -> TempDir {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(
            temp.path().join("config.json"),
            serde_json::to_string(&self.config).unwrap(),
        )
        .unwrap();
        temp
    }
}

/// Changes the header of a safetensors file and leaves its data.
pub(super) fn edit_header(path: &std::path::Path, edit: impl FnOnce(&mut Value)) {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    edit(&mut header);
    let header = header.to_string();
    let mut edited = (header.len() as u64).to_le_bytes().to_vec();
    edited.extend_from_slice(header.as_bytes());
    edited.extend_from_slice(&bytes[8 + length..]);
    std::fs::write(path, edited).unwrap();
}
