//! What lies in a folder.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

/// The deepest that folders are nested in anything but a mistake.
const MAX_DEPTH: usize = 64;

/// The files of a folder, below it and in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Walk {
    /// All that are no sidecars; whether they are pictures only their bytes tell.
    pub(super) files: Vec<PathBuf>,
    /// `metadata.jsonl`, those of outer folders first.
    pub(super) listings: Vec<PathBuf>,
    /// `*.json` and `*.txt`.
    pub(super) beside: HashSet<PathBuf>,
    /// Folders below that cannot be read.
    pub(super) unreadable: Vec<(PathBuf, String)>,
}

/// Follows no links, so it ends, and stays in the folder. `except` is left out: a library may lie inside the folder it is made from.
pub(super) fn walk(root: &Path, except: Option<&Path>) -> io::Result<Walk> {
    let mut walk = Walk::default();
    visit(root, Path::new(""), except, 0, &mut walk)?;
    walk.listings
        .sort_by_key(|path| (path.components().count(), path.clone()));
    Ok(walk)
}

fn visit(
    root: &Path,
    below: &Path,
    except: Option<&Path>,
    depth: usize,
    walk: &mut Walk,
) -> io::Result<()> {
    let mut entries = std::fs::read_dir(root.join(below))?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let path = below.join(&name);
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        let is_hidden = name.as_encoded_bytes().starts_with(b".");
        if is_hidden || except.is_some_and(|except| root.join(&path) == except) {
            continue;
        }
        if kind.is_dir() {
            let visited = if depth < MAX_DEPTH {
                visit(root, &path, except, depth + 1, walk)
            } else {
                Err(io::Error::other(format!(
                    "folders are nested more than {MAX_DEPTH} deep"
                )))
            };
            if let Err(error) = visited {
                walk.unreadable.push((path, error.to_string()));
            }
        } else if kind.is_file() {
            let extension = path
                .extension()
                .and_then(OsStr::to_str)
                .map(str::to_ascii_lowercase);
            match extension.as_deref() {
                Some("jsonl") if name == "metadata.jsonl" => walk.listings.push(path),
                Some("json" | "txt") => {
                    walk.beside.insert(path);
                }
                _ => walk.files.push(path),
            }
        }
    }
    Ok(())
}
