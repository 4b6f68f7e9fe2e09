//! What the model is asked, and what it says.

use std::time::Duration;

use inkstone_proto::worker::v1::{GenerateRequest, RefusalReason, prompt_part::Part};

/// A request that reached the language group.
#[derive(Debug, Clone)]
pub(in super::super) struct Asked {
    pub(in super::super) request: GenerateRequest,
    /// Its prompt as a text, with [`super::PLACEHOLDER`]s; `<s>` is left out.
    pub(in super::super) text: String,
}

impl Asked {
    /// Ids of the stretches of text, with `None` for each picture between them.
    pub(in super::super) fn pieces(&self) -> Vec<Option<Vec<u32>>> {
        let parts = self.request.prompt.iter();
        let piece = |part: &inkstone_proto::worker::v1::PromptPart| match &part.part {
            Some(Part::Tokens(span)) => Some(span.ids.clone()),
            Some(Part::Picture(_)) => None,
            None => panic!("an empty part"),
        };
        parts.map(piece).collect()
    }

    /// Digests of its pictures, in order.
    pub(in super::super) fn pictures(&self) -> Vec<Vec<u8>> {
        let parts = self.request.prompt.iter();
        let digests = parts.filter_map(|part| match &part.part {
            Some(Part::Picture(picture)) => Some(picture.digest.to_vec()),
            _ => None,
        });
        digests.collect()
    }

    /// Positions of its prompt.
    pub(in super::super) fn num_tokens(&self) -> usize {
        let parts = self.request.prompt.iter();
        let sizes = parts.map(|part| match &part.part {
            Some(Part::Tokens(span)) => span.ids.len(),
            Some(Part::Picture(picture)) => picture.num_tokens as usize,
            None => 0,
        });
        sizes.sum()
    }

    pub(in super::super) fn step(&self) -> Step {
        Step::of(&self.text)
    }
}

/// Which question of the procedure a prompt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Step {
    Article,
    Places,
    /// And for which place.
    Caption(u32),
    Choice,
    Edit,
}

impl Step {
    fn of(text: &str) -> Self {
        if text.ends_with("适合插入图像的行是") {
            return Self::Places;
        }
        if text.ends_with("最合适的图是") {
            return Self::Choice;
        }
        if text.ends_with("标题是\"") {
            let (_, place) = text.rsplit_once("给出适合在<Seg").expect("it names one");
            let (place, _) = place.split_once('>').expect("it names one");
            return Self::Caption(place.parse().expect("a number"));
        }
        let edits = [
            "改写以下段落：",
            "扩写以下段落：",
            "缩写以下段落：",
            "在以下两段中插入一段。",
        ];
        let is_edit = |words: &&str| text.contains(&format!("]user\n{words}"));
        match edits.iter().any(is_edit) {
            true => Self::Edit,
            false => Self::Article,
        }
    }
}

/// What the model says.
#[derive(Debug, Clone)]
pub(in super::super) enum Reply {
    /// This, and ends.
    Say(String),
    /// The same, with this pause before every few tokens.
    SaySlowly(String, Duration),
    /// It begins, and fails.
    Fail(RefusalReason, &'static str),
    /// It begins, and never says a word.
    Hang,
}

impl From<&str> for Reply {
    fn from(text: &str) -> Self {
        Self::Say(text.to_owned())
    }
}
