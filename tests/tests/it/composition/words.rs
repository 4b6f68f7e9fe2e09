//! The words of the specification: what is asked in each step, once more and from the document itself where it is at hand, so that
//! what reaches a worker is held against them and not against our own code.

use std::path::Path;

use inkstone_interface::tokenizer::{Tokenizer, Trust};

use super::scripted::PLACEHOLDER;

const FRAME: &str = "[UNUSED_TOKEN_146]user⏎{text}[UNUSED_TOKEN_145]⏎[UNUSED_TOKEN_146]assistant⏎";
const META: &str = "\
You are an AI assistant whose name is InternLM-XComposer (浦语·灵笔).
- InternLM-XComposer (浦语·灵笔) is a conversational language model that is developed by Shanghai AI Laboratory (上海人工智能实验室). It is designed to be helpful, honest, and harmless.
- InternLM-XComposer (浦语·灵笔) can understand and communicate fluently in the language chosen by the user such as English and 中文.";
const PLACES: &str = "给定文章\"{full}\" 根据上述文章，选择适合插入图像的{N}行";
const PLACES_PREFIX: &str = "适合插入图像的行是";
const CAPTION: &str = "给定文章\"{head}\" {past}给出适合在<Seg{p}>后插入的图像对应的标题。";
const CAPTION_PREFIX: &str = "标题是\"";
const FIRST_PAST: &str = "现在<Seg{p}>后插入图像对应的标题是\"{caption}\"， ";
const NEXT_PAST: &str = "<Seg{p}>后插入图像对应的标题是\"{caption}\"， ";
const CHOICE: &str = "根据给定上下文和候选图像，选择合适的配图：{t_0}<image>{t_1}<image>…{t_m}候选图像包括: A.<image>⏎B.<image>⏎C.<image>⏎D.<image>";
const CHOICE_PREFIX: &str = "最合适的图是";
const REWRITE: &str = "改写以下段落：{text}⏎基于以下素材：{inst}";
const EXPAND: &str = "扩写以下段落：{text}⏎基于以下素材：{inst}";
const ABBREVIATE: &str = "缩写以下段落：{text}";
const INSERT_BEFORE: &str =
    "在以下两段中插入一段。⏎第一段：{prev}⏎第二段：{text}⏎插入段的大纲：{inst}";
const INSERT_AFTER: &str =
    "在以下两段中插入一段。⏎第一段：{text}⏎第二段：{next}⏎插入段的大纲：{inst}";

const BLOCKS: [&str; 15] = [
    FRAME,
    META,
    PLACES,
    PLACES_PREFIX,
    CAPTION,
    CAPTION_PREFIX,
    FIRST_PAST,
    NEXT_PAST,
    CHOICE,
    CHOICE_PREFIX,
    REWRITE,
    EXPAND,
    ABBREVIATE,
    INSERT_BEFORE,
    INSERT_AFTER,
];

#[test]
fn composition_words_of_these_tests_are_those_of_the_specification() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folders = ["../shared/spec", "../../shared/spec"].map(|folder| root.join(folder));
    let files = folders.map(|folder| folder.join("composition.md"));
    let Some(file) = files.iter().find(|file| file.exists()) else {
        eprintln!("skipped: {} is absent", files[0].display());
        return;
    };
    let text = std::fs::read_to_string(file).expect("UTF-8");
    for block in BLOCKS {
        assert!(
            text.contains(&format!("\n```\n{block}\n```\n")),
            "the specification has no block {block:?}"
        );
    }
}

fn filled(words: &str, values: &[(&str, &str)]) -> String {
    let words = words.replace('⏎', "\n");
    values.iter().fold(words, |words, (name, value)| {
        words.replace(&format!("{{{name}}}"), value)
    })
}

/// What stands in the system block where the release's own text is asked for: three lines, each with its newline.
pub(super) fn meta() -> String {
    format!("{META}\n")
}

/// A question, framed, and the beginning of its answer.
fn asked(system: Option<&str>, user: &str, prefix: &str) -> String {
    let system = system.map_or_else(String::new, |system| {
        format!("[UNUSED_TOKEN_146]system\n{system}[UNUSED_TOKEN_145]\n")
    });
    // The user's text last: it may speak of {text}.
    let (open, close) = FRAME.split_once("{text}").expect("it has a place for it");
    let (open, close) = (filled(open, &[]), filled(close, &[]));
    format!("{system}{open}{user}{close}{prefix}")
}

/// The words of all steps under one system text.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Words<'a> {
    pub(super) system: Option<&'a str>,
}

impl Words<'_> {
    pub(super) fn article(self, num_pictures: usize, instruction: &str) -> String {
        let pictures = vec![PLACEHOLDER; num_pictures].join(" ");
        asked(self.system, &format!("{pictures}{instruction}"), "")
    }

    pub(super) fn places(
        self,
        num_pictures: usize,
        segments: &[&str],
        count: Option<usize>,
    ) -> String {
        let count = count.map_or_else(String::new, |count| count.to_string());
        let values = [("full", &*lines(segments)), ("N", &count)];
        let pictures = format!("{PLACEHOLDER} ").repeat(num_pictures);
        let user = format!("{pictures}{}", filled(PLACES, &values));
        asked(self.system, &user, PLACES_PREFIX)
    }

    /// `earlier`: captions of earlier places.
    pub(super) fn caption(
        self,
        segments: &[&str],
        place: usize,
        earlier: &[(usize, &str)],
    ) -> String {
        let head = lines(&segments[..segments.len().min(place + 2)]);
        let mut past = String::new();
        for (number, (place, caption)) in earlier.iter().enumerate() {
            let words = if number == 0 { FIRST_PAST } else { NEXT_PAST };
            past += &filled(words, &[("p", &place.to_string()), ("caption", caption)]);
        }
        if past.pop().is_some() {
            // The comma, too.
            past.pop();
            past.push('。');
        }
        let (words, rest) = CAPTION.split_once("{past}").expect("it has a place");
        let place = place.to_string();
        let words = filled(words, &[("head", &head)]);
        let user = format!("{words}{past}{}", filled(rest, &[("p", &place)]));
        asked(self.system, &user, CAPTION_PREFIX)
    }

    /// `chosen`: places where pictures stand already.
    pub(super) fn choice(
        self,
        segments: &[&str],
        place: usize,
        chosen: &[usize],
        num_candidates: usize,
    ) -> String {
        let (open, _) = CHOICE.split_once("{t_0}").expect("it has blocks");
        let (_, candidates) = CHOICE.split_once("{t_m}").expect("it has blocks");
        let candidates = candidates.replace('⏎', "\n");
        let mut letters = candidates.split_inclusive(PLACEHOLDER);
        let mut user = open.to_owned();
        for (number, text) in segments.iter().enumerate().take(place + 1) {
            user += &format!("{text}\n");
            if chosen.contains(&number) {
                user += PLACEHOLDER;
            }
        }
        for number in 0..num_candidates {
            match letters.next() {
                Some(candidate) => user += candidate,
                // There are more uploads than the demo's searches bring.
                None => {
                    let letter = char::from(b'A' + number as u8);
                    user += &format!("\n{letter}.{PLACEHOLDER}");
                }
            }
        }
        asked(self.system, &user, CHOICE_PREFIX)
    }

    pub(super) fn rewrite(self, text: &str, inst: &str) -> String {
        asked(
            self.system,
            &filled(REWRITE, &[("text", text), ("inst", inst)]),
            "",
        )
    }

    pub(super) fn expand(self, text: &str, inst: &str) -> String {
        asked(
            self.system,
            &filled(EXPAND, &[("text", text), ("inst", inst)]),
            "",
        )
    }

    pub(super) fn abbreviate(self, text: &str) -> String {
        asked(self.system, &filled(ABBREVIATE, &[("text", text)]), "")
    }

    pub(super) fn insert_before(self, prev: &str, text: &str, inst: &str) -> String {
        let values = [("prev", prev), ("text", text), ("inst", inst)];
        asked(self.system, &filled(INSERT_BEFORE, &values), "")
    }

    pub(super) fn insert_after(self, text: &str, next: &str, inst: &str) -> String {
        let values = [("text", text), ("next", next), ("inst", inst)];
        asked(self.system, &filled(INSERT_AFTER, &values), "")
    }
}

fn lines(segments: &[&str]) -> String {
    let lines = segments.iter().enumerate();
    lines
        .map(|(number, text)| format!("<Seg{number}> {text}\n"))
        .collect()
}

/// What the demo makes of a prompt: the text cut at placeholders, each piece tokenised by itself, one `<s>` before the first;
/// `None` for a picture.
pub(super) fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<Option<Vec<u32>>> {
    let mut pieces = vec![];
    for (number, piece) in text.split(PLACEHOLDER).enumerate() {
        let mut ids = tokenizer.encode(piece, Trust::Trusted);
        if number == 0 {
            ids.insert(0, tokenizer.bos_id());
        } else {
            pieces.push(None);
        }
        if !ids.is_empty() {
            pieces.push(Some(ids));
        }
    }
    pieces
}
