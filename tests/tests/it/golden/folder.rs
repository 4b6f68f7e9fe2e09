//! The golden data on disk: the root, its folders and what kind each is, a folder's manifest and tensors. Every tensor and
//! case that a test asks for is noted, so that what nobody asked for can be told at the end.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use half::{bf16, f16};
use safetensors::{SafeTensors, tensor::Dtype};
use serde::Deserialize;
use serde_json::Value;

/// Names the folder that holds the golden folders.
const ROOT_VARIABLE: &str = "INKSTONE_GOLDENS";

/// Names a `tokenizer.model` for checkpoints that have none of their own.
const TOKENIZER_VARIABLE: &str = "INKSTONE_TOKENIZER";

const MANIFEST_FILE: &str = "manifest.json";
const TENSORS_FILE: &str = "goldens.safetensors";
pub(super) const TOKENIZER_CASES_FILE: &str = "tokenizer.json";
pub(super) const LAYOUT_FILE: &str = "layout.json";

/// What a golden folder is about, told by what it holds and not by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FolderKind {
    /// Strings and ids of the real tokenizer.
    Tokenizer,
    /// Pictures to pixels.
    Preprocess,
    /// Single operations.
    Units,
    /// A model that takes pictures as one square.
    SingleScale,
    /// A model that takes pictures as tiles.
    Tiled,
    /// One set of weights under several configs.
    Rope,
}

/// All golden folders of one kind.
pub(super) fn folders(kind: FolderKind) -> Vec<PathBuf> {
    let folders = subfolders(&root()).into_iter();
    folders
        .filter(|folder| kind_of(folder) == Some(kind))
        .collect()
}

/// All folders that hold golden data.
pub(super) fn all() -> Vec<PathBuf> {
    let folders = subfolders(&root()).into_iter();
    folders.filter(|folder| kind_of(folder).is_some()).collect()
}

/// Folders that hold golden data of no kind known here.
pub(super) fn unknown_folders() -> Vec<PathBuf> {
    let folders = subfolders(&root()).into_iter();
    folders
        .filter(|folder| kind_of(folder).is_none() && is_golden(folder))
        .collect()
}

/// The folder of all golden folders.
pub(super) fn root() -> PathBuf {
    let root = env::var_os(ROOT_VARIABLE).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens"),
        PathBuf::from,
    );
    // Nextest runs tests in the folder of their crate; whoever sets the variable thinks of the workspace.
    let above = [".", ".."].map(|above| Path::new(above).join(&root));
    let found = above.into_iter().find(|root| root.is_dir());
    found.unwrap_or_else(|| panic!("there is no folder {} with golden data", root.display()))
}

/// The real `tokenizer.model`: the one that the environment names, or the one beside the golden data, or the one in the shared
/// data around the workspace.
pub(super) fn real_tokenizer() -> Option<PathBuf> {
    let named = env::var_os(TOKENIZER_VARIABLE).map(PathBuf::from);
    let beside = root().join("../tokenizer/tokenizer.model");
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let shared = above.map(|dir| dir.join("shared/tokenizer/tokenizer.model"));
    let mut files = named.into_iter().chain([beside]).chain(shared);
    files.find(|file| file.is_file())
}

fn kind_of(folder: &Path) -> Option<FolderKind> {
    if folder.join(TOKENIZER_CASES_FILE).is_file() {
        return Some(FolderKind::Tokenizer);
    }
    if !folder.join(MANIFEST_FILE).is_file() {
        return None;
    }
    let has_checkpoint = !checkpoints(folder).is_empty();
    Some(match has_checkpoint {
        true if !config_variants(folder).is_empty() => FolderKind::Rope,
        _ if folder.join(LAYOUT_FILE).is_file() => FolderKind::Tiled,
        true => FolderKind::SingleScale,
        false if folder.join("images").is_dir() => FolderKind::Preprocess,
        false => FolderKind::Units,
    })
}

fn is_golden(folder: &Path) -> bool {
    [MANIFEST_FILE, TENSORS_FILE]
        .iter()
        .any(|file| folder.join(file).exists())
}

/// The checkpoint folders in a golden folder, the one with the shortest name (the main one) first.
pub(super) fn checkpoints(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = subfolders(folder)
        .into_iter()
        .filter(|folder| folder.join("config.json").is_file())
        .collect();
    found.sort_by_key(|folder| folder.as_os_str().len());
    found
}

/// The files `config.VARIANT.json` of a golden folder, by variant.
pub(super) fn config_variants(folder: &Path) -> BTreeMap<String, PathBuf> {
    let variant = |file: PathBuf| {
        let name = file.file_name()?.to_str()?;
        let variant = name.strip_prefix("config.")?.strip_suffix(".json")?;
        Some((variant.to_owned(), file.clone()))
    };
    entries(folder).into_iter().filter_map(variant).collect()
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    entries(folder)
        .into_iter()
        .filter(|path| path.is_dir())
        .collect()
}

/// Everything in a folder, by name.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let read = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut found: Vec<_> = read.flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// The last part of a path, for people to read.
pub(super) fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[derive(Debug, Deserialize)]
struct Manifest {
    tensors: BTreeMap<String, Value>,
    #[serde(default)]
    cases: BTreeMap<String, Value>,
    #[serde(default)]
    spec: Value,
}

/// One golden folder with a manifest and tensors.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) name: String,
    manifest: Manifest,
    tensors: BTreeMap<String, StoredTensor>,
    bytes: Vec<u8>,
    used: RefCell<BTreeSet<String>>,
}

struct StoredTensor {
    shape: Vec<usize>,
    dtype: Dtype,
    start: usize,
    end: usize,
}

/// A golden tensor as numbers.
#[derive(Clone, Debug)]
pub(super) struct Golden<T> {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<T>,
}

impl<T> Golden<T> {
    /// Length of a row when all dimensions but the last are taken as one.
    pub(super) fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    pub(super) fn rows(&self) -> std::slice::ChunksExact<'_, T> {
        self.values.chunks_exact(self.cols().max(1))
    }
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let read = |file: &str| {
            let file = path.join(file);
            fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
        };
        let manifest: Manifest = serde_json::from_slice(&read(MANIFEST_FILE)?)
            .with_context(|| format!("the manifest of {}", path.display()))?;
        let bytes = read(TENSORS_FILE)?;
        let tensors = index(&bytes).with_context(|| format!("{TENSORS_FILE} of {path:?}"))?;
        let folder = Self {
            name: name_of(path),
            path: path.to_owned(),
            manifest,
            tensors,
            bytes,
            used: RefCell::default(),
        };
        folder.check_shapes()?;
        Ok(folder)
    }

    /// Names of all tensors, in the manifest or out of it.
    pub(super) fn tensor_names(&self) -> BTreeSet<&str> {
        let described = self.manifest.tensors.keys();
        described
            .chain(self.tensors.keys())
            .map(String::as_str)
            .collect()
    }

    pub(super) fn has(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }

    /// What comes before `suffix` in the names of the tensors that end in it.
    pub(super) fn stems(&self, suffix: &str) -> Vec<String> {
        let stems = self
            .tensors
            .keys()
            .filter_map(|name| name.strip_suffix(suffix));
        stems.map(str::to_owned).collect()
    }

    pub(super) fn case_names(&self) -> Vec<&str> {
        self.manifest.cases.keys().map(String::as_str).collect()
    }

    pub(super) fn case(&self, name: &str) -> Option<&Value> {
        let case = self.manifest.cases.get(name)?;
        self.note(&format!("case {name}"));
        Some(case)
    }

    /// A case as a type of ours.
    pub(super) fn case_as<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Result<T> {
        let case = self
            .case(name)
            .with_context(|| format!("there is no case {name}"))?;
        T::deserialize(case).with_context(|| format!("case {name}"))
    }

    /// What the manifest says of a tensor under `key`.
    pub(super) fn attribute(&self, tensor: &str, key: &str) -> Option<&Value> {
        self.manifest.tensors.get(tensor)?.get(key)
    }

    /// The model's or the operations' sizes.
    pub(super) fn spec(&self, key: &str) -> Result<f64> {
        self.manifest.spec[key]
            .as_f64()
            .with_context(|| format!("the manifest's spec has no number {key}"))
    }

    /// The largest difference to accept in a tensor.
    pub(super) fn atol(&self, tensor: &str) -> Result<f32> {
        let atol = self.attribute(tensor, "atol").and_then(Value::as_f64);
        Ok(atol.with_context(|| format!("the manifest gives no atol for {tensor}"))? as f32)
    }

    pub(super) fn f32(&self, name: &str) -> Result<Golden<f32>> {
        self.read(name, |dtype, bytes| {
            Ok(match dtype {
                Dtype::F32 => numbers(bytes, f32::from_le_bytes),
                Dtype::BF16 => numbers(bytes, |b| bf16::from_le_bytes(b).to_f32()),
                Dtype::F16 => numbers(bytes, |b| f16::from_le_bytes(b).to_f32()),
                other => bail!("{name} is {other:?}, wanted floating point"),
            })
        })
    }

    pub(super) fn i32(&self, name: &str) -> Result<Golden<i32>> {
        self.read(name, |dtype, bytes| {
            ensure!(dtype == Dtype::I32, "{name} is {dtype:?}, wanted I32");
            Ok(numbers(bytes, i32::from_le_bytes))
        })
    }

    pub(super) fn u8(&self, name: &str) -> Result<Golden<u8>> {
        self.read(name, |dtype, bytes| {
            ensure!(dtype == Dtype::U8, "{name} is {dtype:?}, wanted U8");
            Ok(bytes.to_vec())
        })
    }

    /// Non-negative numbers, such as positions and token ids.
    pub(super) fn indices(&self, name: &str) -> Result<Vec<usize>> {
        let values = self.i32(name)?.values.into_iter();
        values
            .map(|value| usize::try_from(value).with_context(|| format!("{name} has {value}")))
            .collect()
    }

    pub(super) fn ids(&self, name: &str) -> Result<Vec<u32>> {
        let indices = self.indices(name)?.into_iter();
        Ok(indices.map(|id| id as u32).collect())
    }

    /// Notes a tensor or case as dealt with.
    pub(super) fn note(&self, name: &str) {
        self.used.borrow_mut().insert(name.to_owned());
    }

    /// Tensors and cases that nobody has asked for.
    pub(super) fn unused(&self) -> Vec<String> {
        let used = self.used.borrow();
        let tensors = self.tensor_names().into_iter().map(str::to_owned);
        let cases = self
            .case_names()
            .into_iter()
            .map(|name| format!("case {name}"));
        tensors
            .chain(cases)
            .filter(|name| !used.contains(name))
            .collect()
    }

    fn read<T>(
        &self,
        name: &str,
        convert: impl Fn(Dtype, &[u8]) -> Result<Vec<T>>,
    ) -> Result<Golden<T>> {
        let tensor = self
            .tensors
            .get(name)
            .with_context(|| format!("there is no tensor {name}"))?;
        self.note(name);
        Ok(Golden {
            name: name.to_owned(),
            shape: tensor.shape.clone(),
            values: convert(tensor.dtype, &self.bytes[tensor.start..tensor.end])?,
        })
    }

    /// The manifest's shapes are the file's, for every tensor it describes.
    fn check_shapes(&self) -> Result<()> {
        for (name, entry) in &self.manifest.tensors {
            let stored = self.tensors.get(name);
            let stored = stored
                .with_context(|| format!("{}: {TENSORS_FILE} lacks {name}", self.path.display()))?;
            let wanted: Vec<usize> = Deserialize::deserialize(&entry["shape"])
                .with_context(|| format!("the shape of {name} in the manifest"))?;
            ensure!(
                wanted == stored.shape,
                "{}: {name} is {:?}, its manifest says {wanted:?}",
                self.path.display(),
                stored.shape
            );
        }
        Ok(())
    }
}

fn index(bytes: &[u8]) -> Result<BTreeMap<String, StoredTensor>> {
    let (header, _) = SafeTensors::read_metadata(bytes)?;
    let base = header + size_of::<u64>();
    let file = SafeTensors::deserialize(bytes)?;
    let data = bytes[base..].as_ptr() as usize;
    let stored = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let start = base + (view.data().as_ptr() as usize - data);
        let tensor = StoredTensor {
            shape: view.shape().to_vec(),
            dtype: view.dtype(),
            start,
            end: start + view.data().len(),
        };
        (name, tensor)
    };
    Ok(file.tensors().into_iter().map(stored).collect())
}

fn numbers<T, const N: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = bytes.as_chunks();
    chunks.iter().map(|chunk| convert(*chunk)).collect()
}
