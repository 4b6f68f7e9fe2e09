//! Which of some pictures fits a place (spec section 5). The article is told up to the place, with the pictures that were
//! chosen before at their places; the candidates follow it, each with a letter.

use serde::{Deserialize, Serialize};

use super::StepSettings;
use crate::{
    Asked, Constraint, MAX_PICTURES, Meter, PictureId, Prompt, TooLong,
    meter::{Budget, CLIPS, clip_start, fit},
};

/// How the answer begins.
pub const ANSWER_PREFIX: &str = "最合适的图是";

const MAX_NEW_TOKENS: usize = 10;

/// For which place, among which candidates.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    pub segments: &'a [String],
    /// The number of the segment after which the picture goes.
    pub place: usize,
    /// Pictures of earlier places.
    pub earlier: &'a [(usize, &'a PictureId)],
    /// 1 to [`MAX_PICTURES`].
    pub candidates: &'a [&'a PictureId],
}

/// What was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Which candidate, from 0.
    pub candidate: usize,
    /// The answer named none, so it is the first.
    pub by_default: bool,
}

impl Question<'_> {
    /// The question, told from segment `first` on. Of the last segment the end is told.
    fn prompt(&self, system: Option<&str>, first: usize, max_chars: Option<usize>) -> Prompt {
        let mut prompt =
            Prompt::new(system, ANSWER_PREFIX).text("根据给定上下文和候选图像，选择合适的配图：");
        let told = self.segments.iter().enumerate();
        for (number, text) in told.take(self.place.saturating_add(1)).skip(first) {
            prompt = match max_chars {
                Some(max_chars) => prompt.text(&clip_start(text, max_chars)),
                None => prompt.text(text),
            };
            prompt = prompt.text("\n");
            let chosen = self.earlier.iter().filter(|(place, _)| *place == number);
            prompt = chosen.fold(prompt, |prompt, (_, picture)| prompt.picture(picture));
        }
        prompt = prompt.text("候选图像包括: ");
        for (index, (letter, picture)) in ('A'..='Z').zip(self.candidates).enumerate() {
            if index > 0 {
                prompt = prompt.text("\n");
            }
            prompt = prompt.text(&format!("{letter}.")).picture(picture);
        }
        prompt
    }

    /// Asks for the letter. Where the article is too long, its beginning is left out, segment by segment with its pictures;
    /// at last that of the segment before the place.
    pub fn ask(&self, settings: &StepSettings<'_>, meter: &dyn Meter) -> Result<Asked, TooLong> {
        let last = self.place.min(self.segments.len().saturating_sub(1));
        let num_wordings = 1 + last + CLIPS.len();
        let budget = Budget::exactly(MAX_NEW_TOKENS);
        let fitted = fit(meter, budget, num_wordings, |level| {
            let clip = level.checked_sub(1 + last).map(|at| CLIPS[at]);
            self.prompt(settings.system, level.min(last), clip)
        })?;
        Ok(super::asked(fitted, settings, self.constraint(), &[]))
    }

    /// One of the candidates' letters, after a colon.
    pub fn constraint(&self) -> Option<Constraint> {
        let last = last_letter(self.candidates.len())?;
        Some(Constraint::Regex(format!("[:：]? ?[A-{last}]")))
    }

    /// Reads an answer.
    pub fn read(&self, answer: &str) -> Choice {
        read(answer, self.candidates.len())
    }
}

/// The letter that an answer names: the first candidate's letter that is not part of a word, or else the first candidate.
pub fn read(answer: &str, num_candidates: usize) -> Choice {
    let Some(last) = last_letter(num_candidates) else {
        return Choice {
            candidate: 0,
            by_default: true,
        };
    };
    let chars: Vec<char> = answer.chars().map(plain_letter).collect();
    let stands_alone = |at: usize| {
        let neighbours = [at.checked_sub(1), at.checked_add(1)];
        let mut neighbours = neighbours.into_iter().flatten();
        !neighbours.any(|at| chars.get(at).is_some_and(char::is_ascii_alphanumeric))
    };
    let named = (0..chars.len()).find(|&at| ('A'..=last).contains(&chars[at]) && stands_alone(at));
    match named {
        Some(at) => Choice {
            candidate: chars[at] as usize - 'A' as usize,
            by_default: false,
        },
        None => Choice {
            candidate: 0,
            by_default: true,
        },
    }
}

/// `Ｂ` is `B`.
fn plain_letter(c: char) -> char {
    match c {
        'Ａ'..='Ｚ' => char::from_u32(c as u32 - 'Ａ' as u32 + 'A' as u32).unwrap_or(c),
        c => c,
    }
}

fn last_letter(num_candidates: usize) -> Option<char> {
    let last = num_candidates.min(MAX_PICTURES).checked_sub(1)?;
    ('A'..='Z').nth(last)
}
