//! Wrong input: each is refused by name, or taken as far as it makes sense with a word about it, and nobody else notices.

use inkstone_proto::v1::{
    ApplyEditRequest, ArticleFinishReason, CancelEditRequest, CancelRequest, Caption,
    ChangeArticleRequest, ComposeRequest, CompositionSampling, DeleteArticleRequest, EditOperation,
    EditRequest, ExportRequest, GetArticleRequest, GetPictureRequest, PictureSource,
    ProvideCandidatesRequest, ResumeRequest, SearchImagesRequest, SelectImageRequest, SetText,
    StepParams, SuggestCaptionRequest, SuggestLocationsRequest, Undo,
    change_article_request::Change, compose_event::Event,
};
use inkstone_proto::worker::v1::RefusalReason;
use inkstone_tests::pictures::stripes;
use tonic::{Code, Status};

use super::{
    client::{
        Client, Told, assert_refused, assert_wrong, compose, compose_events, connect,
        follow_and_provide, of_tenant, picture, provided, request,
    },
    scripted::{Asked, Model, Reply, Scripted, Step},
};

fn answer(asked: &Asked) -> Reply {
    match asked.step() {
        Step::Article => "Title\none\ntwo\nthree".into(),
        Step::Places => "<Seg1>，<Seg2>".into(),
        Step::Caption(_) => "a caption\"".into(),
        Step::Choice => ": B".into(),
        Step::Edit => "another".into(),
    }
}

fn uploads(count: usize) -> ComposeRequest {
    ComposeRequest {
        pictures: (0..count).map(|seed| picture(stripes(seed))).collect(),
        ..request("Write.")
    }
}

async fn refusal(client: &mut Client, request: ComposeRequest) -> Status {
    match client.compose(request).await {
        Err(status) => status,
        Ok(stream) => {
            let event = stream.into_inner().message().await;
            panic!("it is taken, and says {event:?}")
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_requests_that_make_no_sense_are_refused_by_name() {
    let scripted = Scripted::start(Model::small(), &[], answer).await;
    let mut client = connect(&scripted.address).await;
    let sampled = |set: fn(&mut CompositionSampling)| {
        let mut sampling = CompositionSampling::default();
        set(&mut sampling);
        sampling
    };
    let sampling = |set| ComposeRequest {
        sampling: Some(sampled(set)),
        ..request("Write.")
    };
    let with = |set: fn(&mut ComposeRequest)| {
        let mut request = request("Write.");
        set(&mut request);
        request
    };
    let mut broken = uploads(3);
    broken.pictures[1] = picture(b"BM is no picture".to_vec());
    let cases = [
        ("eleven pictures", uploads(11), "pictures", "10"),
        ("no instruction", request(""), "instruction", ""),
        ("white space alone", request(" \n\t　"), "instruction", ""),
        ("a broken picture", broken, "pictures[1]", ""),
        (
            "an empty picture",
            with(|it| it.pictures.push(picture(vec![]))),
            "pictures[0]",
            "",
        ),
        (
            "sixteen places",
            with(|it| it.picture_count = Some(16)),
            "picture_count",
            "15",
        ),
        (
            "seven beams",
            with(|it| it.num_beams = Some(7)),
            "num_beams",
            "6",
        ),
        (
            "no beam",
            with(|it| it.num_beams = Some(0)),
            "num_beams",
            "1",
        ),
        (
            "no token",
            with(|it| it.max_tokens = Some(0)),
            "max_tokens",
            "1",
        ),
        (
            "a book",
            with(|it| it.max_tokens = Some(8193)),
            "max_tokens",
            "8192",
        ),
        (
            "no segment",
            with(|it| it.max_segments = Some(0)),
            "max_segments",
            "1",
        ),
        (
            "61 segments",
            with(|it| it.max_segments = Some(61)),
            "max_segments",
            "60",
        ),
        (
            "uploads without any",
            with(|it| it.set_picture_source(PictureSource::Uploads)),
            "picture_source",
            "",
        ),
        (
            "a source that is none",
            with(|it| it.picture_source = 77),
            "picture_source",
            "",
        ),
        (
            "an order that is none",
            with(|it| it.captions = 77),
            "captions",
            "",
        ),
        (
            "two system texts",
            with(|it| (it.with_meta, it.system) = (true, "Be brief.".into())),
            "system",
            "",
        ),
        (
            "a long id",
            with(|it| it.request_id = "x".repeat(129)),
            "request_id",
            "128",
        ),
        (
            "cold",
            sampling(|it| it.temperature = Some(-0.1)),
            "sampling.temperature",
            "0",
        ),
        (
            "hot",
            sampling(|it| it.temperature = Some(10.1)),
            "sampling.temperature",
            "10",
        ),
        (
            "no number",
            sampling(|it| it.temperature = Some(f32::NAN)),
            "sampling.temperature",
            "",
        ),
        (
            "no top",
            sampling(|it| it.top_p = Some(0.0)),
            "sampling.top_p",
            "",
        ),
        (
            "over the top",
            sampling(|it| it.top_p = Some(1.5)),
            "sampling.top_p",
            "1",
        ),
        (
            "a reward for repeating",
            sampling(|it| it.repetition_penalty = Some(0.9)),
            "sampling.repetition_penalty",
            "1",
        ),
        (
            "later steps",
            with(|it| {
                it.step_sampling = Some(CompositionSampling {
                    top_p: Some(2.0),
                    ..CompositionSampling::default()
                })
            }),
            "step_sampling.top_p",
            "1",
        ),
    ];
    for (name, request, field, says) in cases {
        eprintln!("{name}");
        let status = refusal(&mut client, request).await;
        assert_wrong(&status, field, says);
    }
    let other = ComposeRequest {
        model: "another".to_owned(),
        ..request("Write.")
    };
    let status = refusal(&mut client, other).await;
    assert_refused(&status, Code::NotFound, "MODEL_NOT_FOUND");
    assert!(scripted.asked().is_empty(), "the model heard of none of it");
    let told = compose(&mut client, uploads(10)).await;
    assert_eq!(told.selected.len(), 2, "ten are not too many: {told:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_counts_above_what_there_is_are_lowered_with_a_word() {
    let scripted = Scripted::start(Model::small(), &[], answer).await;
    let mut client = connect(&scripted.address).await;
    let more = ComposeRequest {
        picture_count: Some(5),
        ..uploads(2)
    };
    let told = compose(&mut client, more).await;
    assert_eq!(told.accepted.picture_count, Some(2));
    assert_eq!(told.warning_codes(), ["FEWER_PICTURES"]);
    assert!(told.warnings[0].text.contains('5'), "{told:#?}");
    assert_eq!(told.selected.len(), 2);
    // The model names two places where three are wanted.
    let told = compose(&mut client, uploads(3)).await;
    assert_eq!(told.warning_codes(), ["FEWER_PLACES"]);
    assert_eq!(told.selected.len(), 2);
    // Of more places than are wanted, the first are taken.
    let one = ComposeRequest {
        picture_count: Some(1),
        ..uploads(3)
    };
    let told = compose(&mut client, one).await;
    assert_eq!(told.places(), [1]);
    assert!(told.warnings.is_empty(), "{told:#?}");
}

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
    let status = super::edits::try_propose(&mut client, edit).await;
    let status = status.expect_err("it does not fit");
    assert_refused(&status, Code::InvalidArgument, "PROMPT_TOO_LONG");
}

/// Every call that names an article, for one that is another's or does not exist.
async fn statuses(client: &mut Client, id: &str, tenant: &'static str) -> Vec<Status> {
    let article_id = || id.to_owned();
    let mut statuses = vec![];
    macro_rules! ask {
        ($call:ident, $message:expr) => {
            let answer = client.$call(of_tenant($message, tenant)).await;
            statuses.push(answer.map(drop).expect_err(stringify!($call)));
        };
    }
    ask!(
        get_article,
        GetArticleRequest {
            article_id: article_id()
        }
    );
    ask!(
        resume,
        ResumeRequest {
            article_id: article_id(),
            sequence: 0
        }
    );
    ask!(
        cancel,
        CancelRequest {
            article_id: article_id()
        }
    );
    ask!(
        provide_candidates,
        ProvideCandidatesRequest {
            article_id: article_id(),
            location: 1,
            pictures: vec![provided(stripes(1), "")],
        }
    );
    ask!(
        get_picture,
        GetPictureRequest {
            article_id: article_id(),
            picture_id: "x".to_owned(),
        }
    );
    ask!(
        export,
        ExportRequest {
            article_id: article_id(),
            format: 0,
        }
    );
    ask!(
        edit,
        EditRequest {
            article_id: article_id(),
            revision: 0,
            segment: 0,
            operation: EditOperation::Rewrite.into(),
            instruction: String::new(),
        }
    );
    ask!(
        apply_edit,
        ApplyEditRequest {
            article_id: article_id(),
            revision: 0,
            text: None,
        }
    );
    ask!(
        cancel_edit,
        CancelEditRequest {
            article_id: article_id()
        }
    );
    ask!(
        change_article,
        ChangeArticleRequest {
            article_id: article_id(),
            revision: 0,
            change: Some(Change::Undo(Undo {})),
        }
    );
    ask!(
        delete_article,
        DeleteArticleRequest {
            article_id: article_id()
        }
    );
    statuses
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_articles_of_others_and_hostile_names_are_not_found() {
    let scripted = Scripted::start(Model::small(), &[], answer).await;
    let mut client = connect(&scripted.address).await;
    let stream = client.compose(of_tenant(uploads(2), "alice")).await;
    let mut stream = stream.expect("it is taken").into_inner();
    let events = super::client::follow(&mut stream, 0).await;
    let told = Told::of(&events);
    let id = events[0].article_id.clone();
    for tenant in ["bob", "alice2", "ALICE"] {
        for status in statuses(&mut client, &id, tenant).await {
            assert_refused(&status, Code::NotFound, "ARTICLE_NOT_FOUND");
        }
    }
    let long = "9".repeat(1 << 20);
    let cut = &id[..id.len() - 1];
    let upper = id.to_uppercase();
    let mut hostile = vec![
        "",
        ".",
        "../../etc/passwd",
        "%2e%2e%2f",
        "a\0b",
        "文章",
        "' OR 1=1 --",
        &long,
        cut,
    ];
    if upper != id {
        hostile.push(&upper);
    }
    for hostile in hostile {
        for status in statuses(&mut client, hostile, "alice").await {
            let is_refused = matches!(status.code(), Code::NotFound | Code::InvalidArgument);
            assert!(is_refused, "{status:?}");
            assert!(status.message().len() < 4096, "it does not echo a megabyte");
        }
    }
    // All of it is still there for who made it, and its pictures go by names that are no paths.
    let ids: Vec<String> = told.accepted.pictures.clone();
    for picture_id in ["", "../x", &long, "pictures/1.png"] {
        let get = GetPictureRequest {
            article_id: id.clone(),
            picture_id: picture_id.to_owned(),
        };
        let status = client.get_picture(of_tenant(get, "alice")).await;
        let status = status.expect_err("there is none");
        let is_refused = matches!(status.code(), Code::NotFound | Code::InvalidArgument);
        assert!(is_refused, "{status:?}");
    }
    for picture_id in ids {
        let get = GetPictureRequest {
            article_id: id.clone(),
            picture_id,
        };
        let stream = client.get_picture(of_tenant(get, "alice")).await;
        let chunk = stream.expect("it is there").into_inner().message().await;
        assert!(!chunk.expect("it comes").expect("a piece").data.is_empty());
    }
    // Names say nothing about each other.
    let other = compose_events(&mut client, uploads(1)).await;
    let other = &other[0].article_id;
    let same = id.bytes().zip(other.bytes()).filter(|(a, b)| a == b);
    assert!(same.count() < id.len() / 2, "{id} and {other}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_articles_change_when_they_are_there_and_not_before() {
    let script = |asked: &Asked| match asked.step() {
        Step::Article if asked.text.contains("Hang.") => Reply::Hang,
        Step::Article if asked.text.contains("Nothing.") => "".into(),
        _ => answer(asked),
    };
    let scripted = Scripted::start(Model::small(), &[], script).await;
    let mut client = connect(&scripted.address).await;
    let change = |id: &str| ChangeArticleRequest {
        article_id: id.to_owned(),
        revision: 0,
        change: Some(Change::SetText(SetText {
            segment: 0,
            text: "x".to_owned(),
        })),
    };
    let stream = client.compose(request("Hang.")).await.expect("it is taken");
    let mut stream = stream.into_inner();
    let first = super::client::next(&mut stream).await.expect("an event");
    assert!(matches!(first.event, Some(Event::Accepted(_))));
    let id = first.article_id;
    let now = super::client::article(&mut client, &id).await;
    assert!(now.is_composing && now.segments.is_empty());
    assert_eq!(now.instruction, "Hang.");
    let status = client.change_article(change(&id)).await;
    let status = status.expect_err("there is nothing to change");
    assert_refused(&status, Code::FailedPrecondition, "STILL_COMPOSING");
    let export = ExportRequest {
        article_id: id,
        format: 0,
    };
    let status = client.export(export).await;
    let status = status.expect_err("there is nothing to export");
    assert_refused(&status, Code::FailedPrecondition, "STILL_COMPOSING");

    let events = compose_events(&mut client, request("Nothing.")).await;
    let id = events[0].article_id.clone();
    let status = client.change_article(change(&id)).await;
    let status = status.expect_err("there is no article");
    assert_refused(&status, Code::FailedPrecondition, "NO_ARTICLE");

    let events = compose_events(&mut client, uploads(1)).await;
    let id = events[0].article_id.clone();
    let stale = ChangeArticleRequest {
        revision: 17,
        ..change(&id)
    };
    let status = client.change_article(stale).await;
    let status = status.expect_err("it is for another revision");
    assert_refused(&status, Code::Aborted, "REVISION_CONFLICT");
    client.change_article(change(&id)).await.expect("it fits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_steps_by_themselves_refuse_what_makes_no_sense() {
    let scripted = Scripted::start(Model::small(), &[], answer).await;
    let mut client = connect(&scripted.address).await;
    let segments = || vec!["Title".to_owned(), "one".to_owned()];
    let mut statuses: Vec<(&str, Status)> = vec![];
    macro_rules! ask {
        ($name:literal, $call:ident, $message:expr) => {
            let answer = client.$call($message).await;
            statuses.push(($name, answer.map(drop).expect_err($name)));
        };
    }
    ask!(
        "no segments",
        suggest_locations,
        SuggestLocationsRequest::default()
    );
    ask!(
        "too many places",
        suggest_locations,
        SuggestLocationsRequest {
            segments: segments(),
            count: Some(16),
            ..SuggestLocationsRequest::default()
        }
    );
    ask!(
        "eleven pictures",
        suggest_locations,
        SuggestLocationsRequest {
            segments: segments(),
            pictures: uploads(11).pictures,
            ..SuggestLocationsRequest::default()
        }
    );
    ask!(
        "a place that is none",
        suggest_caption,
        SuggestCaptionRequest {
            segments: segments(),
            location: 2,
            ..SuggestCaptionRequest::default()
        }
    );
    ask!(
        "an earlier place that is none",
        suggest_caption,
        SuggestCaptionRequest {
            segments: segments(),
            location: 1,
            earlier: vec![Caption {
                location: 9,
                text: "x".to_owned()
            }],
            ..SuggestCaptionRequest::default()
        }
    );
    ask!(
        "no candidates",
        select_image,
        SelectImageRequest {
            segments: segments(),
            location: 1,
            ..SelectImageRequest::default()
        }
    );
    ask!(
        "eleven candidates",
        select_image,
        SelectImageRequest {
            segments: segments(),
            location: 1,
            candidates: uploads(11).pictures,
            ..SelectImageRequest::default()
        }
    );
    ask!(
        "a broken candidate",
        select_image,
        SelectImageRequest {
            segments: segments(),
            location: 1,
            candidates: vec![picture(stripes(1)), picture(b"none".to_vec())],
            ..SelectImageRequest::default()
        }
    );
    ask!(
        "two system texts",
        suggest_caption,
        SuggestCaptionRequest {
            params: Some(StepParams {
                with_meta: true,
                system: "x".to_owned(),
                ..StepParams::default()
            }),
            segments: segments(),
            location: 1,
            ..SuggestCaptionRequest::default()
        }
    );
    ask!(
        "an empty caption",
        search_images,
        SearchImagesRequest::default()
    );
    for (name, status) in statuses {
        let is_refused = matches!(status.code(), Code::InvalidArgument)
            || name == "an empty caption" && status.code() == Code::FailedPrecondition;
        assert!(is_refused, "{name}: {status:?}");
    }
    assert!(scripted.asked().is_empty(), "the model heard of none of it");
}
