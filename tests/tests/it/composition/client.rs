//! A client of `CompositionService`: asks in a line, follows a composition to its end, and brings what it was told into a form
//! in which two runs can be compared.

use std::{collections::BTreeMap, time::Duration};

use inkstone_proto::v1::{
    Article, ArticleDone, ArticleFinishReason, CandidatesRequest, ComposeAccepted, ComposeEvent,
    ComposeFailed, ComposeRequest, ComposeWarning, CompositionSampling, ExportFormat,
    ExportRequest, GetArticleRequest, GetPictureRequest, ImageSelected, LocationDropped, Locations,
    Picture, PictureInfo, ProvideCandidatesRequest, ProvidedPicture, ResumeRequest,
    compose_event::Event, composition_service_client::CompositionServiceClient, picture::Source,
};
use tokio::time::timeout;
use tonic::{Code, Request, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;

/// A composition that says nothing for so long hangs.
const HANG: Duration = Duration::from_secs(120);

pub(super) type Client = CompositionServiceClient<Channel>;

pub(super) async fn connect(address: &str) -> Client {
    let client = CompositionServiceClient::connect(format!("http://{address}")).await;
    client
        .expect("the server listens")
        .max_encoding_message_size(64 << 20)
        .max_decoding_message_size(64 << 20)
}

/// An instruction; all else is left to the server.
pub(super) fn request(instruction: &str) -> ComposeRequest {
    ComposeRequest {
        instruction: instruction.to_owned(),
        ..ComposeRequest::default()
    }
}

/// The same without chance, as the small model was measured.
pub(super) fn greedy(instruction: &str) -> ComposeRequest {
    let sampling = CompositionSampling {
        temperature: Some(0.0),
        repetition_penalty: Some(1.0),
        ..CompositionSampling::default()
    };
    ComposeRequest {
        sampling: Some(sampling),
        step_sampling: Some(sampling),
        ..request(instruction)
    }
}

pub(super) fn picture(file: impl Into<tonic::codegen::Bytes>) -> Picture {
    Picture {
        source: Some(Source::Data(file.into())),
    }
}

pub(super) fn provided(file: impl Into<tonic::codegen::Bytes>, index: &str) -> ProvidedPicture {
    ProvidedPicture {
        data: file.into(),
        index: index.to_owned(),
        ..ProvidedPicture::default()
    }
}

/// What a tenant says.
pub(super) fn of_tenant<T>(message: T, tenant: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    let tenant = tenant.parse().expect("ASCII");
    request.metadata_mut().insert("inkstone-tenant", tenant);
    request
}

/// Composes and listens to the end.
pub(super) async fn compose(client: &mut Client, request: ComposeRequest) -> Told {
    Told::of(&compose_events(client, request).await)
}

/// The same, event by event.
pub(super) async fn compose_events(
    client: &mut Client,
    request: ComposeRequest,
) -> Vec<ComposeEvent> {
    let stream = client.compose(request).await.expect("it is taken");
    follow(&mut stream.into_inner(), 0).await
}

/// All events of a composition from a number on.
pub(super) async fn resume(client: &mut Client, article_id: &str, from: u64) -> Vec<ComposeEvent> {
    let request = ResumeRequest {
        article_id: article_id.to_owned(),
        sequence: from,
    };
    let stream = client.resume(request).await.expect("it is kept");
    follow(&mut stream.into_inner(), from).await
}

/// The next event; none at the end of the stream.
pub(super) async fn next(stream: &mut Streaming<ComposeEvent>) -> Option<ComposeEvent> {
    let message = timeout(HANG, stream.message()).await;
    let message = message.unwrap_or_else(|_| panic!("nothing came for {HANG:?}"));
    message.expect("the stream does not break")
}

/// Listens to the end, and checks that events are numbered without gaps and that the last one is last.
pub(super) async fn follow(stream: &mut Streaming<ComposeEvent>, first: u64) -> Vec<ComposeEvent> {
    let mut events: Vec<ComposeEvent> = Vec::new();
    while let Some(event) = next(stream).await {
        assert_eq!(event.sequence, first + events.len() as u64, "no gaps");
        assert!(!events.last().is_some_and(is_last), "the last one is last");
        events.push(event);
    }
    let id = events.first().map(|event| event.article_id.clone());
    let same = |event: &ComposeEvent| Some(&event.article_id) == id.as_ref();
    assert!(events.iter().all(same), "all are of one article");
    assert!(events.last().is_some_and(is_last), "it ends: {events:#?}");
    events
}

/// Listens until an event of this kind has come, and gives all events so far.
pub(super) async fn follow_until(
    stream: &mut Streaming<ComposeEvent>,
    wanted: impl Fn(&Event) -> bool,
) -> Vec<ComposeEvent> {
    let mut events = Vec::new();
    while let Some(event) = next(stream).await {
        let is_wanted = wanted(event.event.as_ref().expect("an event"));
        events.push(event);
        if is_wanted {
            return events;
        }
    }
    panic!("it ended before: {events:#?}");
}

fn is_last(event: &ComposeEvent) -> bool {
    matches!(event.event, Some(Event::Done(_) | Event::Error(_)))
}

/// Listens to the end, and answers every search with what `find` finds.
pub(super) async fn follow_and_provide(
    client: &mut Client,
    request: ComposeRequest,
    find: impl Fn(u32, &CandidatesRequest) -> Vec<ProvidedPicture>,
) -> Vec<ComposeEvent> {
    let stream = client.compose(request).await.expect("it is taken");
    let mut stream = stream.into_inner();
    let mut events = Vec::new();
    while let Some(event) = next(&mut stream).await {
        if let Some(Event::CandidatesRequest(search)) = &event.event {
            let provide = ProvideCandidatesRequest {
                article_id: event.article_id.clone(),
                location: search.location,
                pictures: find(search.location, search),
            };
            let provided = client.provide_candidates(provide).await;
            provided.expect("they are wanted");
        }
        events.push(event);
    }
    assert!(events.last().is_some_and(is_last), "it ends");
    events
}

/// The article as the server has it.
pub(super) async fn article(client: &mut Client, article_id: &str) -> Article {
    let request = GetArticleRequest {
        article_id: article_id.to_owned(),
    };
    let answer = client.get_article(request).await.expect("it is kept");
    answer.into_inner().article.expect("an article")
}

/// Media type, name and bytes of a file.
pub(super) async fn export(
    client: &mut Client,
    article_id: &str,
    format: ExportFormat,
) -> (String, String, Vec<u8>) {
    let request = ExportRequest {
        article_id: article_id.to_owned(),
        format: format.into(),
    };
    let stream = client.export(request).await.expect("it can be exported");
    read_file(stream.into_inner()).await
}

/// Media type and bytes of a picture.
pub(super) async fn get_picture(
    client: &mut Client,
    article_id: &str,
    picture_id: &str,
) -> Result<(String, Vec<u8>), Status> {
    let request = GetPictureRequest {
        article_id: article_id.to_owned(),
        picture_id: picture_id.to_owned(),
    };
    let stream = client.get_picture(request).await?.into_inner();
    let (media_type, _, data) = read_file(stream).await;
    Ok((media_type, data))
}

async fn read_file(
    mut stream: Streaming<inkstone_proto::v1::FileChunk>,
) -> (String, String, Vec<u8>) {
    let first = stream.message().await.expect("it comes");
    let first = first.expect("a first piece");
    let (media_type, name) = (first.media_type, first.file_name);
    let mut data = first.data.to_vec();
    while let Some(chunk) = stream.message().await.expect("it comes whole") {
        assert!(chunk.data.len() <= 64 << 10, "pieces are small");
        assert!(chunk.media_type.is_empty() && chunk.file_name.is_empty());
        data.extend_from_slice(&chunk.data);
    }
    (media_type, name, data)
}

/// A refusal of this kind, with a reason that programs understand.
#[track_caller]
pub(super) fn assert_refused(status: &Status, code: Code, reason: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().expect("a reason");
    let found = (info.reason.as_str(), info.domain.as_str());
    assert_eq!(found, (reason, "inkstone"), "{status:?}");
}

/// What is wrong is this field, and this is said of it.
#[track_caller]
pub(super) fn assert_wrong(status: &Status, field: &str, says: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    let violations = details.bad_request().map(|bad| &bad.field_violations[..]);
    let violations = violations.unwrap_or_default();
    let is_it = violations.iter().any(|violation| {
        violation.field.starts_with(field)
            && (violation.description.contains(says) || status.message().contains(says))
    });
    assert!(is_it, "{field} is wrong, {says}: {status:?}");
}

/// All that was told of a composition, apart from when, in which pieces and under which name: two runs of the same request and
/// seed are equal.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Told {
    pub(super) accepted: ComposeAccepted,
    /// The text as it was streamed.
    pub(super) text: String,
    pub(super) segments: Vec<String>,
    pub(super) article_done: Option<ArticleDone>,
    pub(super) locations: Option<Locations>,
    pub(super) captions: BTreeMap<u32, String>,
    pub(super) searches: BTreeMap<u32, CandidatesRequest>,
    pub(super) candidates: BTreeMap<u32, Vec<PictureInfo>>,
    pub(super) dropped: BTreeMap<u32, LocationDropped>,
    pub(super) selected: BTreeMap<u32, ImageSelected>,
    /// By stage.
    pub(super) progress: BTreeMap<i32, (u32, u32)>,
    pub(super) warnings: Vec<ComposeWarning>,
    /// Without its name.
    pub(super) article: Option<Article>,
    pub(super) error: Option<ComposeFailed>,
}

impl Told {
    /// Gathers the events of a whole composition, and checks what holds of every one.
    pub(super) fn of(events: &[ComposeEvent]) -> Self {
        let mut told = Self::default();
        for (number, event) in events.iter().enumerate() {
            let event = event.event.clone().expect("an event");
            let is_first = matches!(event, Event::Accepted(_));
            assert_eq!(is_first, number == 0, "accepted is first: {events:#?}");
            told.hear(event);
        }
        let by_words = |one: &ComposeWarning, other: &ComposeWarning| {
            (&one.code, &one.text).cmp(&(&other.code, &other.text))
        };
        told.warnings.sort_by(by_words);
        told.check();
        told
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Accepted(accepted) => self.accepted = accepted,
            Event::TextDelta(delta) => {
                assert!(self.article_done.is_none() && !delta.text.is_empty());
                self.text += &delta.text;
            }
            Event::SegmentClosed(closed) => {
                assert_eq!(closed.index as usize, self.segments.len(), "in order");
                self.segments.push(closed.text);
            }
            Event::ArticleDone(done) => {
                assert_eq!(done.num_segments as usize, self.segments.len());
                assert!(self.article_done.replace(done).is_none(), "once");
            }
            Event::Locations(locations) => {
                assert!(self.article_done.is_some(), "the text comes first");
                assert!(self.locations.replace(locations).is_none(), "once");
            }
            Event::Caption(caption) => {
                self.assert_open(caption.location);
                let old = self.captions.insert(caption.location, caption.text);
                assert_eq!(old, None, "one for each place");
            }
            Event::CandidatesRequest(search) => {
                assert_eq!(self.captions[&search.location], search.caption);
                let old = self.searches.insert(search.location, search);
                assert_eq!(old, None, "one for each place");
            }
            Event::Candidates(found) => {
                assert!(self.searches.contains_key(&found.location));
                self.assert_open(found.location);
                let old = self.candidates.insert(found.location, found.pictures);
                assert_eq!(old, None, "one for each place");
            }
            Event::LocationDropped(dropped) => {
                self.assert_open(dropped.location);
                self.dropped.insert(dropped.location, dropped);
            }
            Event::ImageSelected(selected) => {
                self.assert_open(selected.location);
                self.selected.insert(selected.location, selected);
            }
            Event::Progress(progress) => {
                assert!(progress.done <= progress.total, "{progress:?}");
                let now = (progress.done, progress.total);
                let old = self.progress.insert(progress.stage, now);
                assert!(old.is_none_or(|old| old < now), "it never goes back");
            }
            Event::Warning(warning) => self.warnings.push(warning),
            Event::Done(done) => {
                let mut article = done.article.expect("an article");
                article.id.clear();
                self.article = Some(article);
            }
            Event::Error(error) => self.error = Some(error),
        }
    }

    /// A place that was named, and of which it is not known yet what becomes of it.
    #[track_caller]
    fn assert_open(&self, location: u32) {
        let named = &self
            .locations
            .as_ref()
            .expect("places were named")
            .locations;
        assert!(named.contains(&location), "{location} is none of {named:?}");
        let is_settled =
            self.dropped.contains_key(&location) || self.selected.contains_key(&location);
        assert!(!is_settled, "{location} was settled before");
    }

    fn check(&self) {
        assert_eq!(
            segments_of(&self.text),
            self.segments,
            "segments are the text's lines"
        );
        let Some(article) = &self.article else {
            assert!(self.error.is_some());
            return;
        };
        assert!(!article.is_composing);
        let texts: Vec<&str> = article.segments.iter().map(|one| &*one.text).collect();
        // The model may leave a space at the end of a line; the article does not.
        let streamed = self.segments.iter().map(|text| text.trim_end());
        let streamed: Vec<&str> = streamed.collect();
        assert_eq!(texts, streamed, "the article is what was streamed");
        if let Some(Locations { locations, .. }) = &self.locations {
            assert!(
                locations.is_sorted_by(|a, b| a < b),
                "rising: {locations:?}"
            );
            let settled = self.dropped.len() + self.selected.len();
            assert_eq!(settled, locations.len(), "each place is settled: {self:#?}");
            let len = self.segments.len();
            assert!(locations.iter().all(|place| (*place as usize) < len));
        }
        for (number, segment) in article.segments.iter().enumerate() {
            let selected = self.selected.get(&(number as u32));
            let shown = segment.illustration.as_ref().map(|shown| {
                let chosen = shown.chosen as usize;
                (&shown.candidates[chosen], shown.by_default)
            });
            let wanted = selected.map(|selected| {
                let picture = selected.picture.as_ref().expect("a picture");
                (picture, selected.by_default)
            });
            assert_eq!(shown, wanted, "segment {number} shows what was selected");
        }
    }

    pub(super) fn article(&self) -> &Article {
        self.article
            .as_ref()
            .unwrap_or_else(|| panic!("there is no article: {self:#?}"))
    }

    pub(super) fn places(&self) -> &[u32] {
        self.locations.as_ref().map_or(&[], |it| &it.locations)
    }

    pub(super) fn finish_reason(&self) -> ArticleFinishReason {
        let done = self.article_done.as_ref().expect("the text is complete");
        done.finish_reason()
    }

    pub(super) fn warning_codes(&self) -> Vec<&str> {
        self.warnings.iter().map(|one| &*one.code).collect()
    }
}

/// The lines of a text, as spec section 2 cuts it.
fn segments_of(text: &str) -> Vec<String> {
    let lines = text.trim().split('\n');
    let mut segments: Vec<String> = Vec::new();
    for line in lines {
        // White space after a newline goes; before one it stays.
        let line = line.trim_start();
        if !line.is_empty() {
            segments.push(line.to_owned());
        }
    }
    segments
}
