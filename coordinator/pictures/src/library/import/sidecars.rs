//! What files beside the pictures say of them. They come from anywhere, so everything in them has a limit.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use super::super::Details;
use super::walk::Walk;

const MAX_LINE_BYTES: u64 = 1 << 20;
const MAX_FILE_BYTES: u64 = 1 << 20;
const MAX_CAPTION_CHARACTERS: usize = 2000;
const MAX_OTHER_CHARACTERS: usize = 1000;
const MAX_TAG_CHARACTERS: usize = 100;
const MAX_TAGS: usize = 64;
/// Of one listing; the rest of it is still read.
const MAX_PROBLEMS: usize = 100;

/// What one sidecar says; none where it is silent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Said {
    caption: Option<String>,
    tags: Option<Vec<String>>,
    source: Option<String>,
    author: Option<String>,
    licence: Option<String>,
}

impl Said {
    /// What `later` says wins.
    fn overlay(&mut self, later: Self) {
        self.caption = later.caption.or(self.caption.take());
        self.tags = later.tags.or(self.tags.take());
        self.source = later.source.or(self.source.take());
        self.author = later.author.or(self.author.take());
        self.licence = later.licence.or(self.licence.take());
    }

    /// What nobody said is as in `otherwise`.
    pub(super) fn or(self, otherwise: Details) -> Details {
        Details {
            caption: self.caption.unwrap_or(otherwise.caption),
            tags: self.tags.unwrap_or(otherwise.tags),
            source: self.source.or(otherwise.source),
            author: self.author.or(otherwise.author),
            licence: self.licence.or(otherwise.licence),
        }
    }
}

/// Something in a sidecar that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) path: PathBuf,
    pub(super) reason: String,
}

/// The sidecars of a folder.
pub(super) struct Sidecars {
    root: PathBuf,
    listed: HashMap<PathBuf, Said>,
    beside: HashSet<PathBuf>,
}

impl Sidecars {
    /// Reads the listings; keeps only what they say of files that are there.
    pub(super) fn read(root: &Path, walk: &mut Walk) -> (Self, Vec<Problem>) {
        let files: HashSet<&Path> = walk.files.iter().map(PathBuf::as_path).collect();
        let mut listed = HashMap::new();
        let mut problems = Vec::new();
        for listing in &walk.listings {
            let mut complaints = Complaints::default();
            if let Err(error) = read_listing(root, listing, &files, &mut listed, &mut complaints) {
                complaints.named.push(error.to_string());
            }
            let Complaints { mut named, more } = complaints;
            if more > 0 {
                named.push(format!("and {more} more lines like these"));
            }
            problems.extend(named.into_iter().map(|reason| Problem {
                path: listing.clone(),
                reason,
            }));
        }
        let beside = std::mem::take(&mut walk.beside);
        (
            Self {
                root: root.to_owned(),
                listed,
                beside,
            },
            problems,
        )
    }

    /// What all sidecars together say of a picture.
    pub(super) fn of(&self, picture: &Path) -> (Said, Vec<Problem>) {
        let mut said = self.listed.get(picture).cloned().unwrap_or_default();
        let mut problems = Vec::new();
        for (extension, parse) in [
            ("json", parse_json as fn(&[u8]) -> Result<Said, String>),
            ("txt", parse_text),
        ] {
            for path in names_beside(picture, extension) {
                if !self.beside.contains(&path) {
                    continue;
                }
                match read_bounded(&self.root.join(&path)).and_then(|data| parse(&data)) {
                    Ok(later) => said.overlay(later),
                    Err(reason) => problems.push(Problem { path, reason }),
                }
            }
        }
        (said, problems)
    }
}

/// `cat.txt` and `cat.jpg.txt` both belong to `cat.jpg`.
fn names_beside(picture: &Path, extension: &str) -> [PathBuf; 2] {
    let mut whole = picture.as_os_str().to_owned();
    whole.push(".");
    whole.push(extension);
    [picture.with_extension(extension), PathBuf::from(whole)]
}

/// Lines of one listing that make no sense: the first are named, the others counted.
#[derive(Default)]
struct Complaints {
    named: Vec<String>,
    more: u64,
}

fn read_listing(
    root: &Path,
    listing: &Path,
    files: &HashSet<&Path>,
    listed: &mut HashMap<PathBuf, Said>,
    complaints: &mut Complaints,
) -> io::Result<()> {
    let folder = listing.parent().unwrap_or(Path::new(""));
    let mut reader = BufReader::new(File::open(root.join(listing))?);
    let mut line = Vec::new();
    for number in 1_u64.. {
        let parsed = match next_line(&mut reader, &mut line)? {
            Line::End => break,
            Line::TooLong => Err(format!("longer than {MAX_LINE_BYTES} bytes")),
            Line::Whole if line.trim_ascii().is_empty() => continue,
            Line::Whole => parse_line(&line),
        };
        match parsed {
            Ok((name, said)) => {
                let path = folder.join(name);
                if files.contains(path.as_path()) {
                    listed.entry(path).or_default().overlay(said);
                }
            }
            Err(reason) if complaints.named.len() < MAX_PROBLEMS => {
                complaints.named.push(format!("line {number}: {reason}"));
            }
            Err(_) => complaints.more += 1,
        }
    }
    Ok(())
}

enum Line {
    Whole,
    TooLong,
    End,
}

/// Never holds more than a line may have.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Line> {
    line.clear();
    if reader
        .by_ref()
        .take(MAX_LINE_BYTES)
        .read_until(b'\n', line)?
        == 0
    {
        return Ok(Line::End);
    }
    if line.ends_with(b"\n") || (line.len() as u64) < MAX_LINE_BYTES {
        return Ok(Line::Whole);
    }
    reader.skip_until(b'\n')?;
    Ok(Line::TooLong)
}

fn parse_line(line: &[u8]) -> Result<(PathBuf, Said), String> {
    let object = object(line)?;
    let Some(name) = object.get("file_name").and_then(Value::as_str) else {
        return Err("it has no file_name".to_owned());
    };
    Ok((inside(name)?, said(&object)?))
}

/// The same path without detours; an error for one that leads elsewhere.
fn inside(name: &str) -> Result<PathBuf, String> {
    let mut path = PathBuf::new();
    for component in Path::new(name).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(format!(
                    "file_name {:?} leads out of the folder",
                    shown(name)
                ));
            }
        }
    }
    if path.as_os_str().is_empty() {
        return Err("file_name is empty".to_owned());
    }
    Ok(path)
}

fn parse_json(data: &[u8]) -> Result<Said, String> {
    said(&object(data)?)
}

fn parse_text(data: &[u8]) -> Result<Said, String> {
    let text = std::str::from_utf8(data).map_err(|error| error.to_string())?;
    let caption = cleaned(text.trim_start_matches('\u{feff}'), MAX_CAPTION_CHARACTERS);
    Ok(Said {
        caption: (!caption.is_empty()).then_some(caption),
        ..Said::default()
    })
}

fn object(data: &[u8]) -> Result<Map<String, Value>, String> {
    let data = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data);
    serde_json::from_slice(data).map_err(|error| format!("not a JSON object: {error}"))
}

fn said(object: &Map<String, Value>) -> Result<Said, String> {
    Ok(Said {
        caption: text(object, &["caption", "text"], MAX_CAPTION_CHARACTERS)?,
        tags: tags(object)?,
        source: text(object, &["source"], MAX_OTHER_CHARACTERS)?,
        author: text(object, &["author"], MAX_OTHER_CHARACTERS)?,
        licence: text(object, &["licence", "license"], MAX_OTHER_CHARACTERS)?,
    })
}

/// The first of these keys that says something.
fn text(
    object: &Map<String, Value>,
    keys: &[&str],
    max_characters: usize,
) -> Result<Option<String>, String> {
    for key in keys {
        match object.get(*key) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => {
                let text = cleaned(text, max_characters);
                if !text.is_empty() {
                    return Ok(Some(text));
                }
            }
            Some(other) => return Err(format!("{key} is no text but {}", kind(other))),
        }
    }
    Ok(None)
}

/// A list of texts, or one text with commas.
fn tags(object: &Map<String, Value>) -> Result<Option<Vec<String>>, String> {
    let texts: Vec<&str> = match object.get("tags") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.split([',', ';', '，', '、', '；']).collect(),
        Some(Value::Array(items)) => {
            let texts: Option<_> = items.iter().map(Value::as_str).collect();
            texts.ok_or("tags are not all texts")?
        }
        Some(other) => return Err(format!("tags are no list but {}", kind(other))),
    };
    let mut tags: Vec<String> = Vec::new();
    for text in texts {
        let tag = cleaned(text, MAX_TAG_CHARACTERS);
        if !tag.is_empty() && !tags.contains(&tag) && tags.len() < MAX_TAGS {
            tags.push(tag);
        }
    }
    Ok(Some(tags))
}

/// On one line, without what a terminal would obey, and cut where it is too long.
pub(super) fn caption_line(text: &str) -> String {
    cleaned(text, MAX_CAPTION_CHARACTERS)
}

fn cleaned(text: &str, max_characters: usize) -> String {
    let words = text
        .split(|character: char| character.is_whitespace() || character.is_control())
        .filter(|word| !word.is_empty());
    let mut cleaned = String::new();
    let mut left = max_characters;
    for word in words {
        if !cleaned.is_empty() && left > 0 {
            cleaned.push(' ');
            left -= 1;
        }
        let before = cleaned.chars().count();
        cleaned.extend(word.chars().take(left));
        left -= cleaned.chars().count() - before;
        if left == 0 {
            break;
        }
    }
    cleaned.truncate(cleaned.trim_end().len());
    cleaned
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let mut data = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut data));
    read.map_err(|error| error.to_string())?;
    if data.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("larger than {MAX_FILE_BYTES} bytes"));
    }
    Ok(data)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}
