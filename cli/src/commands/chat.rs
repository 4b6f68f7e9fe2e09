//! `inkstone chat`: questions about pictures from the terminal, the answer as it comes.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    path::Path,
};

use anyhow::{Context, bail};
use inkstone_cluster::NodeAddress;
use inkstone_proto::v1::{
    ChatRequest, ContentPart, FinishReason, Finished, Message, Picture, PromptParams, Role,
    SamplingParams, StopParams, chat_response::Event, chat_service_client::ChatServiceClient,
    content_part::Content, picture::Source,
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};
use tonic_types::StatusExt;

use super::{default_model::ModelDir, local_cluster::LocalCluster, run_until_stopped};
use crate::{arguments::ChatArguments, telemetry::Console};

/// Requests carry their pictures.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

pub(crate) fn run(arguments: ChatArguments, console: &Console) -> anyhow::Result<()> {
    if let Some(server) = &arguments.server {
        let address = server.parse::<NodeAddress>()?;
        return run_until_stopped(async |shutdown| {
            tokio::select! {
                result = converse(&arguments, address.as_uri()) => result,
                () = shutdown.cancelled() => Ok(()),
            }
        });
    }
    let model = ModelDir::given_or_default(arguments.engine.model.as_deref(), console)?;
    let cluster = LocalCluster {
        model_dir: model.path(),
        engine: arguments.engine.clone(),
        tensor_parallel: 1,
        vision_workers: 1,
        grpc: ([127, 0, 0, 1], 0).into(),
    };
    run_until_stopped(async |shutdown| {
        let (ready, is_ready) = oneshot::channel();
        let stop = CancellationToken::new();
        let serving = cluster.run(console, stop.clone(), ready);
        tokio::pin!(serving);
        let talk = async {
            let address = is_ready.await.context("the cluster did not start")?;
            converse(&arguments, &format!("http://{address}")).await
        };
        let result = tokio::select! {
            result = talk => result,
            ended = &mut serving => return ended.and_then(|()| Err(anyhow::anyhow!("the cluster stopped"))),
            () = shutdown.cancelled() => Ok(()),
        };
        stop.cancel();
        serving.await?;
        result
    })
}

async fn converse(arguments: &ChatArguments, address: &str) -> anyhow::Result<()> {
    let mut client = ChatServiceClient::connect(address.to_owned())
        .await
        .with_context(|| format!("no coordinator at {address}"))?
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let mut pictures = arguments
        .image
        .iter()
        .map(|file| read_picture(file))
        .collect::<Result<Vec<_>, _>>()?;
    let mut messages: Vec<Message> = arguments
        .system
        .iter()
        .map(|text| message(Role::System, vec![text_part(text)]))
        .collect();
    if let Some(question) = &arguments.question {
        messages.push(message(Role::User, question_parts(&mut pictures, question)));
        return ask(&mut client, arguments, &messages).await.map(drop);
    }
    while let Some(question) = read_question()? {
        messages.push(message(
            Role::User,
            question_parts(&mut pictures, &question),
        ));
        let answer = ask(&mut client, arguments, &messages).await?;
        messages.push(message(Role::Assistant, vec![text_part(&answer)]));
    }
    Ok(())
}

async fn ask(
    client: &mut ChatServiceClient<Channel>,
    arguments: &ChatArguments,
    messages: &[Message],
) -> anyhow::Result<String> {
    let mut stream = client
        .chat(request(arguments, messages))
        .await
        .map_err(explain)?
        .into_inner();
    let mut answer = String::new();
    while let Some(response) = stream.message().await.map_err(explain)? {
        match response.event {
            Some(Event::Delta(delta)) => {
                write_out(&delta.text)?;
                answer += &delta.text;
            }
            Some(Event::Finished(finished)) => {
                write_out("\n")?;
                report(&finished);
                return Ok(answer);
            }
            Some(Event::Started(_)) | None => {}
        }
    }
    bail!("the answer broke off")
}

fn request(arguments: &ChatArguments, messages: &[Message]) -> ChatRequest {
    ChatRequest {
        messages: messages.to_vec(),
        sampling: Some(SamplingParams {
            temperature: arguments.temperature,
            top_k: arguments.top_k,
            top_p: arguments.top_p,
            repetition_penalty: arguments.repetition_penalty,
            seed: arguments.seed,
        }),
        stop: Some(StopParams {
            max_tokens: arguments.max_tokens,
            stop_strings: arguments.stop.clone(),
            ignore_eos: false,
        }),
        prompt: Some(PromptParams {
            hd_num: arguments.hd_num,
            ..PromptParams::default()
        }),
        ..ChatRequest::default()
    }
}

fn report(finished: &Finished) {
    let usage = finished.usage.unwrap_or_default();
    let reason = FinishReason::try_from(finished.reason).unwrap_or_default();
    tracing::debug!(
        reason = reason.as_str_name(),
        prompt_tokens = usage.prompt_tokens,
        picture_tokens = usage.picture_tokens,
        completion_tokens = usage.completion_tokens,
        "answered"
    );
}

/// What the server says, with what can be mended.
fn explain(status: Status) -> anyhow::Error {
    let details = status.get_error_details();
    let violations = details
        .bad_request()
        .map(|bad| bad.field_violations.as_slice())
        .unwrap_or_default();
    let mut text = status.message().to_owned();
    for violation in violations
        .iter()
        .filter(|violation| !status.message().contains(&violation.description))
    {
        text += &format!("\n  {}: {}", violation.field, violation.description);
    }
    anyhow::Error::msg(text)
}

fn question_parts(pictures: &mut Vec<ContentPart>, question: &str) -> Vec<ContentPart> {
    let mut parts = std::mem::take(pictures);
    parts.push(text_part(question));
    parts
}

fn read_picture(file: &Path) -> anyhow::Result<ContentPart> {
    let data = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(ContentPart {
        content: Some(Content::Picture(Picture {
            source: Some(Source::Data(data.into())),
        })),
    })
}

fn read_question() -> io::Result<Option<String>> {
    if io::stdin().is_terminal() {
        write_out("> ")?;
    }
    let mut line = String::new();
    loop {
        line.clear();
        if io::stdin().lock().read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let question = line.trim();
        if !question.is_empty() {
            return Ok(Some(question.to_owned()));
        }
    }
}

fn write_out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn message(role: Role, parts: Vec<ContentPart>) -> Message {
    Message {
        role: role.into(),
        parts,
    }
}

fn text_part(text: &str) -> ContentPart {
    ContentPart {
        content: Some(Content::Text(text.to_owned())),
    }
}
