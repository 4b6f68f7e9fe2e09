//! `inkstone eval`: fresh cases of the small world, asked through the whole cluster, and how many of them it gets right.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::Context;
use inkstone_proto::v1::{
    ChatRequest, ContentPart, Message, PromptParams, Role, SamplingParams, StopParams,
};
use inkstone_world::{Case, Lot, Part, Skill, Turn, draw_case, draw_picture};
use serde::{Serialize, Serializer};
use tokio::task::{JoinSet, spawn_blocking};
use tonic::Status;
use tonic_types::StatusExt;

use super::client::{
    Client, ask_until_taken, explain, message, picture_part, text_part, with_server, write_out,
};
use crate::{arguments::EvalArguments, telemetry::Console};

/// Conversations at once: enough for full batches, few enough for any server.
const IN_FLIGHT: usize = 16;
/// The longest right answers, articles of five paragraphs, take about 200.
const MAX_TOKENS: u32 = 320;

/// One answer beside what it should be.
#[derive(Serialize)]
struct Answer {
    kind: &'static str,
    wanted: String,
    given: String,
    is_right: bool,
}

/// The answers of one case.
struct Held {
    skill: Skill,
    index: u64,
    answers: Vec<Answer>,
}

pub(crate) fn run(arguments: EvalArguments, console: &Console) -> anyhow::Result<()> {
    with_server(&arguments.cluster, console, async |client| {
        let mut held = hold_all(client, &arguments, console).await?;
        held.sort_unstable_by_key(|held| (held.skill, held.index));
        show_wrong(&held, arguments.show, console);
        if let Some(path) = &arguments.answers {
            write_answers(&held, path)
                .with_context(|| format!("cannot write answers to {}", path.display()))?;
        }
        let figures = Figures::of(&held);
        if arguments.json {
            let report = Report { skills: figures };
            Ok(write_out(&(serde_json::to_string(&report)? + "\n"))?)
        } else {
            Ok(write_out(&figures.table())?)
        }
    })
}

/// Has all conversations, some at a time.
async fn hold_all(
    client: Client,
    arguments: &EvalArguments,
    console: &Console,
) -> anyhow::Result<Vec<Held>> {
    let skills = arguments.skills();
    let bar = console.counting_bar("eval", skills.len() as u64 * arguments.count);
    let mut left = skills
        .iter()
        .flat_map(|skill| (0..arguments.count).map(move |index| (*skill, index)));
    let (mut held, mut running) = (vec![], JoinSet::new());
    loop {
        while running.len() < IN_FLIGHT {
            let Some((skill, index)) = left.next() else {
                break;
            };
            let (seed, swapped) = (arguments.seed, arguments.swap_pictures);
            let client = client.clone();
            running.spawn(async move {
                let conversation =
                    spawn_blocking(move || draw(skill, seed, index, swapped)).await?;
                let answers = hold(client, conversation).await;
                let answers = answers.with_context(|| format!("{skill}, case {index}"))?;
                anyhow::Ok(Held {
                    skill,
                    index,
                    answers,
                })
            });
        }
        let Some(done) = running.join_next().await else {
            bar.finish_and_clear();
            return Ok(held);
        };
        held.push(done??);
        bar.inc(1);
    }
}

/// A case with its pictures drawn.
struct Conversation {
    case: Case,
    /// The user's side of each turn.
    said: Vec<Vec<ContentPart>>,
}

fn draw(skill: Skill, seed: u64, index: u64, swapped: bool) -> Conversation {
    let mut case = draw_case(skill, seed, index);
    if swapped {
        case.swap_pictures(&mut Lot::new(seed, "swapped pictures", index));
    }
    let parts = |turn: &Turn| {
        let parts = turn.parts.iter().map(|part| match part {
            Part::Text(text) => text_part(text),
            Part::Picture(scene) => picture_part(draw_picture(scene)),
        });
        parts.collect()
    };
    Conversation {
        said: case.turns.iter().map(parts).collect(),
        case,
    }
}

/// Asks turn by turn; later questions follow the model's own answers.
async fn hold(mut client: Client, conversation: Conversation) -> anyhow::Result<Vec<Answer>> {
    let Conversation { case, said } = conversation;
    let (mut messages, mut answers) = (vec![], vec![]);
    for (turn, parts) in case.turns.into_iter().zip(said) {
        messages.push(message(Role::User, parts));
        let request = request(&messages, case.has_system, turn.answer_prefix);
        let given = match ask_until_taken(&mut client, request).await {
            Ok(given) => given,
            // The model's own rambling filled the context: the answer is wrong, and so are those after it.
            Err(status) if !answers.is_empty() && is_too_long(&status) => String::new(),
            Err(status) => return Err(explain(status)),
        };
        messages.push(message(Role::Assistant, vec![text_part(&given)]));
        answers.push(Answer {
            kind: turn.kind,
            is_right: case.skill.is_right(&turn.wanted, &given),
            wanted: turn.wanted,
            given,
        });
    }
    Ok(answers)
}

fn request(messages: &[Message], has_system: bool, prefix: Option<&str>) -> ChatRequest {
    ChatRequest {
        messages: messages.to_vec(),
        sampling: Some(SamplingParams {
            temperature: Some(0.0),
            repetition_penalty: Some(1.0),
            ..SamplingParams::default()
        }),
        stop: Some(StopParams {
            max_tokens: Some(MAX_TOKENS),
            ..StopParams::default()
        }),
        prompt: Some(PromptParams {
            omit_default_system: !has_system,
            answer_prefix: prefix.unwrap_or_default().to_owned(),
            ..PromptParams::default()
        }),
        ..ChatRequest::default()
    }
}

fn is_too_long(status: &Status) -> bool {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.as_str());
    reason == Some("PROMPT_TOO_LONG")
}

/// Shows the first wrong answers of each skill.
fn show_wrong(held: &[Held], most: usize, console: &Console) {
    let mut shown: BTreeMap<Skill, usize> = BTreeMap::new();
    for Held {
        skill,
        index,
        answers,
    } in held
    {
        for answer in answers.iter().filter(|answer| !answer.is_right) {
            let shown = shown.entry(*skill).or_default();
            *shown += 1;
            if *shown <= most {
                let Answer {
                    kind,
                    wanted,
                    given,
                    ..
                } = answer;
                console.line(&format!(
                    "{skill} {index} ({kind})\n  wanted {wanted:?}\n  given  {given:?}"
                ));
            }
        }
    }
}

/// Every answer, by skill and case, one JSON object a line.
fn write_answers(held: &[Held], path: &Path) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Line<'a> {
        skill: &'static str,
        case: u64,
        #[serde(flatten)]
        answer: &'a Answer,
    }
    let mut file = BufWriter::new(File::create(path)?);
    for held in held {
        for answer in &held.answers {
            let line = Line {
                skill: held.skill.name(),
                case: held.index,
                answer,
            };
            serde_json::to_writer(&mut file, &line)?;
            file.write_all(b"\n")?;
        }
    }
    Ok(file.flush()?)
}

#[derive(Serialize)]
struct Report {
    skills: Figures,
}

/// What came of each skill.
struct Figures(BTreeMap<Skill, Figure>);

#[derive(Default)]
struct Figure {
    right: usize,
    count: usize,
}

impl Figures {
    fn of(held: &[Held]) -> Self {
        let mut figures: BTreeMap<Skill, Figure> = BTreeMap::new();
        for held in held {
            let figure = figures.entry(held.skill).or_default();
            figure.count += held.answers.len();
            figure.right += held.answers.iter().filter(|answer| answer.is_right).count();
        }
        Self(figures)
    }

    fn table(&self) -> String {
        let mut table = format!(
            "{:<15} {:>8} {:>8} {:>8}\n",
            "skill", "accuracy", "right", "count"
        );
        for (skill, Figure { right, count }) in &self.0 {
            let percent = 100.0 * *right as f64 / *count as f64;
            table += &format!("{skill:<15} {percent:>6.1} % {right:>8} {count:>8}\n");
        }
        table
    }
}

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(skill, figure)| (skill.name(), figure)))
    }
}

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown {
            accuracy: f64,
            count: usize,
        }
        let accuracy = self.right as f64 / self.count as f64;
        Shown {
            accuracy: (accuracy * 1e4).round() / 1e4,
            count: self.count,
        }
        .serialize(serializer)
    }
}
