use inkstone_proto::v1::{
    ArticleDone, ArticleFinishReason, Candidates, Caption, ComposeAccepted, ComposeEvent,
    ComposeProgress, ComposeWarning, ImageSelected, LocationDropped, Locations, PictureInfo,
    TextDelta,
};

use super::{
    connection::Place,
    teller::{Shown, Teller},
    *,
};

fn teller(files: &[&str]) -> Teller {
    let files: Vec<_> = files.iter().map(Into::into).collect();
    Teller::new(&files)
}

fn delta(text: &str) -> Event {
    Event::TextDelta(TextDelta {
        text: text.to_owned(),
    })
}

fn warning(text: &str) -> Event {
    Event::Warning(ComposeWarning {
        code: "FEWER_PLACES".to_owned(),
        text: text.to_owned(),
    })
}

fn written() -> Event {
    Event::ArticleDone(ArticleDone {
        num_segments: 3,
        finish_reason: ArticleFinishReason::Stop.into(),
        prompt_tokens: Some(20),
        completion_tokens: Some(41),
    })
}

fn info(id: &str) -> PictureInfo {
    PictureInfo {
        id: id.to_owned(),
        media_type: "image/png".to_owned(),
        ..PictureInfo::default()
    }
}

fn selected(picture: PictureInfo) -> ImageSelected {
    ImageSelected {
        location: 1,
        candidate: 2,
        picture: Some(picture),
        raw: "：C".to_owned(),
        by_default: false,
    }
}

/// The one line that is said of an event.
fn line(teller: &mut Teller, event: Event) -> String {
    let Shown { text, lines } = teller.tell(&event);
    assert_eq!(text, "");
    let [line] = &lines[..] else {
        panic!("one line, not {lines:?}");
    };
    line.clone()
}

#[test]
fn text_goes_out_as_it_comes_and_lines_wait_for_its_end() {
    let mut teller = teller(&[]);
    let shown = teller.tell(&delta("A Day"));
    assert_eq!((shown.text.as_str(), shown.lines.len()), ("A Day", 0));
    assert_eq!(teller.tell(&warning("look out")), Shown::default());
    assert_eq!(teller.tell(&delta("\nWe came")).text, "\nWe came");
    let shown = teller.tell(&written());
    assert_eq!(shown.text, "\n");
    assert_eq!(
        shown.lines,
        ["warning: look out", "written: 3 segments, 41 tokens"]
    );
}

#[test]
fn a_text_that_ends_its_line_gets_no_empty_one() {
    let mut teller = teller(&[]);
    teller.tell(&delta("A Day\n"));
    teller.tell(&delta(""));
    assert_eq!(line(&mut teller, warning("at once")), "warning: at once");
    assert_eq!(teller.tell(&written()).text, "");
}

#[test]
fn what_the_model_did_not_decide_is_told() {
    let mut teller = teller(&[]);
    let mut locations = Locations {
        locations: vec![1, 2, 4],
        raw: "nonsense".to_owned(),
        by_default: false,
    };
    let told = line(&mut teller, Event::Locations(locations.clone()));
    assert_eq!(told, "places for pictures: after segments 1, 2 and 4");
    locations.by_default = true;
    let told = line(&mut teller, Event::Locations(locations));
    assert!(
        told.ends_with("; spread evenly, as the model named none that there is"),
        "{told}"
    );

    let candidates = Candidates {
        location: 1,
        pictures: vec![info("a"), info("b"), info("c"), info("d")],
    };
    assert_eq!(
        teller.tell(&Event::Candidates(candidates)),
        Shown::default()
    );
    let told = line(&mut teller, Event::ImageSelected(selected(info("c"))));
    assert_eq!(told, "segment 1: picture 3 of 4 that were found");
    let by_default = ImageSelected {
        candidate: 0,
        raw: "I like\nall".to_owned(),
        by_default: true,
        ..selected(PictureInfo {
            author: "Ann".to_owned(),
            licence: "CC BY 4.0".to_owned(),
            ..info("a")
        })
    };
    let told = line(&mut teller, Event::ImageSelected(by_default));
    assert_eq!(
        told,
        "segment 1: picture 1 of 4 that were found; the first one, as the model's answer \"I like all\" names none (Ann, CC BY 4.0)"
    );
}

#[test]
fn uploads_are_called_by_their_files() {
    let mut teller = teller(&["pictures/cat.png", "dog.png"]);
    let accepted = ComposeAccepted {
        seed: 8909,
        picture_source: PictureSource::Uploads.into(),
        picture_count: Some(2),
        pictures: vec!["digest of cat".to_owned(), "digest of dog".to_owned()],
        ..ComposeAccepted::default()
    };
    assert_eq!(
        line(&mut teller, Event::Accepted(accepted)),
        "composing with seed 8909, 2 of 2 pictures sent along"
    );
    let told = line(
        &mut teller,
        Event::ImageSelected(selected(info("digest of cat"))),
    );
    assert_eq!(told, "segment 1: cat.png");
}

#[test]
fn places_without_a_picture_say_why_and_nothing_steers_the_terminal() {
    let mut teller = teller(&[]);
    let caption = Caption {
        location: 2,
        text: "\u{1b}[31ma red circle".to_owned(),
    };
    assert_eq!(
        line(&mut teller, Event::Caption(caption)),
        "segment 2: wanted is a picture of \" [31ma red circle\""
    );
    let dropped = LocationDropped {
        location: 2,
        reason: "SOURCE_FAILED".to_owned(),
        text: "picture source failed: away".to_owned(),
    };
    assert_eq!(
        line(&mut teller, Event::LocationDropped(dropped)),
        "segment 2: no picture: picture source failed: away"
    );
    let progress = Event::Progress(ComposeProgress::default());
    assert_eq!(teller.tell(&progress), Shown::default());
}

#[test]
fn the_summary_counts_what_there_is() {
    let mut article = Article {
        id: "f00".to_owned(),
        segments: vec![Default::default(); 3],
        ..Article::default()
    };
    article.segments[1].illustration = Some(Default::default());
    let hour = std::time::Duration::from_secs(3600);
    assert_eq!(
        teller::summary(&article, hour),
        "article f00: 3 segments, 1 picture; kept for 60 minutes"
    );
}

fn numbered(sequence: u64) -> ComposeEvent {
    ComposeEvent {
        article_id: "f00".to_owned(),
        sequence,
        event: Some(delta("x")),
    }
}

#[test]
fn an_event_that_comes_again_is_passed_over_and_one_left_out_is_an_error() {
    let mut place = Place::default();
    assert!(place.take(numbered(0)).unwrap().is_some());
    assert!(place.take(numbered(1)).unwrap().is_some());
    assert!(place.take(numbered(1)).unwrap().is_none());
    assert!(place.take(numbered(2)).unwrap().is_some());
    let error = place.take(numbered(4)).unwrap_err().to_string();
    assert!(
        error.contains("number 3 was next, number 4 came"),
        "{error}"
    );
}

fn arguments(typed: &[&str]) -> ComposeArguments {
    crate::arguments::ComposeArguments::typed(typed)
}

#[test]
fn a_bare_instruction_leaves_everything_to_the_server() {
    let request = request(&arguments(&["An article"]), io::empty()).unwrap();
    let bare = ComposeRequest {
        instruction: "An article".to_owned(),
        captions: StepOrder::InTurn.into(),
        choices: StepOrder::InTurn.into(),
        ..ComposeRequest::default()
    };
    assert_eq!(request, bare);
}

#[test]
fn every_flag_reaches_the_request() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.png");
    std::fs::write(&file, b"picture").unwrap();
    let typed = [
        "-",
        "--image",
        file.to_str().unwrap(),
        "--pictures=3",
        "--picture-source=search",
        "--seed=7",
        "--beams=2",
        "--max-tokens=100",
        "--greedy",
        "--top-p=0.9",
        "--top-k=5",
        "--repetition-penalty=1.1",
        "--with-meta",
        "--at-once",
    ];
    let stdin = "  An outline:\n1. a cat\n\n".as_bytes();
    let request = request(&arguments(&typed), stdin).unwrap();
    let wanted = ComposeRequest {
        instruction: "  An outline:\n1. a cat".to_owned(),
        pictures: vec![Picture {
            source: Some(Source::Data("picture".into())),
        }],
        picture_count: Some(3),
        picture_source: PictureSource::Search.into(),
        sampling: Some(CompositionSampling {
            temperature: Some(0.0),
            top_p: Some(0.9),
            top_k: Some(5),
            repetition_penalty: Some(1.1),
        }),
        seed: Some(7),
        num_beams: Some(2),
        max_tokens: Some(100),
        with_meta: true,
        captions: StepOrder::AtOnce.into(),
        choices: StepOrder::AtOnce.into(),
        ..ComposeRequest::default()
    };
    assert_eq!(request, wanted);
}

#[test]
fn a_picture_that_cannot_be_read_is_named() {
    let typed = ["An article", "--image", "/nowhere/a.png"];
    let error = request(&arguments(&typed), io::empty()).unwrap_err();
    assert!(error.to_string().contains("/nowhere/a.png"), "{error}");
}

#[test]
fn a_place_that_cannot_be_written_to_is_named_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    assert!(check_place(&dir.path().join("article.html")).is_ok());
    assert!(check_place(Path::new("article.html")).is_ok());
    let folder = dir.path().join("x.zip");
    std::fs::create_dir(&folder).unwrap();
    let error = check_place(&folder).unwrap_err().to_string();
    assert!(error.ends_with("is a folder"), "{error}");
    let error = check_place(&dir.path().join("no/article.html")).unwrap_err();
    assert!(
        error.to_string().starts_with("there is no folder"),
        "{error}"
    );
}
