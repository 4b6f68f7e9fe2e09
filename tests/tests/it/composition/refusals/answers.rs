//! What the model says may make no sense either, or be more than fits.

use inkstone_proto::v1::{
    ArticleFinishReason, ComposeRequest, EditOperation, EditRequest, PictureSource,
};
use inkstone_proto::worker::v1::RefusalReason;
use inkstone_tests::pictures::stripes;
use tonic::Code;

use super::{
    super::{
        client::{Told, assert_refused, connect, follow_and_provide, provided, request},
        scripted::{Asked, Model, Reply, Scripted, Step},
    },
    refusal,
};

/// What the model says may make no sense either; what is then done is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_makes_the_best_of_answers_that_make_no_sense() {
    let script = |asked: &Asked| {
        let is = |word: &str| asked.text.contains(word);
        match asked.step() {
            Step::Article if is("Write nothing.") => " \n ".into(),
            Step::Article if is("Write on and on.") => "word\n".repeat(70).as_str().into(),
            Step::Article if is("Fail.") => Reply::Fail(RefusalReason::Internal, "no luck"),
            Step::Article => {
                let (_, rest) = asked.text.rsplit_once("Write of ").expect("it says what");
                let (what, _) = rest.split_once('.').expect("it says what");
                format!("{what}\none\ntwo\nthree").as_str().into()
            }
            Step::Places if is("no places") => "I do not know.".into(),
            Step::Places if is("lost places") => Reply::Fail(RefusalReason::Internal, "no luck"),
            Step::Places => "<Seg1>，<Seg2>".into(),
            Step::Caption(1) if is("no caption") => " \" ".into(),
            Step::Caption(1) if is("a lost caption") => {
                Reply::Fail(RefusalReason::Internal, "no luck")
            }
            Step::Caption(_) => "a caption\"".into(),
            Step::Choice if is("no choice") => "Both!".into(),
            Step::Choice if is("a lost choice") => Reply::Fail(RefusalReason::Internal, "no luck"),
            Step::Choice => "：Ｃ".into(),
            Step::Edit => panic!("nothing is edited"),
        }
    };
    let scripted = Scripted::start(Model::small(), &[], script).await;
    let mut client = connect(&scripted.address).await;
    let mut run = async |instruction: &str, count: Option<u32>| {
        let request = ComposeRequest {
            picture_source: PictureSource::Client.into(),
            picture_count: count,
            ..request(instruction)
        };
        let events = follow_and_provide(&mut client, request, |place, _| {
            let first = 4 * place as usize;
            (first..first + 4)
                .map(|seed| provided(stripes(seed), ""))
                .collect()
        })
        .await;
        Told::of(&events)
    };
    let told = run("Write nothing.", None).await;
    assert_eq!(told.error.expect("there is no article").code, "EMPTY");
    let told = run("Fail.", None).await;
    let error = told.error.expect("there is no article");
    assert_eq!(error.code, "FAILED");
    assert!(error.text.contains("no luck"), "{error:?}");
    let told = run("Write on and on.", Some(0)).await;
    assert_eq!(told.segments.len(), 60);
    assert_eq!(told.finish_reason(), ArticleFinishReason::Length);
    assert_eq!(told.warning_codes(), ["TOO_MANY_SEGMENTS"]);

    let told = run("Write of no places.", Some(2)).await;
    let locations = told.locations.clone().expect("places");
    assert!(locations.by_default, "they are not the model's");
    assert_eq!(
        (locations.locations.len(), &*locations.raw),
        (2, "I do not know.")
    );
    let told = run("Write of no places.", None).await;
    assert!(told.places().is_empty() && told.error.is_none());
    let told = run("Write of lost places.", None).await;
    assert_eq!(told.warning_codes(), ["LOCATIONS_FAILED"]);
    assert_eq!(told.segments.len(), 4);

    for (instruction, reason) in [
        ("Write of no caption.", "EMPTY_CAPTION"),
        ("Write of a lost caption.", "CAPTION_FAILED"),
    ] {
        let told = run(instruction, None).await;
        assert_eq!(told.dropped[&1].reason, reason);
        assert_eq!(told.selected[&2].candidate, 2, "a wide letter is a letter");
    }
    let told = run("Write of no choice.", None).await;
    let selected = &told.selected[&1];
    assert!(selected.by_default && selected.candidate == 0 && selected.raw == "Both!");
    let told = run("Write of a lost choice.", None).await;
    assert_eq!(told.warning_codes(), ["CHOICE_FAILED", "CHOICE_FAILED"]);
    assert!(
        told.selected
            .values()
            .all(|it| it.by_default && it.candidate == 0)
    );
}

/// Nothing is cut from the right, where the question stands; what matters least is left out, with a word about it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_of_an_article_that_outgrows_the_context_asks_whole_questions() {
    const CONTEXT: usize = 1100;
    let paragraph = |number: usize| {
        let words = "a red circle and a blue star stand beside the old wall. ".repeat(4);
        format!("Paragraph {number}: {words}")
    };
    let article: Vec<String> = (0..30).map(paragraph).collect();
    let article = article.join("\n");
    let script = move |asked: &Asked| match asked.step() {
        Step::Article => article.as_str().into(),
        Step::Places => "<Seg2>，<Seg7>，<Seg9>".into(),
        Step::Caption(_) => "a caption\"".into(),
        Step::Choice => ": A".into(),
        Step::Edit => "short".into(),
    };
    let scripted = Scripted::start(Model::small().with_context(CONTEXT), &[], script).await;
    let mut client = connect(&scripted.address).await;
    let of_client = ComposeRequest {
        picture_source: PictureSource::Client.into(),
        ..request("Write.")
    };
    let events = follow_and_provide(&mut client, of_client, |place, _| {
        let first = 4 * place as usize;
        (first..first + 4)
            .map(|seed| provided(stripes(seed), ""))
            .collect()
    })
    .await;
    let told = Told::of(&events);
    assert_eq!(told.finish_reason(), ArticleFinishReason::Length);
    assert!(told.segments.len() > 9, "{}", told.segments.len());
    assert_eq!(told.selected.len(), 3, "{told:#?}");
    let codes = told.warning_codes();
    assert!(codes.contains(&"CONTEXT_SHORTENED"), "{codes:?}");
    assert!(
        codes.iter().all(|code| *code == "CONTEXT_SHORTENED"),
        "{codes:?}"
    );
    let mut num_near = 0;
    for asked in scripted.asked() {
        let (prompt, answer) = (asked.num_tokens(), asked.request.max_new_tokens as usize);
        assert!(
            prompt + answer <= CONTEXT,
            "{prompt} and {answer}: {}",
            asked.text
        );
        num_near += usize::from(prompt + answer > CONTEXT * 3 / 4);
        assert!(
            asked.text.starts_with("[UNUSED_TOKEN_146]user\n"),
            "{}",
            asked.text
        );
        match asked.step() {
            Step::Article | Step::Edit => {}
            Step::Places => {
                assert_eq!(answer, 200);
                let (_, question) = asked.text.rsplit_once("\n\" ").expect("it is asked");
                assert!(question.starts_with("根据上述文章，选择适合插入图像的行["));
                // Every segment keeps its number.
                for number in 0..told.segments.len() {
                    assert!(
                        asked.text.contains(&format!("<Seg{number}> ")),
                        "{}",
                        asked.text
                    );
                }
            }
            Step::Caption(place) => {
                assert_eq!(answer, 200);
                // The lines around the place are what the question is about.
                assert!(
                    asked.text.contains(&format!("\n<Seg{place}> ")),
                    "{}",
                    asked.text
                );
                assert!(asked.text.contains(&format!("\n<Seg{}> ", place + 1)));
            }
            Step::Choice => {
                assert_eq!(answer, 10);
                let (_, candidates) = asked.text.rsplit_once("候选图像包括: ").expect("all");
                assert!(candidates.starts_with("A.<image>\nB.<image>\nC.<image>\nD.<image>["));
            }
        }
    }
    assert!(num_near > 2, "no more is left out than must be");

    // An instruction is never shortened.
    let long = request(&"word ".repeat(CONTEXT + 100));
    let status = refusal(&mut client, long).await;
    assert_refused(&status, Code::InvalidArgument, "PROMPT_TOO_LONG");
    // Nor is a paragraph that is to be changed.
    let article_id = events[0].article_id.clone();
    let edit = EditRequest {
        article_id,
        revision: 0,
        segment: told.article().segments[0].id,
        operation: EditOperation::Expand.into(),
        instruction: "word ".repeat(CONTEXT + 100),
    };
    let status = super::super::edits::try_propose(&mut client, edit).await;
    let status = status.expect_err("it does not fit");
    assert_refused(&status, Code::InvalidArgument, "PROMPT_TOO_LONG");
}
