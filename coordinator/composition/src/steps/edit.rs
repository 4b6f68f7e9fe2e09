//! The five edits of a paragraph (spec section 6). Pictures are not shown.

use serde::{Deserialize, Serialize};

use super::StepSettings;
use crate::{
    Asked, Meter, Prompt, TooLong,
    meter::{Budget, CLIPS, clip_end, clip_start, fit},
    segments::is_space,
};

/// Apart from the prompt, so that a long paragraph has room for a longer one.
const BUDGET: Budget = Budget {
    wanted: 1024,
    least: 128,
};

/// What is done to a paragraph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Rewrite,
    Expand,
    Abbreviate,
    InsertBefore,
    InsertAfter,
}

impl Operation {
    pub const ALL: [Self; 5] = [
        Self::Rewrite,
        Self::Expand,
        Self::Abbreviate,
        Self::InsertBefore,
        Self::InsertAfter,
    ];

    /// Whether it makes a new paragraph, for which it must be told what to write.
    pub fn is_insertion(self) -> bool {
        matches!(self, Self::InsertBefore | Self::InsertAfter)
    }
}

/// What is edited, and how.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    pub operation: Operation,
    pub text: &'a str,
    /// The segment before and the one after it; empty where there is none.
    pub before: &'a str,
    pub after: &'a str,
    /// Material, or the outline of what is inserted. `Abbreviate` takes none.
    pub instruction: &'a str,
}

impl Question<'_> {
    /// The question; where a paragraph goes between two, `max_chars` of either are told.
    fn prompt(&self, system: Option<&str>, max_chars: Option<usize>) -> Prompt {
        let Self {
            text, instruction, ..
        } = self;
        let question = match self.operation {
            Operation::Rewrite => format!("改写以下段落：{text}\n基于以下素材：{instruction}"),
            Operation::Expand => format!("扩写以下段落：{text}\n基于以下素材：{instruction}"),
            Operation::Abbreviate => format!("缩写以下段落：{text}"),
            Operation::InsertBefore => between(self.before, text, instruction, max_chars),
            Operation::InsertAfter => between(text, self.after, instruction, max_chars),
        };
        Prompt::new(system, "").text(&question)
    }

    /// Asks for the new text. Of two paragraphs that one is inserted between, the far ends are left out where they are too
    /// long; a paragraph that is to be changed is never shortened.
    pub fn ask(&self, settings: &StepSettings<'_>, meter: &dyn Meter) -> Result<Asked, TooLong> {
        let num_wordings = match self.operation.is_insertion() {
            true => 1 + CLIPS.len(),
            false => 1,
        };
        let fitted = fit(meter, BUDGET, num_wordings, |level| {
            self.prompt(settings.system, level.checked_sub(1).map(|at| CLIPS[at]))
        })?;
        Ok(super::asked(fitted, settings, None, &[]))
    }
}

fn between(first: &str, second: &str, outline: &str, max_chars: Option<usize>) -> String {
    let max_chars = max_chars.unwrap_or(usize::MAX);
    let first = clip_start(first, max_chars);
    let second = clip_end(second, max_chars);
    format!("在以下两段中插入一段。\n第一段：{first}\n第二段：{second}\n插入段的大纲：{outline}")
}

/// What becomes a segment: no white space around it, one space for a run of newlines.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    let mut after_newline = false;
    for c in text.trim_matches(is_space).chars() {
        if c == '\n' || c == '\r' {
            after_newline = true;
            continue;
        }
        if std::mem::take(&mut after_newline) {
            line.push(' ');
        }
        line.push(c);
    }
    line
}
