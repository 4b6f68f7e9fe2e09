//! Reads golden tensors for the tests of this crate. The whole set is large and lives outside the repository, in `shared/goldens`
//! beside it or above; a test whose goldens are absent says so and passes. The smaller copy in `tests/goldens` is for the
//! golden tests of the whole workspace.

#![expect(clippy::print_stderr, reason = "a test that is skipped says so")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use safetensors::SafeTensors;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A line for whoever runs the tests with their output shown.
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}

/// One folder of golden data.
pub(crate) struct Goldens {
    pub(crate) folder: PathBuf,
    pub(crate) manifest: Value,
    bytes: Vec<u8>,
}

impl Goldens {
    pub(crate) fn open(name: &str) -> Option<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .map(|dir| dir.join("shared/goldens").join(name))
            .find(|folder| folder.is_dir());
        let Some(folder) = folder else {
            eprintln!("skipped: the goldens of {name} are not on this machine");
            return None;
        };
        let read = |file: &str| fs::read(folder.join(file)).unwrap();
        Some(Self {
            manifest: serde_json::from_slice(&read("manifest.json")).unwrap(),
            bytes: read("goldens.safetensors"),
            folder,
        })
    }

    /// Names of all tensors that end in `suffix`, without it.
    pub(crate) fn stems(&self, suffix: &str) -> Vec<String> {
        let tensors = self.manifest["tensors"].as_object().unwrap();
        let stems = tensors.keys().filter_map(|name| name.strip_suffix(suffix));
        stems.map(str::to_owned).collect()
    }

    /// Shape and values of an f32 tensor.
    pub(crate) fn f32(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let (shape, bytes) = self.tensor(name);
        (shape, bytemuck::pod_collect_to_vec(&bytes))
    }

    /// Values of an int32 tensor.
    pub(crate) fn i32(&self, name: &str) -> Vec<i32> {
        bytemuck::pod_collect_to_vec(&self.tensor(name).1)
    }

    /// Sizes of a tensor.
    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        self.tensor(name).0
    }

    /// Values of a uint8 tensor.
    pub(crate) fn u8(&self, name: &str) -> Vec<u8> {
        self.tensor(name).1
    }

    /// Token ids.
    pub(crate) fn ids(&self, name: &str) -> Vec<u32> {
        self.i32(name).into_iter().map(|id| id as u32).collect()
    }

    /// A list that stands beside a tensor's description, or in the case of that name.
    pub(crate) fn list<T: DeserializeOwned>(&self, name: &str, key: &str) -> Vec<T> {
        let beside = ["tensors", "cases"].map(|group| &self.manifest[group][name][key]);
        let list = beside.into_iter().find(|value| value.is_array()).unwrap();
        serde_json::from_value(list.clone()).unwrap()
    }

    /// The largest difference to accept in a tensor.
    pub(crate) fn atol(&self, name: &str) -> f32 {
        self.manifest["tensors"][name]["atol"].as_f64().unwrap() as f32
    }

    /// Fails unless `found` is the tensor, within its tolerance.
    #[track_caller]
    pub(crate) fn assert_close(&self, name: &str, found: &[f32]) {
        let (shape, wanted) = self.f32(name);
        assert_eq!(found.len(), wanted.len(), "{name} of shape {shape:?}");
        let worst = largest_difference(found, &wanted);
        let atol = self.atol(name);
        assert!(
            worst <= atol,
            "{name}: largest difference {worst}, allowed {atol}"
        );
        say(&format!("{name}: largest difference {worst:e} of {atol:e}"));
    }

    fn tensor(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = tensors.tensor(name).unwrap();
        (tensor.shape().to_vec(), tensor.data().to_vec())
    }
}

/// The largest absolute difference; infinite if any is not a number.
pub(crate) fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |worst, difference| {
        if difference.is_nan() {
            f32::INFINITY
        } else {
            worst.max(difference)
        }
    })
}
