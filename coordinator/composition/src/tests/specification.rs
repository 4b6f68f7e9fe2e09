//! The words once more, against the specification's own blocks where it is at hand: a slip in a test's copy would show here.

use std::path::Path;

use super::{CharMeter, SETTINGS, WORKSPACE, id, read_or_say, strings};
use crate::{
    Release, SystemText,
    steps::{StepSettings, caption, choice, edit, places},
};

/// The text of all code blocks, newline signs made newlines, with their places in the text lost.
fn blocks() -> Option<Vec<String>> {
    let folders = ["../shared/spec", "../../shared/spec"];
    let files = folders.map(|folder| Path::new(WORKSPACE).join(folder).join("composition.md"));
    let file = files.iter().find(|file| file.exists()).unwrap_or(&files[0]);
    let text = String::from_utf8(read_or_say(file)?).unwrap();
    let blocks = text.split("\n```\n").skip(1).step_by(2);
    Some(blocks.map(str::to_owned).collect())
}

/// The block that starts so, with its substitutions made.
#[track_caller]
fn block(blocks: &[String], start: &str, values: &[(&str, &str)]) -> String {
    let mut found = blocks.iter().filter(|block| block.starts_with(start));
    let block = found
        .next()
        .unwrap_or_else(|| panic!("no block starts with {start}"));
    let block = block.replace('⏎', "\n");
    values.iter().fold(block, |block, (name, value)| {
        let name = format!("{{{name}}}");
        assert!(block.contains(&name), "{name} is not in {block}");
        block.replace(&name, value)
    })
}

const HEAD: &str = "<Seg0> T\n<Seg1> one\n<Seg2> two\n";

fn framed(user: &str, prefix: &str) -> String {
    format!(
        "[UNUSED_TOKEN_146]user\n{user}[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n{prefix}"
    )
}

#[test]
fn words_are_those_of_the_specification() {
    let Some(blocks) = blocks() else { return };
    let segments = strings(&["T", "one", "two"]);
    let frame = block(&blocks, "[UNUSED_TOKEN_146]user", &[("text", "x")]);
    assert_eq!(frame, framed("x", ""));
    let system = SystemText::Release;
    let meta = block(&blocks, "You are an AI", &[]);
    assert_eq!(system.text(), Some(format!("{meta}\n").as_str()));

    for (count, digits) in [(None, ""), (Some(2), "2")] {
        let question = places::Question {
            segments: &segments,
            count,
            pictures: &[],
        };
        let asked = question.ask(&SETTINGS, &CharMeter::WIDE).unwrap();
        let words = block(
            &blocks,
            "给定文章\"{full}\"",
            &[("full", HEAD), ("N", digits)],
        );
        let prefix = block(&blocks, "适合插入", &[]);
        assert_eq!(asked.generation.prompt.to_string(), framed(&words, &prefix));
    }

    // The accumulator, then its last two characters replaced.
    let first = block(&blocks, "现在<Seg{p}>", &[("p", "0"), ("caption", "a")]);
    let second = block(&blocks, "<Seg{p}>后", &[("p", "1"), ("caption", "b")]);
    let mut past: String = [first, second].concat();
    past.truncate(past.len() - "， ".len());
    past.push('。');
    let earlier = [(0, "a"), (1, "b")];
    for (earlier, past) in [(&earlier[..0], ""), (&earlier[..], &past)] {
        let values = [("head", HEAD), ("past", past), ("p", "2")];
        let words = block(&blocks, "给定文章\"{head}\"", &values);
        let question = caption::Question {
            segments: &segments,
            place: 2,
            earlier,
        };
        let asked = question.ask(&SETTINGS, &CharMeter::WIDE).unwrap();
        let prefix = block(&blocks, "标题是", &[]);
        assert_eq!(asked.generation.prompt.to_string(), framed(&words, &prefix));
        let settings = StepSettings {
            release: Release::Xc2d5,
            ..SETTINGS
        };
        let asked = question.ask(&settings, &CharMeter::WIDE).unwrap();
        let values = [("caption request of section 4", words.as_str())];
        let example = block(&blocks, "[UNUSED_TOKEN_146]system", &values);
        assert_eq!(asked.generation.prompt.to_string(), example);
    }

    let (x, a, b, c, d) = (id("x"), id("a"), id("b"), id("c"), id("d"));
    let question = choice::Question {
        segments: &segments,
        place: 2,
        earlier: &[(0, &x), (1, &x)],
        candidates: &[&a, &b, &c, &d],
    };
    let asked = question.ask(&SETTINGS, &CharMeter::WIDE).unwrap();
    let values = [("t_0", "T\n"), ("t_1", "one\n"), ("t_m", "two\n")];
    let words = block(&blocks, "根据给定上下文", &values).replace('…', "");
    let prefix = block(&blocks, "最合适", &[]);
    assert_eq!(asked.generation.prompt.to_string(), framed(&words, &prefix));

    let text = ("text", "t");
    let inst = ("inst", "i");
    for (operation, words) in [
        (
            edit::Operation::Rewrite,
            block(&blocks, "改写", &[text, inst]),
        ),
        (
            edit::Operation::Expand,
            block(&blocks, "扩写", &[text, inst]),
        ),
        (edit::Operation::Abbreviate, block(&blocks, "缩写", &[text])),
        (
            edit::Operation::InsertBefore,
            block(
                &blocks,
                "在以下两段中插入一段。⏎第一段：{prev}",
                &[("prev", "p"), text, inst],
            ),
        ),
        (
            edit::Operation::InsertAfter,
            block(
                &blocks,
                "在以下两段中插入一段。⏎第一段：{text}",
                &[text, ("next", "n"), inst],
            ),
        ),
    ] {
        let question = edit::Question {
            operation,
            text: "t",
            before: "p",
            after: "n",
            instruction: "i",
        };
        let asked = question.ask(&SETTINGS, &CharMeter::WIDE).unwrap();
        assert_eq!(asked.generation.prompt.to_string(), framed(&words, ""));
    }
}
