//! The small world that the small model knows: drawn scenes, what can be said about them, and articles to write about
//! them (`model/training/README.md` describes it). Written apart from the training program, with which it shares the
//! wording only, and drawn from seeds of its own, so that what it finds out about a model was not seen in training.

mod articles;
mod dots;
mod draw;
mod edits;
mod illustrations;
mod judge;
mod language;
mod lettering;
mod lot;
mod prompts;
mod questions;
mod requests;
mod scene;
mod several;
mod skills;

pub use draw::draw_picture;
pub use illustrations::{Illustration, draw_illustrations};
pub use lot::Lot;
pub use scene::{Colour, Look, Print, Scene, Shape, Size, Thing, draw_scene};
pub use skills::{Case, Part, Skill, Turn, UnknownSkill, draw_case};
