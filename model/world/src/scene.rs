//! What a scene is, and how one is drawn by lot: up to four coloured shapes in the cells of a 3 x 3 grid, and at most one
//! printed word with a row of the grid to itself. Lengths are for a picture of 112 x 112 pixels.

use serde::Deserialize;

use crate::lot::Lot;

pub(crate) const SIDE: f64 = 112.0;
pub(crate) const GRID: usize = 3;
const CELL: f64 = SIDE / GRID as f64;
const MAX_THINGS: usize = 4;
const CENTRE_JITTER: f64 = 5.0;
/// Chance that a scene has a printed word.
const WORD_CHANCE: f64 = 0.5;
/// Chance that the things of a scene share one or two shapes, or colours, so that counting has something to count.
const REPEAT_CHANCE: f64 = 0.33;

/// Words that may be printed; the others are numbers.
const WORDS: &str = "AIR ARM BAG BED BOOK BOX BUS CAKE CAR CAT CITY CUP DAY DOG DOOR EGG EYE FISH FOX GAME HAT HOME ICE INK JAM \
                     JOB KEY KING LAMP MAP MOON NET OPEN PARK PEN QUIZ RAIN SEA SHOP SKY STAR SUN TEA TREE UP VAN WAVE YES ZOO GO";
const WORD_SHARE: f64 = 0.55;
const INKS: [Rgb; 4] = [[15, 15, 15], [250, 250, 250], [20, 30, 110], [120, 15, 20]];

/// Red, green, blue.
pub(crate) type Rgb = [u8; 3];

/// What a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    Circle,
    Square,
    Triangle,
    Star,
    Cross,
    Ring,
}

impl Shape {
    pub const ALL: [Self; 6] = [
        Self::Circle,
        Self::Square,
        Self::Triangle,
        Self::Star,
        Self::Cross,
        Self::Ring,
    ];
}

/// What a thing's colour is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colour {
    Red,
    Orange,
    Yellow,
    Green,
    Blue,
    Purple,
    Black,
    White,
}

impl Colour {
    pub const ALL: [Self; 8] = [
        Self::Red,
        Self::Orange,
        Self::Yellow,
        Self::Green,
        Self::Blue,
        Self::Purple,
        Self::Black,
        Self::White,
    ];

    pub(crate) fn rgb(self) -> Rgb {
        match self {
            Self::Red => [220, 40, 40],
            Self::Orange => [245, 140, 20],
            Self::Yellow => [245, 225, 40],
            Self::Green => [40, 160, 60],
            Self::Blue => [40, 80, 220],
            Self::Purple => [140, 50, 180],
            Self::Black => [25, 25, 25],
            Self::White => [250, 250, 250],
        }
    }
}

/// What a thing's size is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    Small,
    Medium,
    Large,
}

impl Size {
    pub const ALL: [Self; 3] = [Self::Small, Self::Medium, Self::Large];

    /// Least and most diameter.
    pub(crate) fn diameters(self) -> (f64, f64) {
        match self {
            Self::Small => (14.0, 17.0),
            Self::Medium => (22.0, 26.0),
            Self::Large => (32.0, 37.0),
        }
    }
}

/// A colour and a shape: what a thing is called in a question.
pub(crate) type Kind = (Colour, Shape);

/// One shape in its cell.
#[derive(Debug, Clone, PartialEq)]
pub struct Thing {
    pub shape: Shape,
    pub colour: Colour,
    pub size: Size,
    pub row: usize,
    pub column: usize,
    /// Its centre.
    pub x: f64,
    pub y: f64,
    pub diameter: f64,
    pub degrees: f64,
    /// The very colour it is painted in.
    pub rgb: Rgb,
}

impl Thing {
    pub(crate) fn cell(&self) -> usize {
        self.row * GRID + self.column
    }

    pub(crate) fn kind(&self) -> Kind {
        (self.colour, self.shape)
    }
}

/// The letters a word is printed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Font {
    SansBold,
    Sans,
    SerifBold,
    MonoBold,
    ArimoBold,
    TinosBold,
    CousineBold,
    /// Our own 5 x 7 dots.
    Dots,
}

impl Font {
    pub(crate) const ALL: [Self; 8] = [
        Self::SansBold,
        Self::Sans,
        Self::SerifBold,
        Self::MonoBold,
        Self::ArimoBold,
        Self::TinosBold,
        Self::CousineBold,
        Self::Dots,
    ];
}

/// The printed word.
#[derive(Debug, Clone, PartialEq)]
pub struct Print {
    pub text: String,
    /// The row it stands in, alone.
    pub row: usize,
    /// Its centre.
    pub x: f64,
    pub y: f64,
    /// Height of its capitals.
    pub cap_height: f64,
    /// Counter-clockwise.
    pub degrees: f64,
    pub font: Font,
    pub ink: Rgb,
}

/// What nobody is asked about: background, noise, file.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// Ends of the background's gradient, and its direction.
    pub start: Rgb,
    pub end: Rgb,
    pub degrees: f64,
    /// Deviation of the noise in each channel; 0: none.
    pub noise: f64,
    /// Deviation of the blur; 0: none.
    pub blur: f64,
    /// None: a PNG.
    pub jpeg_quality: Option<u8>,
    /// Pixels of the file's side: 112, 168 or 336.
    pub file_side: u32,
    /// Of the noise.
    pub seed: u64,
}

/// What is to be seen in one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// In reading order of their cells; at least one.
    pub things: Vec<Thing>,
    pub word: Option<Print>,
    pub look: Look,
}

impl Scene {
    pub(crate) fn count_shape(&self, shape: Shape) -> usize {
        self.things.iter().filter(|t| t.shape == shape).count()
    }

    pub(crate) fn count_colour(&self, colour: Colour) -> usize {
        self.things.iter().filter(|t| t.colour == colour).count()
    }

    pub(crate) fn count_kind(&self, kind: Kind) -> usize {
        self.things.iter().filter(|t| t.kind() == kind).count()
    }

    /// Things whose colour and shape together name them.
    pub(crate) fn unique(&self) -> Vec<&Thing> {
        let things = self.things.iter();
        things.filter(|t| self.count_kind(t.kind()) == 1).collect()
    }
}

/// Draws a scene by lot.
pub fn draw_scene(lot: &mut Lot) -> Scene {
    let word = lot.chance(WORD_CHANCE).then(|| draw_print(lot));
    let cells: Vec<usize> = (0..GRID * GRID)
        .filter(|cell| word.as_ref().is_none_or(|word| word.row != cell / GRID))
        .collect();
    let count = lot.between(1, MAX_THINGS);
    let shapes = repeated(lot, &Shape::ALL);
    let colours = repeated(lot, &Colour::ALL);
    let mut chosen = lot.sample(&cells, count);
    chosen.sort_unstable();
    let things = chosen.into_iter().map(|cell| {
        let kind = (*lot.pick(&colours), *lot.pick(&shapes));
        draw_thing(lot, cell, kind)
    });
    let things = things.collect();
    let look = draw_look(lot);
    Scene { things, word, look }
}

/// All of them, or now and then only one or two.
fn repeated<T: Copy>(lot: &mut Lot, all: &[T]) -> Vec<T> {
    if !lot.chance(REPEAT_CHANCE) {
        return all.to_vec();
    }
    let count = lot.between(1, 2);
    lot.sample(all, count)
}

/// A scene of one thing in the middle.
pub(crate) fn draw_thing_alone(kind: Kind, size: Size, lot: &mut Lot) -> Scene {
    Scene {
        things: vec![draw_sized(lot, GRID * GRID / 2, kind, size)],
        word: None,
        look: draw_look(lot),
    }
}

fn draw_thing(lot: &mut Lot, cell: usize, kind: Kind) -> Thing {
    let size = *lot.pick(&Size::ALL);
    draw_sized(lot, cell, kind, size)
}

fn draw_sized(lot: &mut Lot, cell: usize, (colour, shape): Kind, size: Size) -> Thing {
    let (row, column) = (cell / GRID, cell % GRID);
    let (least, most) = size.diameters();
    Thing {
        shape,
        colour,
        size,
        row,
        column,
        x: centre(column) + lot.uniform(-CENTRE_JITTER, CENTRE_JITTER),
        y: centre(row) + lot.uniform(-CENTRE_JITTER, CENTRE_JITTER),
        diameter: lot.uniform(least, most),
        degrees: lot.uniform(-15.0, 15.0),
        rgb: colour
            .rgb()
            .map(|channel| to_channel(f64::from(channel) + lot.uniform(-16.0, 16.0))),
    }
}

fn centre(of_cell: usize) -> f64 {
    (of_cell as f64 + 0.5) * CELL
}

fn draw_print(lot: &mut Lot) -> Print {
    let text = draw_text(lot);
    let tallest = if text.len() == 4 { 15.0 } else { 17.0 };
    let cap_height = lot.uniform(11.0, 17.0).min(tallest);
    let half = 0.55 * cap_height * text.len() as f64 + 3.0;
    let row = lot.below(GRID);
    Print {
        text,
        row,
        x: lot.uniform(half.min(SIDE / 2.0), (SIDE - half).max(SIDE / 2.0)),
        y: centre(row) + lot.uniform(-3.0, 3.0),
        cap_height,
        degrees: if lot.chance(0.5) {
            lot.uniform(-18.0, 18.0)
        } else {
            0.0
        },
        font: *lot.pick(&Font::ALL),
        ink: *lot.pick(&INKS),
    }
}

/// A word of the list, or a number of two to four digits.
fn draw_text(lot: &mut Lot) -> String {
    if lot.chance(WORD_SHARE) {
        let words: Vec<&str> = WORDS.split_whitespace().collect();
        return (*lot.pick(&words)).to_owned();
    }
    let (least, most) = *lot.pick(&[(10, 99), (100, 999), (1000, 9999)]);
    lot.between(least, most).to_string()
}

/// A background of middling brightness, so that black, white and every colour stand out.
fn draw_look(lot: &mut Lot) -> Look {
    let base = lot.uniform(120.0, 205.0);
    let start = [(); 3].map(|()| base + lot.uniform(-18.0, 18.0));
    let step = lot.uniform(-30.0, 30.0);
    let end = start.map(|channel| channel + step + lot.uniform(-10.0, 10.0));
    let muted = |channel: f64| to_channel(channel.clamp(105.0, 212.0));
    Look {
        start: start.map(muted),
        end: end.map(muted),
        degrees: lot.uniform(0.0, 360.0),
        noise: maybe(lot, 1.0, 9.0),
        blur: maybe(lot, 0.2, 0.7),
        jpeg_quality: lot.chance(0.5).then(|| lot.between(55, 95) as u8),
        file_side: match lot.below(19) {
            0..12 => 112,
            12..18 => 168,
            _ => 336,
        },
        seed: lot.seed(),
    }
}

/// Something in every other picture.
fn maybe(lot: &mut Lot, low: f64, high: f64) -> f64 {
    if lot.chance(0.5) {
        lot.uniform(low, high)
    } else {
        0.0
    }
}

pub(crate) fn to_channel(value: f64) -> u8 {
    value.round().clamp(0.0, 255.0) as u8
}

#[cfg(test)]
mod tests;
