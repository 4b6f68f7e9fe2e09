//! Where pictures go (spec section 3): after which segments, by their numbers.

use serde::{Deserialize, Serialize};

use super::{StepSettings, line};
use crate::{
    Asked, Constraint, MAX_PICTURE_COUNT, Meter, PictureId, Prompt, TooLong,
    meter::{Budget, CLIPS, fit},
};

/// How the answer begins.
pub const ANSWER_PREFIX: &str = "适合插入图像的行是";

const MAX_NEW_TOKENS: usize = 200;

/// What the answer may have between two numbers.
const SEPARATOR: &str = "(?:， ?|, ?|、|和| )";

/// Which article, and how many places.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    pub segments: &'a [String],
    /// `None`: the model decides.
    pub count: Option<usize>,
    /// The user's pictures, where they are what goes in.
    pub pictures: &'a [PictureId],
}

/// The places, and whether they are the model's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// Numbers of segments after which a picture goes; rising.
    pub places: Vec<usize>,
    /// The answer named none, so these are spread evenly; none where the model was to decide.
    pub by_default: bool,
}

impl Question<'_> {
    /// The question; each segment clipped to `max_chars`.
    fn prompt(
        &self,
        system: Option<&str>,
        max_chars: Option<usize>,
        with_pictures: bool,
    ) -> Prompt {
        let mut prompt = Prompt::new(system, ANSWER_PREFIX);
        for picture in self.pictures.iter().filter(|_| with_pictures) {
            prompt = prompt.picture(picture).text(" ");
        }
        let segments = self.segments.iter().enumerate();
        let full: String = segments
            .map(|(number, text)| line(number, text, max_chars))
            .collect();
        let count = self.count.map(|count| count.to_string());
        let count = count.unwrap_or_default();
        prompt
            .text("给定文章\"")
            .text(&full)
            .text(&format!("\" 根据上述文章，选择适合插入图像的{count}行"))
    }

    /// Asks for the places. Where the article is too long its segments are clipped, all of them, and keep their numbers; the
    /// user's pictures go last.
    pub fn ask(&self, settings: &StepSettings<'_>, meter: &dyn Meter) -> Result<Asked, TooLong> {
        let budget = Budget::exactly(MAX_NEW_TOKENS);
        let num_wordings = 1 + CLIPS.len() + usize::from(!self.pictures.is_empty());
        let fitted = fit(meter, budget, num_wordings, |level| {
            let clip = level
                .checked_sub(1)
                .map(|at| CLIPS[at.min(CLIPS.len() - 1)]);
            self.prompt(settings.system, clip, level <= CLIPS.len())
        })?;
        Ok(super::asked(fitted, settings, self.constraint(), &[]))
    }

    /// Numbers of this article's segments and nothing else; as many as wanted, as far as it has so many paragraphs.
    pub fn constraint(&self) -> Option<Constraint> {
        if self.segments.is_empty() {
            return None;
        }
        let numbers: Vec<String> = (0..self.segments.len()).map(|n| n.to_string()).collect();
        let segment = format!("<Seg(?:{})>", numbers.join("|"));
        let more = match self.count {
            Some(count) => format!("{{{}}}", self.attainable(count) - 1),
            None => format!("{{0,{}}}", self.attainable(MAX_PICTURE_COUNT) - 1),
        };
        Some(Constraint::Regex(format!(
            "{segment}(?:{SEPARATOR}{segment}){more}[。.]?"
        )))
    }

    /// Reads an answer: every `<Seg` digits `>` that is a segment's number, in order, none twice, as many as were asked for.
    pub fn read(&self, answer: &str) -> Places {
        let mut places: Vec<usize> = numbers_in(answer)
            .filter(|&number| number < self.segments.len())
            .collect();
        places.sort_unstable();
        places.dedup();
        places.truncate(self.count.unwrap_or(MAX_PICTURE_COUNT));
        if places.is_empty() {
            return self.default_places();
        }
        Places {
            places,
            by_default: false,
        }
    }

    /// What is taken where the model named none: as many as wanted, spread evenly over the paragraphs after the title.
    pub fn default_places(&self) -> Places {
        let len = self.segments.len();
        let first = usize::from(len > 1);
        let paragraphs = len - first.min(len);
        let count = self.count.map_or(0, |count| count.min(paragraphs));
        Places {
            places: (0..count)
                .map(|at| first + (2 * at + 1) * paragraphs / (2 * count))
                .collect(),
            by_default: true,
        }
    }

    /// As many as wanted, as far as there are paragraphs after the title. At least 1.
    fn attainable(&self, count: usize) -> usize {
        count.clamp(1, self.segments.len().saturating_sub(1).max(1))
    }
}

/// What stands between `<Seg` and `>`, where it is a number.
fn numbers_in(answer: &str) -> impl Iterator<Item = usize> {
    answer.split("<Seg").skip(1).filter_map(|rest| {
        let (digits, _) = rest.split_once('>')?;
        let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
        is_number.then(|| digits.parse().ok()).flatten()
    })
}
