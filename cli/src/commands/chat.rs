//! `inkstone chat`: questions about pictures from the terminal, the answer as it comes.

use std::{
    io::{self, BufRead, IsTerminal},
    path::Path,
};

use anyhow::{Context, bail};
use inkstone_proto::v1::{
    BeamParams, ChatRequest, ChatResponse, ChoiceList, Constraint, ContentPart, Delta,
    FinishReason, Finished, Message, Priority, PromptParams, Role, SamplingParams, StopParams,
    chat_response::Event, constraint::Form,
};
use tonic::Streaming;

use super::client::{Client, explain, message, picture_part, text_part, with_server, write_out};
use crate::{
    arguments::{ChatArguments, PriorityChoice},
    telemetry::Console,
};

pub(crate) fn run(arguments: ChatArguments, console: &Console) -> anyhow::Result<()> {
    with_server(&arguments.cluster, console, async |client| {
        converse(&arguments, client).await
    })
}

async fn converse(arguments: &ChatArguments, mut client: Client) -> anyhow::Result<()> {
    let mut pictures = arguments
        .image
        .iter()
        .map(|file| read_picture(file))
        .collect::<Result<Vec<_>, _>>()?;
    let constraint = constraint(arguments)?;
    let ask = async |client: &mut Client, messages: &[Message]| {
        let mut request = request(arguments, messages);
        request.constraint.clone_from(&constraint);
        ask(client, request).await
    };
    let mut messages: Vec<Message> = arguments
        .system
        .iter()
        .map(|text| message(Role::System, vec![text_part(text)]))
        .collect();
    if let Some(question) = &arguments.question {
        messages.push(message(Role::User, question_parts(&mut pictures, question)));
        return ask(&mut client, &messages).await.map(drop);
    }
    while let Some(question) = read_question()? {
        messages.push(message(
            Role::User,
            question_parts(&mut pictures, &question),
        ));
        let answer = ask(&mut client, &messages).await?;
        messages.push(message(Role::Assistant, vec![text_part(&answer)]));
    }
    Ok(())
}

/// Shows what is answered, and gives the first answer.
async fn ask(client: &mut Client, request: ChatRequest) -> anyhow::Result<String> {
    let num_answers = num_answers(&request);
    let stream = client.chat(request).await.map_err(explain)?.into_inner();
    match num_answers {
        0 | 1 => show_one(stream).await,
        _ => show_several(stream, num_answers).await,
    }
}

fn num_answers(request: &ChatRequest) -> usize {
    let sampling = request.sampling.as_ref();
    sampling.and_then(|sampling| sampling.n).unwrap_or(1) as usize
}

/// Shows the answer as it comes.
async fn show_one(mut stream: Streaming<ChatResponse>) -> anyhow::Result<String> {
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
            Some(Event::Started(_) | Event::PromptLogprobs(_) | Event::AnswerFinished(_))
            | None => {}
        }
    }
    bail!("the answer broke off")
}

/// Shows each answer once it is whole, under its number: they come side by side.
async fn show_several(
    mut stream: Streaming<ChatResponse>,
    num_answers: usize,
) -> anyhow::Result<String> {
    let mut answers = vec![String::new(); num_answers];
    while let Some(response) = stream.message().await.map_err(explain)? {
        match response.event {
            Some(Event::Delta(Delta { text, answer, .. })) => {
                *answer_of(&mut answers, answer)? += &text;
            }
            Some(Event::AnswerFinished(finished)) => {
                let text = answer_of(&mut answers, finished.answer)?;
                let number = finished.answer + 1;
                write_out(&format!("[{number}] {text}\n"))?;
            }
            Some(Event::Finished(finished)) => {
                report(&finished);
                return Ok(std::mem::take(&mut answers[0]));
            }
            Some(Event::Started(_) | Event::PromptLogprobs(_)) | None => {}
        }
    }
    bail!("the answers broke off")
}

fn answer_of(answers: &mut [String], index: u32) -> anyhow::Result<&mut String> {
    let num_answers = answers.len();
    let answer = answers.get_mut(index as usize);
    answer.with_context(|| format!("{num_answers} answers were asked for, number {index} came"))
}

fn request(arguments: &ChatArguments, messages: &[Message]) -> ChatRequest {
    ChatRequest {
        messages: messages.to_vec(),
        sampling: Some(SamplingParams {
            temperature: arguments.sampling.temperature(),
            top_k: arguments.sampling.top_k,
            top_p: arguments.sampling.top_p,
            min_p: arguments.min_p,
            repetition_penalty: arguments.sampling.repetition_penalty,
            presence_penalty: arguments.presence_penalty,
            frequency_penalty: arguments.frequency_penalty,
            seed: arguments.sampling.seed,
            n: arguments.n,
            best_of: arguments.best_of,
            ..SamplingParams::default()
        }),
        stop: Some(StopParams {
            max_tokens: arguments.max_tokens,
            stop_strings: arguments.stop.clone(),
            ignore_eos: false,
            min_tokens: arguments.min_tokens,
        }),
        prompt: Some(PromptParams {
            hd_num: arguments.hd_num,
            ..PromptParams::default()
        }),
        beam: arguments.beams.map(|width| BeamParams {
            width,
            length_penalty: arguments.length_penalty,
            ..BeamParams::default()
        }),
        priority: match arguments.priority {
            PriorityChoice::Interactive => Priority::Interactive.into(),
            PriorityChoice::Batch => Priority::Batch.into(),
        },
        ..ChatRequest::default()
    }
}

/// The form that answers must have.
fn constraint(arguments: &ChatArguments) -> anyhow::Result<Option<Constraint>> {
    let form = if !arguments.choice.is_empty() {
        let choices = arguments.choice.clone();
        Some(Form::Choices(ChoiceList { choices }))
    } else if let Some(file) = &arguments.json_schema {
        let schema = std::fs::read_to_string(file);
        let schema = schema.with_context(|| format!("cannot read {}", file.display()))?;
        Some(Form::JsonSchema(schema))
    } else {
        arguments.regex.clone().map(Form::Regex)
    };
    Ok(form.map(|form| Constraint { form: Some(form) }))
}

fn report(finished: &Finished) {
    let usage = finished.usage.unwrap_or_default();
    let reason = FinishReason::try_from(finished.reason).unwrap_or_default();
    tracing::debug!(
        reason = reason.as_str_name(),
        prompt_tokens = usage.prompt_tokens,
        picture_tokens = usage.picture_tokens,
        cached_prompt_tokens = usage.cached_prompt_tokens,
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
