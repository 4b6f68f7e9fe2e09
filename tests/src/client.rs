//! A gRPC client for tests: builds requests in a line, collects answers.

use inkstone_proto::v1::{
    ChatRequest, ChatResponse, ContentPart, Finished, Message, Picture, PromptParams, Role,
    SamplingParams, Started, StopParams, chat_response::Event,
    chat_service_client::ChatServiceClient, content_part::Content, picture::Source,
};
use tonic::{Status, Streaming, transport::Channel};

/// A collected answer.
#[derive(Debug, Default)]
pub struct Answer {
    pub started: Started,
    pub text: String,
    pub token_ids: Vec<u32>,
    pub finished: Finished,
}

/// Connects to a server.
pub async fn connect(address: &str) -> ChatServiceClient<Channel> {
    ChatServiceClient::connect(format!("http://{address}"))
        .await
        .expect("the server listens")
        .max_encoding_message_size(64 << 20)
}

/// Asks and collects the whole answer.
pub async fn ask(
    client: &mut ChatServiceClient<Channel>,
    request: ChatRequest,
) -> Result<Answer, Status> {
    collect(client.chat(request).await?.into_inner()).await
}

/// Reads a stream to its end and checks its order: `Started`, deltas, `Finished`, numbered from 0.
pub async fn collect(mut stream: Streaming<ChatResponse>) -> Result<Answer, Status> {
    let mut answer = Answer::default();
    let mut seq = 0;
    let mut has_finished = false;
    while let Some(response) = stream.message().await? {
        assert_eq!(response.seq, seq, "events are numbered without gaps");
        assert!(!has_finished, "Finished is last");
        match response.event.expect("an event") {
            Event::Started(started) => {
                assert_eq!(seq, 0, "Started is first");
                answer.started = started;
            }
            Event::Delta(delta) => {
                answer.text += &delta.text;
                answer.token_ids.extend(delta.token_ids);
            }
            Event::Finished(finished) => {
                answer.finished = finished;
                has_finished = true;
            }
            Event::PromptLogprobs(_) | Event::AnswerFinished(_) => {}
        }
        seq += 1;
    }
    assert!(has_finished, "an answer ends with Finished");
    Ok(answer)
}

/// Greedy, no penalty, exactly `max_tokens` tokens unless `stop` says otherwise.
pub fn greedy(messages: Vec<Message>, max_tokens: u32) -> ChatRequest {
    ChatRequest {
        messages,
        sampling: Some(SamplingParams {
            temperature: Some(0.0),
            repetition_penalty: Some(1.0),
            ..SamplingParams::default()
        }),
        stop: Some(StopParams {
            max_tokens: Some(max_tokens),
            ignore_eos: true,
            ..StopParams::default()
        }),
        prompt: Some(PromptParams {
            omit_default_system: true,
            ..PromptParams::default()
        }),
        ..ChatRequest::default()
    }
}

pub fn user(parts: Vec<ContentPart>) -> Message {
    Message {
        role: Role::User.into(),
        parts,
    }
}

pub fn assistant(text_of_answer: &str) -> Message {
    Message {
        role: Role::Assistant.into(),
        parts: vec![text(text_of_answer)],
    }
}

pub fn text(text: &str) -> ContentPart {
    ContentPart {
        content: Some(Content::Text(text.to_owned())),
    }
}

pub fn picture(file: Vec<u8>) -> ContentPart {
    ContentPart {
        content: Some(Content::Picture(Picture {
            source: Some(Source::Data(file.into())),
        })),
    }
}
