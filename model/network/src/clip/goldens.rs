//! Reads the golden tensors that the reference gave, for the tests of this folder. They are large and live outside the
//! repository, in `shared/goldens` beside it or above; a test whose goldens are absent says so and passes.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A line for whoever runs the tests with their output shown.
#[expect(
    clippy::print_stderr,
    reason = "tests say what they skip and how close they came"
)]
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
    /// Opens `shared/goldens/NAME`, or says that it is not there.
    pub(crate) fn open(name: &str) -> Option<Self> {
        let relative = Path::new("shared/goldens").join(name);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .map(|a| a.join(&relative))
            .find(|f| f.is_dir());
        let Some(folder) = folder else {
            say(&format!("skipped: there is no {} here", relative.display()));
            return None;
        };
        let read = |file: &str| fs::read(folder.join(file)).expect("a golden file");
        let manifest = serde_json::from_slice(&read("manifest.json")).expect("a manifest");
        Some(Self {
            bytes: read("goldens.safetensors"),
            manifest,
            folder,
        })
    }

    /// Names of all tensors that end in `suffix`, without it.
    pub(crate) fn stems(&self, suffix: &str) -> Vec<String> {
        let tensors = self.manifest["tensors"]
            .as_object()
            .expect("the manifest's tensors");
        tensors
            .keys()
            .filter_map(|name| name.strip_suffix(suffix))
            .map(str::to_owned)
            .collect()
    }

    pub(crate) fn u8(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        let (shape, dtype, data) = self.tensor(name);
        assert_eq!(dtype, Dtype::U8, "{name}");
        (shape, data)
    }

    pub(crate) fn f32(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let (shape, dtype, data) = self.tensor(name);
        assert_eq!(dtype, Dtype::F32, "{name}");
        (
            shape,
            data.as_chunks()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect(),
        )
    }

    pub(crate) fn i32(&self, name: &str) -> Vec<i32> {
        let (_, dtype, data) = self.tensor(name);
        assert_eq!(dtype, Dtype::I32, "{name}");
        data.as_chunks()
            .0
            .iter()
            .map(|b| i32::from_le_bytes(*b))
            .collect()
    }

    /// A list beside a tensor's description or in a case of that name.
    pub(crate) fn list<T: DeserializeOwned>(&self, name: &str, key: &str) -> Vec<T> {
        let found =
            [&self.manifest["tensors"], &self.manifest["cases"]].map(|group| &group[name][key]);
        let list = found
            .into_iter()
            .find(|value| value.is_array())
            .unwrap_or_else(|| panic!("{name} has no {key}"));
        serde_json::from_value(list.clone()).expect("a list of that type")
    }

    /// The largest difference that the manifest accepts for a tensor.
    pub(crate) fn atol(&self, name: &str) -> f32 {
        self.manifest["tensors"][name]["atol"]
            .as_f64()
            .expect("a tolerance") as f32
    }

    /// Checks values against a golden tensor within its tolerance.
    pub(crate) fn assert_close(&self, name: &str, found: &[f32]) {
        let (_, expected) = self.f32(name);
        assert_eq!(found.len(), expected.len(), "{name}: number of values");
        let worst = found
            .iter()
            .zip(&expected)
            .map(|(f, e)| (f - e).abs())
            .fold(0.0, f32::max);
        let atol = self.atol(name);
        assert!(
            worst <= atol,
            "{name}: differs by {worst}, accepted is {atol}"
        );
        say(&format!("{name}: largest difference {worst:e} of {atol:e}"));
    }

    fn tensor(&self, name: &str) -> (Vec<usize>, Dtype, Vec<u8>) {
        let all = SafeTensors::deserialize(&self.bytes).expect("golden tensors");
        let tensor = all.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        (
            tensor.shape().to_vec(),
            tensor.dtype(),
            tensor.data().to_vec(),
        )
    }
}
