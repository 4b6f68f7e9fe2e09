//! The words of every step, to the byte, and the ids that they become.

use inkstone_interface::{
    chat_template::{
        BosRule, ChatMessage, ChatTemplate, ContentPart, RenderOptions, Role, SystemPrompt,
    },
    description::Variant,
    prompt::PromptPart,
    tokenizer::{Tokenizer, Trust},
};

use super::{CharMeter, SETTINGS, id, real_tokenizer, small_tokenizer, strings};
use crate::{
    PictureId, Piece, Prompt, Release, SystemText,
    steps::{StepSettings, caption, choice, edit, places, write},
};

const ARTICLE: [&str; 4] = ["水墨画", "The first paragraph.", "第二段。", "An ending"];

/// One prompt of every kind, with what it must be.
pub(super) fn all() -> Vec<(Prompt, String)> {
    let framed = |user: &str, prefix: &str| {
        format!(
            "[UNUSED_TOKEN_146]user\n{user}[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n{prefix}"
        )
    };
    let full = "<Seg0> 水墨画\n<Seg1> The first paragraph.\n<Seg2> 第二段。\n<Seg3> An ending\n";
    let past = "现在<Seg0>后插入图像对应的标题是\"a\"， <Seg1>后插入图像对应的标题是\"乙\"。";
    let mut all = vec![
        (
            write::prompt("写一篇文章", &[], None),
            framed("写一篇文章", ""),
        ),
        (
            write::prompt("Describe them.", &[id("x"), id("y")], None),
            framed("<image> <image>Describe them.", ""),
        ),
        (
            write::prompt("Hi", &[], SystemText::Text("Be brief.".into()).text()),
            format!(
                "[UNUSED_TOKEN_146]system\nBe brief.[UNUSED_TOKEN_145]\n{}",
                framed("Hi", "")
            ),
        ),
        (
            places(None, &[]),
            framed(
                &format!("给定文章\"{full}\" 根据上述文章，选择适合插入图像的行"),
                "适合插入图像的行是",
            ),
        ),
        (
            places(Some(3), &[id("x"), id("y")]),
            framed(
                &format!("<image> <image> 给定文章\"{full}\" 根据上述文章，选择适合插入图像的3行"),
                "适合插入图像的行是",
            ),
        ),
        (
            caption(1, &[], Release::Xc2),
            framed(
                "给定文章\"<Seg0> 水墨画\n<Seg1> The first paragraph.\n<Seg2> 第二段。\n\" 给出适合在<Seg1>后插入的图像对应的标题。",
                "标题是\"",
            ),
        ),
        (
            caption(3, &[(0, "a"), (1, "乙")], Release::Xc2),
            framed(
                &format!("给定文章\"{full}\" {past}给出适合在<Seg3>后插入的图像对应的标题。"),
                "标题是\"",
            ),
        ),
        (
            choice(0, &[], &["a", "b"]),
            framed(
                "根据给定上下文和候选图像，选择合适的配图：水墨画\n候选图像包括: A.<image>\nB.<image>",
                "最合适的图是",
            ),
        ),
        (
            choice(2, &[(0, "x"), (1, "y")], &["a", "b", "c", "d"]),
            framed(
                "根据给定上下文和候选图像，选择合适的配图：水墨画\n<image>The first paragraph.\n<image>第二段。\n\
                 候选图像包括: A.<image>\nB.<image>\nC.<image>\nD.<image>",
                "最合适的图是",
            ),
        ),
    ];
    let edits = [
        (
            edit::Operation::Rewrite,
            "改写以下段落：本段\n基于以下素材：素材",
        ),
        (
            edit::Operation::Expand,
            "扩写以下段落：本段\n基于以下素材：素材",
        ),
        (edit::Operation::Abbreviate, "缩写以下段落：本段"),
        (
            edit::Operation::InsertBefore,
            "在以下两段中插入一段。\n第一段：前\n第二段：本段\n插入段的大纲：素材",
        ),
        (
            edit::Operation::InsertAfter,
            "在以下两段中插入一段。\n第一段：本段\n第二段：\n插入段的大纲：素材",
        ),
    ];
    let edits = edits.map(|(operation, wanted)| (edited(operation), framed(wanted, "")));
    all.extend(edits);
    all
}

fn places(count: Option<usize>, pictures: &[PictureId]) -> Prompt {
    let question = places::Question {
        segments: &strings(&ARTICLE),
        count,
        pictures,
    };
    question
        .ask(&SETTINGS, &CharMeter::WIDE)
        .unwrap()
        .generation
        .prompt
}

fn caption(place: usize, earlier: &[(usize, &str)], release: Release) -> Prompt {
    let question = caption::Question {
        segments: &strings(&ARTICLE),
        place,
        earlier,
    };
    let settings = StepSettings {
        release,
        ..SETTINGS
    };
    question
        .ask(&settings, &CharMeter::WIDE)
        .unwrap()
        .generation
        .prompt
}

fn choice(place: usize, earlier: &[(usize, &str)], candidates: &[&str]) -> Prompt {
    let earlier: Vec<_> = earlier
        .iter()
        .map(|(place, name)| (*place, id(name)))
        .collect();
    let earlier: Vec<_> = earlier.iter().map(|(place, id)| (*place, id)).collect();
    let candidates: Vec<_> = candidates.iter().map(|name| id(name)).collect();
    let question = choice::Question {
        segments: &strings(&ARTICLE),
        place,
        earlier: &earlier,
        candidates: &candidates.iter().collect::<Vec<_>>(),
    };
    question
        .ask(&SETTINGS, &CharMeter::WIDE)
        .unwrap()
        .generation
        .prompt
}

fn edited(operation: edit::Operation) -> Prompt {
    let question = edit::Question {
        operation,
        text: "本段",
        before: "前",
        after: "",
        instruction: "素材",
    };
    question
        .ask(&SETTINGS, &CharMeter::WIDE)
        .unwrap()
        .generation
        .prompt
}

#[test]
fn every_step_asks_in_the_official_words() {
    for (prompt, wanted) in all() {
        assert_eq!(prompt.to_string(), wanted);
    }
}

#[test]
fn pictures_keep_the_order_of_their_slots() {
    let prompt = choice(2, &[(0, "x"), (1, "y")], &["a", "b"]);
    let names: Vec<&str> = prompt.pictures().map(PictureId::as_str).collect();
    assert_eq!(names, ["x", "y", "a", "b"]);
    assert!(matches!(prompt.user()[1], Piece::Picture(_)));
}

#[test]
fn the_releases_own_system_text_ends_with_a_newline() {
    let system = SystemText::Release;
    let text = system.text().unwrap();
    assert_eq!(text.len(), 416);
    assert!(text.ends_with("中文.\n"));
    assert_eq!(text.lines().count(), 3);
    let prompt = write::prompt("Hi", &[], Some(text)).to_string();
    assert!(prompt.contains("中文.\n[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]user\nHi"));
    assert_eq!(SystemText::Text(String::new()).text(), None);
}

#[test]
fn release_2_5_is_asked_for_captions_by_an_example() {
    let prompt = caption(1, &[], Release::Xc2d5).to_string();
    let start = "[UNUSED_TOKEN_146]system\n请严格按照示例的<input> <output>格式，根据给定的文章，给出适合在某一段后插入的图像对应的标题。[UNUSED_TOKEN_145]\n\
                 [UNUSED_TOKEN_146]user\n<input>\n给定文章\"<Seg0> 大多数的车友们";
    assert!(prompt.starts_with(start), "{prompt}");
    let end = "</output>\n<input>\n给定文章\"<Seg0> 水墨画\n<Seg1> The first paragraph.\n<Seg2> 第二段。\n\" \
               给出适合在<Seg1>后插入的图像对应的标题。</input><output>[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n标题是\"";
    assert!(prompt.ends_with(end), "{prompt}");
}

/// The ids of the demo: the text cut at placeholders, each piece by itself, one `<s>` before the first.
fn reference_ids(tokenizer: &Tokenizer, text: &str) -> Vec<PromptPart> {
    let mut parts = vec![];
    let mut num_pictures = 0;
    for (at, piece) in text.split("<image>").enumerate() {
        if at > 0 {
            parts.push(PromptPart::Picture {
                index: num_pictures,
            });
            num_pictures += 1;
        }
        let mut ids = tokenizer.encode(piece, Trust::Trusted);
        if at == 0 {
            ids.insert(0, tokenizer.bos_id());
        }
        if !ids.is_empty() {
            parts.push(PromptPart::Tokens(ids));
        }
    }
    parts
}

#[track_caller]
fn check_ids(tokenizer: &Tokenizer) {
    for (prompt, text) in all() {
        assert_eq!(
            prompt.render(tokenizer).parts,
            reference_ids(tokenizer, &text),
            "{text}"
        );
    }
}

#[test]
fn ids_are_those_of_the_demo_with_the_small_tokenizer() {
    check_ids(&small_tokenizer());
}

#[test]
fn ids_are_those_of_the_demo_with_the_real_tokenizer() {
    if let Some(tokenizer) = real_tokenizer() {
        check_ids(&tokenizer);
    }
}

/// A prompt goes the same way as a chat with a given beginning of the answer.
#[test]
fn ids_are_those_of_the_chat_template() {
    let tokenizer = small_tokenizer();
    let template = ChatTemplate {
        variant: Variant::Xc2,
        picture_side: 224,
    };
    for (prompt, _) in all() {
        let content = prompt.user().iter().map(|piece| match piece {
            Piece::Text(text) => ContentPart::Text(text.clone()),
            Piece::Picture(_) => ContentPart::Picture,
        });
        let message = ChatMessage {
            role: Role::User,
            content: content.collect(),
        };
        let options = RenderOptions {
            bos: BosRule::Once,
            system: match prompt.system() {
                Some(text) => SystemPrompt::Text(text.to_owned()),
                None => SystemPrompt::None,
            },
            num_pictures: prompt.pictures().count(),
            answer_prefix: Some(prompt.answer_prefix()),
        };
        let chat = template.render(&tokenizer, &[message], &options).unwrap();
        assert_eq!(prompt.render(&tokenizer), chat);
    }
}
