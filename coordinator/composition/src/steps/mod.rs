//! The questions to the model, a file each: the words (spec sections 2 to 6), the form of the answer, how it is read, and what
//! is left out first where the context is too short. Each can be asked by itself; `procedure/` asks them in order.

pub mod caption;
pub mod choice;
pub mod edit;
pub mod places;
pub mod write;

pub use crate::generation::StepSettings;

use crate::{
    Asked, Constraint, Generation,
    meter::{Fitted, clip_end},
};

/// A segment as a numbered line, clipped to `max_chars`.
pub(crate) fn line(number: usize, text: &str, max_chars: Option<usize>) -> String {
    match max_chars {
        Some(max_chars) => format!("<Seg{number}> {}\n", clip_end(text, max_chars)),
        None => format!("<Seg{number}> {text}\n"),
    }
}

/// A run of one beam.
pub(crate) fn asked(
    fitted: Fitted,
    settings: &StepSettings<'_>,
    constraint: Option<Constraint>,
    stop_strings: &[&str],
) -> Asked {
    Asked {
        is_shortened: fitted.is_shortened,
        generation: Generation {
            prompt: fitted.prompt,
            sampling: settings.sampling,
            seed: settings.seed,
            num_beams: 1,
            max_new_tokens: fitted.max_new_tokens,
            constraint,
            stop_strings: stop_strings.iter().map(|&stop| stop.to_owned()).collect(),
        },
    }
}
