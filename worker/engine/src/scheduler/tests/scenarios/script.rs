//! The language of scenarios: lines that say what is submitted and drawn, and lines for what the engine plans and tells.

use super::super::request;
use crate::*;

pub(in super::super) fn limits() -> EngineLimits {
    EngineLimits {
        num_blocks: 8,
        max_step_tokens: 40,
        max_running: 4,
        max_waiting: 4,
        max_wait_steps: 3,
    }
}

/// Runs a scenario and compares what it prints with `expected`.
///
/// `submit ID PROMPT NEW OPTION...` with a prompt like `a20+A5+b3`: 20 tokens of the text a, 5 rows of the picture A, 3 tokens of
/// b; options `n=2`, `beam=2`, `batch`, `salt=1`, `fetch` (its pictures are not ready), `logprobs`,
/// `first` (in line) and `resume=1:5.6`: branch 1 drew 5 and 6 before, and with `!` at the end its end was told.
/// `ready ID`, `cancel ID`; `step TOKEN...`: what each drawing item draws, in order (5 where nothing is said), `a/b` for two
/// branches or candidates.
#[track_caller]
pub(in super::super) fn check(scenario: &str, expected: &str) {
    check_with(limits(), scenario, expected);
}

#[track_caller]
pub(in super::super) fn check_with(limits: EngineLimits, scenario: &str, expected: &str) {
    let mut scheduler = Scheduler::new(limits);
    let mut printed = Vec::new();
    for line in lines(scenario) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[0] {
            "submit" => {
                if let Err(error) = scheduler.submit(parse_request(&words[1..])) {
                    printed.push(error.to_string());
                }
            }
            "ready" => assert!(scheduler.pictures_ready(RequestId(parse(words[1])))),
            "cancel" => assert!(scheduler.cancel(RequestId(parse(words[1])))),
            "step" => printed.push(step(&mut scheduler, &words[1..])),
            other => panic!("unknown word {other}"),
        }
        scheduler.check_integrity();
    }
    assert_eq!(
        printed,
        lines(expected).collect::<Vec<_>>(),
        "\n{}",
        printed.join("\n")
    );
}

pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

pub(super) fn parse<T: std::str::FromStr>(word: &str) -> T {
    word.parse().ok().expect("a number")
}

pub(in super::super) fn parse_request(words: &[&str]) -> EngineRequest {
    let prompt = words[1]
        .split('+')
        .filter(|span| !span.is_empty())
        .map(|span| {
            let (name, len) = span.split_at(1);
            let kind = name.as_bytes()[0];
            if kind.is_ascii_uppercase() {
                PromptSpan::Picture {
                    digest: [kind; 32],
                    num_tokens: parse(len),
                }
            } else {
                PromptSpan::Tokens(
                    (0..parse::<u32>(len))
                        .map(|at| u32::from(kind) * 1000 + at)
                        .collect(),
                )
            }
        });
    let mut request = request(parse(words[0]), prompt.collect(), parse(words[2]));
    for option in &words[3..] {
        match option.split_once('=').unwrap_or((option, "0")) {
            ("n", n) => request.decoding = Decoding::Sample { branches: parse(n) },
            ("beam", width) => {
                request.decoding = Decoding::Beam(BeamParams {
                    width: parse(width),
                    num_answers: 1,
                    length_penalty: 1.0,
                    early_stopping: false,
                });
            }
            ("batch", _) => request.priority = Priority::Batch,
            ("salt", salt) => request.cache_salt = [parse(salt); 32],
            ("fetch", _) => request.pictures_ready = false,
            ("logprobs", _) => request.prompt_logprobs = true,
            ("first", _) => request.first_in_line = true,
            ("resume", branch) => request.resumed.push(parse_resumed(branch)),
            other => panic!("unknown option {other:?}"),
        }
    }
    request
}

pub(super) fn parse_resumed(word: &str) -> Resumed {
    let (branch, ids) = word.split_once(':').expect("a branch and its tokens");
    let has_ended = ids.ends_with('!');
    let ids = ids.trim_end_matches('!').split('.');
    Resumed {
        branch: parse(branch),
        token_ids: ids.filter(|id| !id.is_empty()).map(parse).collect(),
        has_ended,
    }
}

pub(in super::super) fn step(scheduler: &mut Scheduler, draws: &[&str]) -> String {
    let Some(plan) = scheduler.plan() else {
        let events = scheduler.take_events();
        return events
            .iter()
            .fold("idle".to_owned(), |text, event| text + &print(event));
    };
    let drawing = plan
        .items
        .iter()
        .filter_map(|item| Some((item.sequence, item.draw?)));
    let words = draws.iter().copied().chain(std::iter::repeat("5"));
    let drawn = drawing
        .zip(words)
        .map(|((sequence, draw), word)| (sequence, answer(draw, word)));
    let rows = plan.items.iter().filter(|item| item.prompt_logprobs);
    let prompt_logprobs = rows.map(|item| {
        (
            item.sequence,
            vec![Some(DrawnToken::plain(1)); item.num_rows()],
        )
    });
    let output = StepOutput {
        drawn: drawn.collect(),
        prompt_logprobs: prompt_logprobs.collect(),
    };
    let mut events = scheduler.take_events();
    events.extend(
        scheduler
            .apply(&plan, &output)
            .expect("the output answers the plan"),
    );
    events
        .iter()
        .fold(plan.to_string(), |text, event| text + &print(event))
}

pub(super) fn answer(draw: Draw, word: &str) -> Drawn {
    if word == "nan" {
        return Drawn::Failed(DrawFailure::NotFinite);
    }
    let tokens = word.split('/').map(parse);
    match draw.kind {
        DrawKind::Tokens { .. } => Drawn::Tokens(tokens.map(DrawnToken::plain).collect()),
        DrawKind::Candidates { .. } => {
            let worse = (1..).map(|rank| -(rank as f32));
            let best = tokens
                .zip(worse)
                .map(|(token_id, logprob)| TokenLogprob { token_id, logprob });
            Drawn::Candidates(best.collect())
        }
    }
}

pub(super) fn print(event: &Event) -> String {
    match event {
        Event::Token { .. }
        | Event::Started {
            cached_tokens: 0, ..
        } => String::new(),
        Event::Started {
            request,
            cached_tokens,
        } => format!(" | {request} cached {cached_tokens}"),
        Event::NeedsPictures { request } => format!(" | {request} needs pictures"),
        Event::PromptLogprobs {
            request,
            first,
            tokens,
        } => {
            format!(" | {request} logprobs {first}..{}", first + tokens.len())
        }
        Event::Ended {
            request,
            branch,
            reason,
        } => format!(" | {request}.{branch} {reason:?}"),
        Event::Beams { request, answers } => format!(" | {request} {:?}", answers[0].token_ids),
        Event::Failed { request, reason } => format!(" | {request} {reason:?}"),
    }
}
