//! Events and articles as they go over the wire.

use inkstone_composition::{
    Picture,
    article::{Article, Illustration, SearchRequest},
};

use super::*;

fn told(source: WantedSource) -> Told {
    Told {
        article_id: ArticleId("a".into()),
        source,
        expires_after: Duration::from_secs(3600),
    }
}

/// The event on the wire, its number checked.
fn sent(event: Event) -> event::Event {
    let sent = told(WantedSource::Search).event(Numbered { sequence: 7, event });
    assert_eq!((sent.article_id.as_str(), sent.sequence), ("a", 7));
    sent.event.expect("every event says something")
}

fn found(id: &str) -> Picture {
    Picture {
        index: Some(format!("index-{id}")),
        source: Some("https://example.org".into()),
        author: Some("Ann".into()),
        licence: Some("CC0".into()),
        ..Picture::uploaded(id, "image/png")
    }
}

#[test]
fn the_first_event_says_what_is_really_done() {
    let request = ComposeRequest {
        pictures: vec![Picture::uploaded("p0", "image/png")],
        picture_count: PictureCount::Fixed(1),
        sampling: Sampling::GREEDY,
        ..ComposeRequest::of("Write.")
    };
    let accept = |request: &ComposeRequest, source: WantedSource| told(source).accepted(request);
    let accepted = accept(&request, WantedSource::Uploads);
    assert_eq!(accepted.seed, 8909);
    assert_eq!(accepted.pictures, ["p0"]);
    assert_eq!(accepted.picture_count, Some(1));
    assert_eq!(accepted.picture_source(), wire::PictureSource::Uploads);
    assert_eq!(accepted.expires_after_seconds, 3600);
    assert_eq!((accepted.num_beams, accepted.max_tokens), (1, 4096));
    assert_eq!(accepted.max_segments, 60);
    // Greedy where the article is.
    let temperatures = [accepted.sampling, accepted.step_sampling]
        .map(|sampling| sampling.and_then(|sampling| sampling.temperature));
    assert_eq!(temperatures, [Some(0.0); 2]);
    for (count, wanted) in [
        (PictureCount::None, Some(0)),
        (PictureCount::Automatic, None),
    ] {
        let request = ComposeRequest {
            picture_count: count,
            ..request.clone()
        };
        for (source, wanted) in [
            (WantedSource::Default, wire::PictureSource::Unspecified),
            (WantedSource::Search, wire::PictureSource::Search),
            (WantedSource::Client, wire::PictureSource::Client),
        ] {
            assert_eq!(accept(&request, source).picture_source(), wanted);
        }
        let accepted = accept(&request, WantedSource::Search);
        assert_eq!(accepted.picture_count, wanted);
    }
}

#[test]
fn every_event_is_told() {
    let text = || "text".to_owned();
    assert_eq!(
        sent(Event::TextDelta { text: text() }),
        event::Event::TextDelta(wire::TextDelta { text: text() })
    );
    assert_eq!(
        sent(Event::SegmentClosed {
            index: 3,
            text: text()
        }),
        event::Event::SegmentClosed(wire::SegmentClosed {
            index: 3,
            text: text()
        })
    );
    for (finish, wanted) in [
        (FinishReason::Stop, wire::ArticleFinishReason::Stop),
        (FinishReason::Length, wire::ArticleFinishReason::Length),
        (
            FinishReason::Cancelled,
            wire::ArticleFinishReason::Cancelled,
        ),
    ] {
        let usage = (finish != FinishReason::Cancelled).then_some(Usage {
            prompt_tokens: 5,
            output_tokens: 6,
        });
        let done = Event::ArticleDone {
            num_segments: 2,
            finish,
            usage,
        };
        let wanted = wire::ArticleDone {
            num_segments: 2,
            finish_reason: wanted.into(),
            prompt_tokens: usage.map(|_| 5),
            completion_tokens: usage.map(|_| 6),
        };
        assert_eq!(sent(done), event::Event::ArticleDone(wanted));
    }
    let places = Places {
        places: vec![1, 4],
        by_default: true,
    };
    assert_eq!(
        sent(Event::Locations {
            places,
            raw: text()
        }),
        event::Event::Locations(wire::Locations {
            locations: vec![1, 4],
            raw: text(),
            by_default: true,
        })
    );
    assert_eq!(
        sent(Event::Caption {
            place: 4,
            text: text()
        }),
        event::Event::Caption(wire::Caption {
            location: 4,
            text: text()
        })
    );
    let search = SearchRequest {
        caption: text(),
        exclude: vec!["7".into()],
    };
    assert_eq!(
        sent(Event::CandidatesRequest { place: 4, search }),
        event::Event::CandidatesRequest(wire::CandidatesRequest {
            location: 4,
            caption: text(),
            exclude: vec!["7".into()],
        })
    );
    let picture = wire::PictureInfo {
        id: "p1".into(),
        media_type: "image/png".into(),
        index: "index-p1".into(),
        source: "https://example.org".into(),
        author: "Ann".into(),
        licence: "CC0".into(),
    };
    assert_eq!(
        sent(Event::Candidates {
            place: 4,
            pictures: vec![found("p1")],
        }),
        event::Event::Candidates(wire::Candidates {
            location: 4,
            pictures: vec![picture.clone()],
        })
    );
    assert_eq!(
        sent(Event::ImageSelected {
            place: 4,
            candidate: 2,
            picture: found("p1"),
            raw: text(),
            by_default: true,
        }),
        event::Event::ImageSelected(wire::ImageSelected {
            location: 4,
            candidate: 2,
            picture: Some(picture),
            raw: text(),
            by_default: true,
        })
    );
    for (stage, wanted) in [
        (Stage::Article, wire::ComposeStage::Article),
        (Stage::Locations, wire::ComposeStage::Locations),
        (Stage::Captions, wire::ComposeStage::Captions),
        (Stage::Pictures, wire::ComposeStage::Pictures),
    ] {
        let progress = Event::Progress {
            stage,
            done: 1,
            total: 6,
        };
        let wanted = wire::ComposeProgress {
            stage: wanted.into(),
            done: 1,
            total: 6,
        };
        assert_eq!(sent(progress), event::Event::Progress(wanted));
    }
}

#[test]
fn what_went_wrong_has_a_code_and_words() {
    for (reason, code) in [
        (DropReason::CaptionFailed("x".into()), "CAPTION_FAILED"),
        (DropReason::EmptyCaption, "EMPTY_CAPTION"),
        (DropReason::SourceFailed("x".into()), "SOURCE_FAILED"),
        (DropReason::NoCandidates, "NO_CANDIDATES"),
        (DropReason::Cancelled, "CANCELLED"),
    ] {
        let text = reason.to_string();
        let dropped = wire::LocationDropped {
            location: 2,
            reason: code.into(),
            text,
        };
        let event = Event::LocationDropped { place: 2, reason };
        assert_eq!(sent(event), event::Event::LocationDropped(dropped));
    }
    let error = ComposeError::PromptTooLong {
        num_tokens: 9,
        limit: 8,
    };
    for (error, code) in [
        (error, "PROMPT_TOO_LONG"),
        (ComposeError::Failed { reason: "x".into() }, "FAILED"),
        (ComposeError::Empty, "EMPTY"),
        (ComposeError::Cancelled, "CANCELLED"),
    ] {
        let failed = wire::ComposeFailed {
            stage: wire::ComposeStage::Article.into(),
            code: code.into(),
            text: error.to_string(),
        };
        let event = Event::Error {
            stage: Stage::Article,
            error,
        };
        assert_eq!(sent(event), event::Event::Error(failed));
    }
    let reason = || "x".to_owned();
    let shortened = Warning::ContextShortened {
        stage: Stage::Captions,
        place: Some(1),
    };
    for (warning, code) in [
        (Warning::NoPictureSource, "NO_PICTURE_SOURCE"),
        (
            Warning::FewerPictures {
                wanted: 3,
                given: 2,
            },
            "FEWER_PICTURES",
        ),
        (
            Warning::FewerPlaces {
                wanted: 3,
                found: 2,
            },
            "FEWER_PLACES",
        ),
        (Warning::TooManySegments { limit: 60 }, "TOO_MANY_SEGMENTS"),
        (shortened, "CONTEXT_SHORTENED"),
        (
            Warning::LocationsFailed { reason: reason() },
            "LOCATIONS_FAILED",
        ),
        (
            Warning::ChoiceFailed {
                place: 2,
                reason: reason(),
            },
            "CHOICE_FAILED",
        ),
    ] {
        let told = wire::ComposeWarning {
            code: code.into(),
            text: warning.to_string(),
        };
        assert_eq!(
            sent(Event::Warning { warning }),
            event::Event::Warning(told)
        );
    }
}

#[test]
fn an_article_is_told_whole() {
    let illustration = Illustration::new("a sea".into(), vec![found("p0"), found("p1")], 1, true);
    let written = [("A title", None), ("first", illustration)];
    let article = Article::new(
        ArticleId("a".into()),
        ComposeRequest::of("Write."),
        written.map(|(text, illustration)| (text.to_owned(), illustration)),
        vec![],
    );
    let done = sent(Event::Done {
        article: Box::new(article),
    });
    let event::Event::Done(wire::ComposeDone {
        article: Some(done),
    }) = done
    else {
        panic!("the last event has the article, found {done:?}");
    };
    assert_eq!((done.id.as_str(), done.revision), ("a", 0));
    assert_eq!(done.instruction, "Write.");
    assert!(!done.is_composing);
    let [title, first] = &done.segments[..] else {
        panic!("two segments, found {}", done.segments.len());
    };
    assert_eq!((title.id, title.text.as_str()), (0, "A title"));
    assert_eq!(title.illustration, None);
    let shown = first.illustration.as_ref().expect("it has a picture");
    assert_eq!((shown.chosen, shown.by_default), (1, true));
    let ids: Vec<_> = shown.candidates.iter().map(|picture| &picture.id).collect();
    assert_eq!(ids, ["p0", "p1"]);
}
