//! Articles over the wire.

mod articles;
mod changes;
mod refusals;

use bytes::Bytes;
use inkstone_proto::v1::{
    compose_event, composition_service_client::CompositionServiceClient, edit_event,
};
use tonic::{metadata::MetadataValue, transport::Channel};

use super::*;
use crate::worker_client::{
    EndReason,
    fake::{self, CORRUPT, Step},
};

type Client = CompositionServiceClient<Channel>;

const ARTICLE: &str = "A title\n\nfirst\nsecond";

async fn client(coordinator: &Coordinator) -> Client {
    CompositionServiceClient::new(coordinator.channel().await)
        .max_encoding_message_size(256 * 1024 * 1024)
}

/// The group's next answer.
fn answer(cluster: &FakeCluster, text: &'static str) {
    let stop = fake::tokenizer().end_of_turn_id();
    cluster.group().play([
        Step::Text(text),
        Step::Tokens(vec![stop]),
        Step::End(EndReason::Stop),
    ]);
}

fn wanted() -> wire::ComposeRequest {
    wire::ComposeRequest {
        instruction: "hello".into(),
        ..Default::default()
    }
}

fn picture(data: &'static [u8]) -> wire::Picture {
    wire::Picture {
        source: Some(wire::picture::Source::Data(Bytes::from_static(data))),
    }
}

fn provided(data: &'static [u8]) -> wire::ProvidedPicture {
    wire::ProvidedPicture {
        data: Bytes::from_static(data),
        author: "Ann".into(),
        ..Default::default()
    }
}

fn of_tenant<T>(message: T, tenant: &'static str) -> Request<T> {
    let mut call = Request::new(message);
    let tenant = MetadataValue::from_static(tenant);
    call.metadata_mut().insert("inkstone-tenant", tenant);
    call
}

/// The next event, with its number.
async fn event(events: &mut Streaming<wire::ComposeEvent>) -> Option<wire::ComposeEvent> {
    let event = timeout(PATIENCE, events.message()).await;
    event.expect("an event in time").expect("no error")
}

async fn all_events(events: &mut Streaming<wire::ComposeEvent>) -> Vec<wire::ComposeEvent> {
    let mut all = vec![];
    while let Some(event) = event(events).await {
        all.push(event);
    }
    all
}

/// An article of text only.
async fn text_only(cluster: &FakeCluster, client: &mut Client) -> wire::Article {
    answer(cluster, ARTICLE);
    let request = wire::ComposeRequest {
        picture_count: Some(0),
        ..wanted()
    };
    let mut events = client.compose(request).await.unwrap().into_inner();
    done(&all_events(&mut events).await)
}

/// The article of the last event.
#[track_caller]
fn done(events: &[wire::ComposeEvent]) -> wire::Article {
    match events.last().and_then(|last| last.event.clone()) {
        Some(compose_event::Event::Done(done)) => done.article.expect("the article is told"),
        other => panic!("the last event is not the article: {other:?}"),
    }
}

fn texts(article: &wire::Article) -> Vec<&str> {
    let segments = article.segments.iter();
    segments.map(|segment| segment.text.as_str()).collect()
}

async fn read_file(mut pieces: Streaming<wire::FileChunk>) -> (String, String, Vec<u8>) {
    let first = pieces.message().await.unwrap().expect("there is a piece");
    let mut data = first.data.to_vec();
    while let Some(piece) = pieces.message().await.unwrap() {
        assert!(piece.media_type.is_empty() && piece.file_name.is_empty());
        data.extend(piece.data);
    }
    (first.media_type, first.file_name, data)
}

#[track_caller]
fn check_refused<T: std::fmt::Debug>(
    answer: Result<T, Status>,
    code: Code,
    reason: &str,
) -> Status {
    let status = answer.expect_err("it is refused");
    check_error(&status, code, reason);
    status
}
