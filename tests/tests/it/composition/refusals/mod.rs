//! Wrong input: each is refused by name, or taken as far as it makes sense with a word about it, and nobody else notices.

mod answers;
mod articles;
mod requests;
mod steps;

use inkstone_proto::v1::ComposeRequest;
use inkstone_tests::pictures::stripes;
use tonic::Status;

use super::{
    client::{Client, picture, request},
    scripted::{Asked, Reply, Step},
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
