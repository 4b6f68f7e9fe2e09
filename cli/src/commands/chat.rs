//! `inkstone chat`: questions about pictures from the terminal, the answer as it comes.

use std::{
    io::{self, BufRead, IsTerminal},
    path::Path,
};

use anyhow::{Context, bail};
use inkstone_proto::v1::{
    ChatRequest, ContentPart, FinishReason, Finished, Message, PromptParams, Role, SamplingParams,
    StopParams, chat_response::Event,
};

use super::client::{Client, explain, message, picture_part, text_part, with_server, write_out};
use crate::{arguments::ChatArguments, telemetry::Console};

pub(crate) fn run(arguments: ChatArguments, console: &Console) -> anyhow::Result<()> {
    let server = arguments.server.as_deref();
    with_server(server, &arguments.engine, console, async |client| {
        converse(&arguments, client).await
    })
}

async fn converse(arguments: &ChatArguments, mut client: Client) -> anyhow::Result<()> {
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
    client: &mut Client,
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

fn question_parts(pictures: &mut Vec<ContentPart>, question: &str) -> Vec<ContentPart> {
    let mut parts = std::mem::take(pictures);
    parts.push(text_part(question));
    parts
}

fn read_picture(file: &Path) -> anyhow::Result<ContentPart> {
    let data = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(picture_part(data))
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
