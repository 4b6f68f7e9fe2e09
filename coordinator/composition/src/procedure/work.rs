//! What a composition asks of its driver, and what it is told back.

use super::{FinishReason, Numbered, Usage};
use crate::{Generation, Picture, article::SearchRequest};

/// A piece of work. Each is done once in a composition; places are told by their segment's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    Article,
    Places,
    Caption { place: usize },
    Search { place: usize },
    Choice { place: usize },
}

/// What the driver does next, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Tell the user.
    Emit(Numbered),
    /// Run the model. The article's text comes back as it is written, other answers whole.
    Generate {
        work: Work,
        generation: Box<Generation>,
    },
    /// Ask the picture source; at most so many pictures are of use.
    Search {
        work: Work,
        search: SearchRequest,
        max_candidates: usize,
    },
    /// End this work at once; what it still brings is not wanted.
    Cancel(Work),
}

/// What the driver tells. What nobody waits for, or comes twice, is left aside.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Begin.
    Start,
    /// A stretch of the article's text.
    Text(String),
    /// The article's text is complete.
    TextDone { finish: FinishReason, usage: Usage },
    /// The answer of another run, without the prefix that it was given.
    Answer { work: Work, text: String },
    /// What a search found, best first.
    Found { work: Work, pictures: Vec<Picture> },
    /// A run or a search came to nothing.
    Failed { work: Work, reason: String },
    /// The user wants no more. What is there is kept.
    Cancel,
}
