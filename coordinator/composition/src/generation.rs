//! One run of the model: what it is asked, how its tokens are chosen and what form its answer has.

use serde::{Deserialize, Serialize};

use crate::Prompt;

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 to 10; 0 is greedy.
    pub temperature: f32,
    /// Above 0, at most 1.
    pub top_p: f32,
    /// 0: all.
    pub top_k: u32,
    /// 1 to 2; 1 is none.
    pub repetition_penalty: f32,
}

impl Sampling {
    /// What the demo draws with.
    pub const STANDARD: Self = Self {
        temperature: 1.0,
        top_p: 0.8,
        top_k: 40,
        repetition_penalty: 1.005,
    };

    /// The most likely token every time.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        ..Self::STANDARD
    };

    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }
}

/// A form that an answer must have. What follows the answer's prefix is meant, without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Constraint {
    /// Text that matches this regular expression as a whole.
    Regex(String),
}

/// A run of the model. It ends at the stop tokens {2, 92542} too.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    pub prompt: Prompt,
    pub sampling: Sampling,
    pub seed: u64,
    /// 1: none. Beams are not drawn, whatever `sampling` says.
    pub num_beams: u32,
    /// As the context has room for.
    pub max_new_tokens: usize,
    pub constraint: Option<Constraint>,
    /// The answer ends before the first of these.
    pub stop_strings: Vec<String>,
}

/// A run that fits the context.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub generation: Generation,
    /// Text or pictures were left out of the prompt, which the user must be told.
    pub is_shortened: bool,
}

/// How a step is to be asked: what all steps of an article share, and its own seed.
#[derive(Debug, Clone, Copy)]
pub struct StepSettings<'a> {
    pub system: Option<&'a str>,
    pub release: crate::Release,
    pub sampling: Sampling,
    pub seed: u64,
}

/// A seed for the run number `run` of a step: apart from those of other steps and runs, and the same every time.
/// SplitMix64, of which every bit of the result depends on every bit that goes in.
pub(crate) fn derive_seed(seed: u64, step: u64, run: u64) -> u64 {
    [step, run].into_iter().fold(seed, |seed, salt| {
        let mut mixed = seed.wrapping_add(salt).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}
