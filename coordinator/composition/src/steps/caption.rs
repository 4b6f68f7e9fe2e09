//! What a picture should show (spec section 4, and 8 for release 2.5): its caption, by which it is searched for.

use super::{StepSettings, line};
use crate::{
    Asked, Meter, Prompt, Release, TooLong,
    meter::{Budget, CLIPS, fit},
    segments::is_space,
};

/// How the answer begins.
pub const ANSWER_PREFIX: &str = "标题是\"";

const MAX_NEW_TOKENS: usize = 200;

/// Release 2.5 is shown an example first.
const EXAMPLE_SYSTEM: &str = "请严格按照示例的<input> <output>格式，根据给定的文章，给出适合在某一段后插入的图像对应的标题。";
const EXAMPLE: &str = "\
<input>
给定文章\"<Seg0> 大多数的车友们在选车、购车时都会格外关注续航
<Seg1> 甚至还有要求电动滑板车跑一百公里的
<Seg2> 但这真的是你所需要的吗?
<Seg3> 据报告，一线城市上班族通勤半径均在10公里以内
<Seg4> 所以大多数通勤出行RND的续航完全可以满足
<Seg5> 可能会有人说，续航短导致一天一充或两充很麻烦
\" 给出适合在<Seg4>后插入的图像对应的标题。</input>
<output>
标题是\"一个人正站在充电桩前给电动滑板车充电，面容看上去有些疲惫\"</output>
<input>
";
const EXAMPLE_END: &str = "</input><output>";

/// For which place.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    pub segments: &'a [String],
    /// The number of the segment after which the picture goes.
    pub place: usize,
    /// Captions of earlier places.
    pub earlier: &'a [(usize, &'a str)],
}

/// What is told of an article.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    /// The title, which is the line of number 0.
    title: bool,
    /// The first line after the title.
    first_line: usize,
    first_caption: usize,
    max_chars: Option<usize>,
}

impl Question<'_> {
    fn prompt(&self, settings: &StepSettings<'_>, told: Told) -> Prompt {
        let place = self.place;
        let lines = self
            .segments
            .iter()
            .enumerate()
            .take(place.saturating_add(2));
        let lines = lines.filter(|(number, _)| match number {
            0 => told.title,
            number => *number >= told.first_line,
        });
        let head: String = lines
            .map(|(number, text)| line(number, text, told.max_chars))
            .collect();
        let past = past(&self.earlier[told.first_caption..]);
        let question =
            format!("给定文章\"{head}\" {past}给出适合在<Seg{place}>后插入的图像对应的标题。");
        match settings.release {
            Release::Xc2 => Prompt::new(settings.system, ANSWER_PREFIX).text(&question),
            Release::Xc2d5 => Prompt::new(Some(EXAMPLE_SYSTEM), ANSWER_PREFIX)
                .text(EXAMPLE)
                .text(&question)
                .text(EXAMPLE_END),
        }
    }

    /// Asks for the caption. Where the article is too long, its oldest lines are left out first, the title aside, then the
    /// oldest captions, then the title; at last the lines around the place are clipped.
    pub fn ask(&self, settings: &StepSettings<'_>, meter: &dyn Meter) -> Result<Asked, TooLong> {
        let wordings = self.wordings();
        let budget = Budget::exactly(MAX_NEW_TOKENS);
        let fitted = fit(meter, budget, wordings.len(), |level| {
            self.prompt(settings, wordings[level])
        })?;
        let stop = match settings.release {
            // The caption ends at the quote.
            Release::Xc2 => "\"",
            // It ends at the last quote, which stands before this.
            Release::Xc2d5 => "</output>",
        };
        Ok(super::asked(fitted, settings, None, &[stop]))
    }

    fn wordings(&self) -> Vec<Told> {
        let mut told = Told {
            title: true,
            first_line: 1,
            first_caption: 0,
            max_chars: None,
        };
        let mut wordings = vec![told];
        for first_line in 2..=self.place.min(self.segments.len()) {
            told.first_line = first_line;
            wordings.push(told);
        }
        for first_caption in 1..=self.earlier.len() {
            told.first_caption = first_caption;
            wordings.push(told);
        }
        // The line of the place itself stays.
        if self.place > 0 {
            told.title = false;
            wordings.push(told);
        }
        wordings.extend(CLIPS.map(|max_chars| Told {
            max_chars: Some(max_chars),
            ..told
        }));
        wordings
    }
}

/// The captions so far, as the question tells them.
fn past(captions: &[(usize, &str)]) -> String {
    let told: Vec<String> = captions
        .iter()
        .map(|(place, caption)| format!("<Seg{place}>后插入图像对应的标题是\"{caption}\""))
        .collect();
    match told.as_slice() {
        [] => String::new(),
        told => format!("现在{}。", told.join("， ")),
    }
}

/// The caption in an answer: what stands before the first quote (in 2.5: the last), on one line. Empty where there is none.
pub fn read(answer: &str, release: Release) -> String {
    let end = match release {
        Release::Xc2 => answer.find('"'),
        Release::Xc2d5 => {
            let answer = answer.split("</output>").next().unwrap_or_default();
            answer.rfind('"').or(Some(answer.len()))
        }
    };
    clean(&answer[..end.unwrap_or(answer.len())])
}

/// A caption on one line, without white space around it.
pub fn clean(caption: &str) -> String {
    let lines = caption.split(['\n', '\r']);
    let lines = lines.map(|line| line.trim_matches(is_space));
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    lines.join(" ")
}
