//! Questions that are too long for the context are shortened where it hurts least, and never at their end.

use proptest::prelude::*;

use super::{CharMeter, SETTINGS, id, small_tokenizer};
use crate::{
    Asked, ComposeRequest, Meter, PictureId, Prompt, TokenizerMeter, TooLong,
    steps::{caption, choice, edit, places, write},
};

fn article(len: usize, chars: usize) -> Vec<String> {
    let segments = 0..len;
    segments
        .map(|number| format!("{number}:{}", "x".repeat(chars)))
        .collect()
}

fn meter(context: usize) -> CharMeter {
    CharMeter {
        context,
        picture: 256,
    }
}

fn ids(count: usize) -> Vec<PictureId> {
    (0..count).map(|number| id(&number.to_string())).collect()
}

/// It fits, and ends as it does in full.
#[track_caller]
fn check_fits(asked: &Asked, meter: &dyn Meter, end: &str) {
    let generation = &asked.generation;
    let length = meter.num_tokens(&generation.prompt) + generation.max_new_tokens;
    assert!(length <= meter.context_tokens());
    let prompt = generation.prompt.to_string();
    assert!(prompt.ends_with(end), "{prompt}");
}

#[test]
fn an_article_gets_what_room_the_context_has() {
    let mut request = ComposeRequest::of("x".repeat(100));
    request.max_tokens = 4096;
    let asked = write::ask(&request, &SETTINGS, &meter(1000)).unwrap();
    assert_eq!(asked.generation.max_new_tokens, 900);
    assert!(!asked.is_shortened);
    let refused = write::ask(&request, &SETTINGS, &meter(110)).unwrap_err();
    assert_eq!(
        refused,
        TooLong {
            num_tokens: 100,
            limit: 94
        }
    );
    assert_eq!(refused.to_string(), "prompt has 100 tokens, limit is 94");
}

#[test]
fn beams_are_asked_for() {
    // The demo's streaming path leaves them aside.
    let mut request = ComposeRequest::of("x");
    request.num_beams = 4;
    let asked = write::ask(&request, &SETTINGS, &CharMeter::WIDE).unwrap();
    assert_eq!(asked.generation.num_beams, 4);
}

#[test]
fn places_of_a_long_article_are_asked_for_with_all_its_numbers() {
    let segments = article(60, 1000);
    let pictures = ids(4);
    let question = places::Question {
        segments: &segments,
        count: Some(4),
        pictures: &pictures,
    };
    let meter = meter(4096);
    let asked = question.ask(&SETTINGS, &meter).unwrap();
    assert!(asked.is_shortened);
    let end = "根据上述文章，选择适合插入图像的4行[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n适合插入图像的行是";
    check_fits(&asked, &meter, end);
    let prompt = asked.generation.prompt.to_string();
    for number in 0..60 {
        assert!(prompt.contains(&format!("<Seg{number}> {number}:x")));
    }
    assert_eq!(
        asked.generation.prompt.pictures().count(),
        4,
        "pictures go last"
    );
    let tight = CharMeter {
        context: 2200,
        picture: 256,
    };
    let asked = question.ask(&SETTINGS, &tight).unwrap();
    assert_eq!(asked.generation.prompt.pictures().count(), 0);
    assert!(
        question
            .ask(
                &SETTINGS,
                &CharMeter {
                    context: 900,
                    picture: 256
                }
            )
            .is_err()
    );
}

#[test]
fn captions_late_in_a_long_article_are_asked_for_with_what_is_near() {
    let segments = article(40, 200);
    let question = caption::Question {
        segments: &segments,
        place: 30,
        earlier: &[(1, "first"), (20, "second")],
    };
    let meter = meter(2000);
    let asked = question.ask(&SETTINGS, &meter).unwrap();
    assert!(asked.is_shortened);
    let end = "给出适合在<Seg30>后插入的图像对应的标题。[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n标题是\"";
    check_fits(&asked, &meter, end);
    let prompt = asked.generation.prompt.to_string();
    for told in [
        "<Seg0> 0:",
        "<Seg29> 29:",
        "<Seg30> 30:",
        "<Seg31> 31:",
        "first",
        "second",
    ] {
        assert!(prompt.contains(told), "{told}");
    }
    assert!(!prompt.contains("<Seg1> 1:"));
}

#[test]
fn choices_late_in_a_long_article_keep_the_candidates() {
    let segments = article(40, 100);
    let pictures = ids(12);
    let earlier: Vec<(usize, &PictureId)> = (0..8).map(|at| (4 * at, &pictures[at])).collect();
    let candidates: Vec<&PictureId> = pictures[8..].iter().collect();
    let question = choice::Question {
        segments: &segments,
        place: 35,
        earlier: &earlier,
        candidates: &candidates,
    };
    let meter = meter(2048);
    let asked = question.ask(&SETTINGS, &meter).unwrap();
    assert!(asked.is_shortened);
    let end = "候选图像包括: A.<image>\nB.<image>\nC.<image>\nD.<image>[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n最合适的图是";
    check_fits(&asked, &meter, end);
    assert!(
        asked.generation.prompt.to_string().contains("35:xxx"),
        "what is near is told"
    );
    // Room for the candidates and a glimpse of the paragraph.
    let tight = CharMeter {
        context: 1150,
        picture: 256,
    };
    let asked = question.ask(&SETTINGS, &tight).unwrap();
    check_fits(&asked, &tight, end);
    assert_eq!(asked.generation.prompt.pictures().count(), 4);
    assert!(
        question
            .ask(
                &SETTINGS,
                &CharMeter {
                    context: 1024,
                    picture: 256
                }
            )
            .is_err()
    );
}

#[test]
fn a_long_paragraph_has_room_for_its_new_text() {
    // The demo gives an edit 500 tokens, its question among them.
    let text = "字".repeat(900);
    let question = edit::Question {
        operation: edit::Operation::Expand,
        text: &text,
        before: "",
        after: "",
        instruction: "",
    };
    let asked = question.ask(&SETTINGS, &meter(4096)).unwrap();
    assert_eq!(asked.generation.max_new_tokens, 1024);
    assert!(
        question.ask(&SETTINGS, &meter(950)).is_err(),
        "it is never shortened"
    );
}

#[test]
fn an_insertion_between_long_paragraphs_is_told_their_near_ends() {
    let before = format!("FAR{}NEAR", "x".repeat(2000));
    let text = format!("CLOSE{}AWAY", "y".repeat(2000));
    let question = edit::Question {
        operation: edit::Operation::InsertBefore,
        text: &text,
        before: &before,
        after: "",
        instruction: "大纲",
    };
    let meter = meter(1500);
    let asked = question.ask(&SETTINGS, &meter).unwrap();
    assert!(asked.is_shortened);
    check_fits(
        &asked,
        &meter,
        "插入段的大纲：大纲[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n",
    );
    let prompt = asked.generation.prompt.to_string();
    assert!(prompt.contains("NEAR\n第二段：CLOSE"));
    assert!(!prompt.contains("FAR") && !prompt.contains("AWAY"));
}

#[test]
fn the_tokenizers_meter_counts_what_is_rendered() {
    let tokenizer = small_tokenizer();
    let meter = TokenizerMeter {
        tokenizer: tokenizer.clone(),
        picture_tokens: |_: &PictureId| 64,
        context_tokens: 4096,
    };
    let prompt = write::prompt("Write about a red circle.", &ids(2), None);
    let wanted = prompt.render(&tokenizer).num_tokens(&[64, 64]);
    assert_eq!(meter.num_tokens(&prompt), wanted);
    assert_eq!(meter.context_tokens(), 4096);
}

proptest! {
    #[test]
    fn what_is_asked_fits_and_keeps_its_end(
        lens in prop::collection::vec(0_usize..400, 1..30),
        place in 0_usize..30,
        context in 200_usize..6000,
        num_earlier in 0_usize..4,
    ) {
        let segments: Vec<String> = lens.iter().map(|len| "段".repeat(len + 1)).collect();
        let place = place % segments.len();
        let meter = meter(context);
        let pictures = ids(6);
        let earlier: Vec<usize> = (0..place).take(num_earlier).collect();
        let captions: Vec<(usize, &str)> = earlier.iter().map(|at| (*at, "a caption")).collect();
        let chosen: Vec<(usize, &PictureId)> = earlier.iter().map(|at| (*at, &pictures[*at])).collect();
        let asked = [
            places::Question { segments: &segments, count: Some(2), pictures: &pictures[..2] }
                .ask(&SETTINGS, &meter),
            caption::Question { segments: &segments, place, earlier: &captions }
                .ask(&SETTINGS, &meter),
            choice::Question {
                segments: &segments,
                place,
                earlier: &chosen,
                candidates: &[&pictures[4], &pictures[5]],
            }
            .ask(&SETTINGS, &meter),
        ];
        let caption_end = format!("给出适合在<Seg{place}>后插入的图像对应的标题。[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n标题是\"");
        let ends = ["适合插入图像的行是", &caption_end, "最合适的图是"];
        for (asked, end) in asked.iter().zip(ends) {
            match asked {
                Ok(asked) => check_fits(asked, &meter, end),
                Err(TooLong { num_tokens, limit }) => prop_assert!(num_tokens > limit),
            }
        }
    }
}

/// A context of which a prompt may fill only a part.
struct ShortPrompts(CharMeter, usize);

impl Meter for ShortPrompts {
    fn context_tokens(&self) -> usize {
        self.0.context_tokens()
    }

    fn max_prompt_tokens(&self) -> usize {
        self.1
    }

    fn num_tokens(&self, prompt: &Prompt) -> usize {
        self.0.num_tokens(prompt)
    }
}

#[test]
fn a_prompt_keeps_its_own_limit_and_the_answer_gets_the_rest_of_the_context() {
    let mut request = ComposeRequest::of("x".repeat(100));
    let asked = write::ask(&request, &SETTINGS, &ShortPrompts(meter(1000), 100)).unwrap();
    assert_eq!(asked.generation.max_new_tokens, 900);
    request.instruction.push('x');
    let refused = write::ask(&request, &SETTINGS, &ShortPrompts(meter(1000), 100));
    let too_long = TooLong {
        num_tokens: 101,
        limit: 100,
    };
    assert_eq!(refused.unwrap_err(), too_long);
}
