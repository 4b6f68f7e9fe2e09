//! What the scheduler costs a step: to plan a step and to apply it, with 1,000 sequences that decode behind 1,500 tokens each.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use inkstone_engine::{
    Decoding, Drawn, DrawnToken, EngineLimits, EngineRequest, Priority, PromptSpan, RequestId,
    Scheduler, StepOutput, StepPlan,
};

const RUNNING: usize = 1000;
const PROMPT_TOKENS: usize = 1500;

fn output_of(plan: &StepPlan) -> StepOutput {
    let drawing = plan.items.iter().filter(|item| item.draw.is_some());
    let drawn = drawing.map(|item| (item.sequence, Drawn::Tokens(vec![DrawnToken::plain(7)])));
    StepOutput {
        drawn: drawn.collect(),
        prompt_logprobs: Vec::new(),
    }
}

fn decoding_scheduler() -> Scheduler {
    let mut scheduler = Scheduler::new(EngineLimits {
        num_blocks: RUNNING * 600,
        max_step_tokens: 8192,
        max_running: RUNNING,
        max_waiting: RUNNING,
        max_wait_steps: 100,
    });
    for id in 0..RUNNING as u32 {
        let request = EngineRequest {
            id: RequestId(u64::from(id)),
            prompt: vec![PromptSpan::Tokens(
                (0..PROMPT_TOKENS as u32 + id % 16)
                    .map(|at| at ^ (id << 12))
                    .collect(),
            )],
            cache_salt: [0; 32],
            decoding: Decoding::Sample { branches: 1 },
            max_new_tokens: 8000,
            stop_token_ids: vec![2, 92_542],
            priority: Priority::Interactive,
            prompt_logprobs: false,
            pictures_ready: true,
            resumed: Vec::new(),
            first_in_line: false,
        };
        scheduler.submit(request).expect("room");
    }
    loop {
        let plan = scheduler.plan().expect("all decode");
        let output = output_of(&plan);
        let all_decode = plan.items.len() == RUNNING && plan.num_rows() == RUNNING;
        scheduler
            .apply(&plan, &output)
            .expect("it answers the plan");
        if all_decode {
            return scheduler;
        }
    }
}

/// What is timed of a step.
#[derive(Clone, Copy, PartialEq)]
enum Timed {
    Plan,
    Apply,
}

/// Times a part of `rounds` steps. The answers of a long run are kept short, so that tables stay near 1,500 tokens.
fn time_steps(rounds: u64, timed: Timed) -> Duration {
    let mut scheduler = decoding_scheduler();
    let mut spent = Duration::ZERO;
    for round in 0..rounds {
        if round % 160 == 159 {
            scheduler = decoding_scheduler();
        }
        let begin = Instant::now();
        let prepared = scheduler.prepare();
        let plan = scheduler.seal(prepared).expect("all decode");
        let planned = begin.elapsed();
        let output = output_of(&plan);
        let begin = Instant::now();
        black_box(
            scheduler
                .apply(&plan, &output)
                .expect("it answers the plan"),
        );
        spent += match timed {
            Timed::Plan => planned,
            Timed::Apply => begin.elapsed(),
        };
    }
    spent
}

fn plan(criterion: &mut Criterion) {
    for (name, timed) in [
        ("plan a step (prepare + seal), 1000 running", Timed::Plan),
        ("apply what it drew, 1000 running", Timed::Apply),
    ] {
        criterion.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| time_steps(rounds, timed));
        });
    }
}

criterion_group!(benches, plan);
criterion_main!(benches);
