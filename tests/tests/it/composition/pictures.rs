//! Libraries for compositions: drawn pictures in a folder, brought in by the command that people use.

use std::{fs, path::Path, process::Command};

use inkstone_world::{Colour, Lot, Scene, Shape, draw_picture, draw_scene};
use serde_json::json;
use tempfile::TempDir;

use crate::cluster_fixture::program;

/// Pictures that go by the same caption; one of them shows it.
pub(super) const NUM_ALIKE: usize = 4;

const COLOURS: [(&str, &str); 8] = [
    ("red", "红色"),
    ("orange", "橙色"),
    ("yellow", "黄色"),
    ("green", "绿色"),
    ("blue", "蓝色"),
    ("purple", "紫色"),
    ("black", "黑色"),
    ("white", "白色"),
];
const SHAPES: [(&str, &str); 6] = [
    ("circle", "圆形"),
    ("square", "正方形"),
    ("triangle", "三角形"),
    ("star", "星形"),
    ("cross", "十字形"),
    ("ring", "圆环"),
];

/// A colour and a shape.
pub(super) type Kind = (Colour, Shape);

/// All of them.
pub(super) fn kinds() -> impl Iterator<Item = Kind> {
    let colours = Colour::ALL.into_iter();
    colours.flat_map(|colour| Shape::ALL.map(|shape| (colour, shape)))
}

/// `red circle, 红色圆形`.
pub(super) fn words(kind: Kind) -> [String; 2] {
    let colour = COLOURS[position(&Colour::ALL, kind.0)];
    let shape = SHAPES[position(&Shape::ALL, kind.1)];
    [
        format!("{} {}", colour.0, shape.0),
        format!("{}{}", colour.1, shape.1),
    ]
}

fn position<T: PartialEq>(all: &[T], one: T) -> usize {
    all.iter()
        .position(|other| *other == one)
        .expect("it is one of all")
}

/// The kind that a text names first, if it names one.
pub(super) fn kind_in(text: &str) -> Option<Kind> {
    let found = kinds().filter_map(|kind| {
        let places = words(kind)
            .into_iter()
            .filter_map(|words| text.find(&words));
        Some((places.min()?, kind))
    });
    found.min_by_key(|(place, _)| *place).map(|(_, kind)| kind)
}

pub(super) fn shows(scene: &Scene, kind: Kind) -> bool {
    let mut things = scene.things.iter();
    things.any(|thing| (thing.colour, thing.shape) == kind)
}

/// A folder of pictures with a `metadata.jsonl`.
pub(super) struct Folder {
    dir: TempDir,
}

impl Folder {
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Four pictures for every colour and shape, of which one shows it: the captions are as careless as captions of libraries are, and
/// to choose is up to the model, which has to look. They lie in no order, and say where they are from.
pub(super) fn drawn_library(seed_words: &str) -> Folder {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut lines = String::new();
    for (number, kind) in kinds().enumerate() {
        let lot = &mut Lot::new(number as u64, seed_words, 0);
        for index in 0..NUM_ALIKE {
            let file = draw_picture(&draw(lot, kind, index == right_one(kind)));
            let name = format!("{number:02}-{index}.{}", extension(&file));
            fs::write(dir.path().join(&name), &file).expect("it is written");
            let [en, zh] = words(kind);
            let line = json!({
                "file_name": name,
                "caption": format!("a {en}, 一个{zh}"),
                "tags": ["drawn"],
                "author": "Lin",
                "licence": "CC BY 4.0",
                "source": source(kind, index),
            });
            lines += &format!("{line}\n");
        }
    }
    fs::write(dir.path().join("metadata.jsonl"), lines).expect("it is written");
    Folder { dir }
}

/// Which of the pictures that go by the same caption shows it: any of them, so that no letter is right more often.
pub(super) fn right_one(kind: Kind) -> usize {
    let number = kinds()
        .position(|one| one == kind)
        .expect("it is one of all");
    ((number * 0x9E37) >> 5) % NUM_ALIKE
}

/// Where a picture of the library is said to be from.
pub(super) fn source(kind: Kind, index: usize) -> String {
    let number = kinds()
        .position(|one| one == kind)
        .expect("it is one of all");
    format!("https://pictures.example/{number}/{index}")
}

/// A small scene, so that drawing takes no time, that shows this or does not.
fn draw(lot: &mut Lot, kind: Kind, is_right: bool) -> Scene {
    loop {
        let mut scene = draw_scene(lot);
        let of_its_colour_or_shape = scene
            .things
            .iter()
            .any(|thing| thing.colour == kind.0 || thing.shape == kind.1);
        // Where it is not shown, something like it is.
        if shows(&scene, kind) == is_right && of_its_colour_or_shape {
            scene.look.file_side = 112;
            scene.look.blur = 0.0;
            return scene;
        }
    }
}

fn extension(file: &[u8]) -> &'static str {
    match file.starts_with(b"\x89PNG") {
        true => "png",
        false => "jpg",
    }
}

/// A library on the disk.
pub(super) struct ImportedLibrary {
    dir: TempDir,
    location: String,
}

impl ImportedLibrary {
    /// What `--library` takes.
    pub(super) fn location(&self) -> &str {
        &self.location
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Brings a folder in with `inkstone library import`.
pub(super) fn import(folder: &Folder) -> ImportedLibrary {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let location = dir.path().join("library");
    let location = location.to_str().expect("UTF-8").to_owned();
    let from = folder.path().to_str().expect("UTF-8");
    run(&["library", "import", from, "--library", &location]);
    ImportedLibrary { dir, location }
}

/// Runs `inkstone` and gives what it printed.
pub(super) fn run(arguments: &[&str]) -> String {
    let output = Command::new(program()).args(arguments).output();
    let output = output.expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}
