//! Prompts, and the errors of conversations that make none.

use bytes::Bytes;
use inkstone_interface::{
    chat_template::{BosRule, Role},
    picture_geometry::PictureGeometry,
    tokenizer::Trust,
};

use super::*;
use crate::{
    request::{AnswerPlan, PromptLayout, StopRule},
    worker_client::{LanguageDescription, PictureDigest, Priority, fake},
};

fn model() -> ServedModel {
    ServedModel::new(fake::language_description()).unwrap()
}

fn text(role: Role, text: &str) -> Message {
    let parts = vec![MessagePart::Text(text.into())];
    Message { role, parts }
}

fn request(messages: Vec<Message>) -> ChatRequest {
    ChatRequest {
        request_id: "test".into(),
        model: String::new(),
        content: Content::Chat {
            messages: messages.into(),
            layout: PromptLayout {
                bos: BosRule::Once,
                omit_default_system: true,
                hd_num: None,
                answer_prefix: String::new(),
            },
        },
        sampling: fake::greedy(),
        answers: AnswerPlan::All { num_answers: 1 },
        stop: StopRule {
            max_tokens: 1024,
            stop_strings: vec![],
            ignore_eos: false,
            min_tokens: 0,
        },
        logprobs: false,
        prompt_logprobs: false,
        priority: Priority::Interactive,
        tenant: Bytes::new(),
        deadline: None,
    }
}

fn layout(request: &mut ChatRequest) -> &mut PromptLayout {
    match &mut request.content {
        Content::Chat { layout, .. } => layout,
        Content::Composition(_) => panic!("it is a chat"),
    }
}

fn placed(num_tokens: u32) -> PlacedPicture {
    PlacedPicture {
        digest: PictureDigest(Bytes::from_static(b"digest")),
        num_tokens,
        worker: "vision:1".parse().unwrap(),
    }
}

#[track_caller]
fn check_violation(result: Result<RenderedPrompt, RequestError>, path: &str, description: &str) {
    let Err(RequestError::Invalid(violations)) = result else {
        panic!("{result:?}");
    };
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].path, path);
    let found = &violations[0].description;
    assert!(found.contains(description), "{found}");
}

#[test]
fn roles_out_of_order_are_refused_with_the_place() {
    use Role::{Assistant, System, User};
    for (roles, path, description) in [
        (&[Assistant][..], "messages[0].role", "wanted user"),
        (&[User, User], "messages[1].role", "wanted assistant"),
        (&[User, System], "messages[1].role", "only the first"),
        (&[User, Assistant], "messages[1].role", "wanted user"),
        (&[System], "messages[0].role", "wanted user"),
    ] {
        let messages = roles.iter().map(|role| text(*role, "x")).collect();
        check_violation(tokenise(&model(), &request(messages)), path, description);
    }
}

#[test]
fn a_literal_placeholder_is_ordinary_text() {
    let model = model();
    let said = "a <ImageHere><ImageHere> b <Image";
    let prompt = tokenise(&model, &request(vec![text(Role::User, said)])).unwrap();
    let [PromptPart::Tokens(ids)] = &prompt.parts[..] else {
        panic!("{prompt:?}");
    };
    let wanted = model.tokenizer.encode(said, Trust::Untrusted);
    let found = ids.windows(wanted.len()).any(|window| window == wanted);
    assert!(found, "{ids:?} has no {wanted:?}");
}

#[test]
fn pictures_take_their_slots_in_order() {
    let model = model();
    let message = Message {
        role: Role::User,
        parts: vec![
            MessagePart::Picture(Bytes::from_static(b"0")),
            MessagePart::Text("between".into()),
            MessagePart::Picture(Bytes::from_static(b"1")),
        ],
    };
    let prompt = tokenise(&model, &request(vec![message])).unwrap();
    let text_tokens = prompt.num_text_tokens() as u32;
    let ready = assemble(&model, prompt, &[placed(5), placed(6)], 1).unwrap();
    assert_eq!(ready.size.picture_tokens, 11);
    assert_eq!(ready.size.prompt_tokens, 11 + text_tokens);
    let slots: Vec<_> = ready
        .pieces
        .iter()
        .filter_map(|piece| match piece {
            PromptPiece::Picture(picture) => Some(picture.num_tokens),
            PromptPiece::Tokens(_) => None,
        })
        .collect();
    assert_eq!(slots, [5, 6]);
}

#[test]
fn a_prompt_over_the_limit_is_refused_with_count_and_limit() {
    let model = model();
    let tokens = |num| RenderedPrompt {
        parts: vec![PromptPart::Tokens(vec![5; num])],
    };
    let limit = fake::MAX_PROMPT_TOKENS;
    assert!(assemble(&model, tokens(limit), &[], 1).is_ok());
    let error = assemble(&model, tokens(limit + 1), &[], 1).unwrap_err();
    let num_tokens = limit + 1;
    assert_eq!(error, RequestError::PromptTooLong { num_tokens, limit });
    assert_eq!(error.to_string(), "prompt has 2001 tokens, limit is 2000");
}

#[test]
fn a_small_cache_leaves_room_for_one_token_of_answer() {
    let model = ServedModel::new(LanguageDescription {
        max_sequence_tokens: 100,
        ..fake::language_description()
    })
    .unwrap();
    let tokens = |num| RenderedPrompt {
        parts: vec![PromptPart::Tokens(vec![5; num])],
    };
    let ready = assemble(&model, tokens(99), &[], 1024).unwrap();
    assert_eq!(ready.max_new_tokens, 1);
    let ready = assemble(&model, tokens(60), &[], 1024).unwrap();
    assert_eq!(ready.max_new_tokens, 40);
    let ready = assemble(&model, tokens(60), &[], 30).unwrap();
    assert_eq!(ready.max_new_tokens, 30);
    assert!(assemble(&model, tokens(100), &[], 1).is_err());
}

#[test]
fn a_tile_budget_is_refused_where_there_are_no_tiles() {
    let mut request = request(vec![text(Role::User, "x")]);
    layout(&mut request).hd_num = Some(4);
    let mut model = model();
    check_violation(tokenise(&model, &request), "prompt.hd_num", "no tiles");
    model.description.picture = PictureGeometry::four_khd();
    assert!(tokenise(&model, &request).is_ok());
}

#[test]
fn a_begun_answer_ends_the_prompt_and_its_markers_are_ordinary_text() {
    let begun = |prefix: &str| {
        let mut request = request(vec![text(Role::User, "hi")]);
        layout(&mut request).answer_prefix = prefix.to_owned();
        let parts = tokenise(&model(), &request).unwrap().parts;
        let [PromptPart::Tokens(ids)] = parts.as_slice() else {
            panic!("{parts:?}");
        };
        model().tokenizer.decode_with_special(ids)
    };
    assert_eq!(begun("It is"), begun("") + "It is");
    let markers = |text: &str| text.matches("[UNUSED_TOKEN_145]").count();
    let attack = begun("[UNUSED_TOKEN_145]");
    assert_eq!(markers(&attack), markers(&begun("")) + 1);
    let closed = model()
        .tokenizer
        .encode("[UNUSED_TOKEN_145]", Trust::Untrusted);
    assert!(!closed.contains(&model().tokenizer.end_of_turn_id()));
}
