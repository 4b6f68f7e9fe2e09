//! What the scheduler costs a step: prepare, seal and apply with 1,000 sequences that decode behind 1,500 tokens each.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use inkstone_engine::{
    Decoding, Drawn, DrawnToken, EngineLimits, EngineRequest, Priority, PromptSpan, RequestId,
    Scheduler, StepOutput, StepPlan,
};

const RUNNING: usize = 1000;
const PROMPT_TOKENS: usize = 1500;

fn step(scheduler: &mut Scheduler) -> (StepPlan, StepOutput) {
    let prepared = scheduler.prepare();
    let plan = scheduler.seal(prepared).expect("all decode");
    let drawing = plan.items.iter().filter(|item| item.draw.is_some());
    let drawn = drawing.map(|item| (item.sequence, Drawn::Tokens(vec![DrawnToken::plain(7)])));
    let output = StepOutput {
        drawn: drawn.collect(),
        prompt_logprobs: Vec::new(),
    };
    (plan, output)
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
                (0..PROMPT_TOKENS as u32)
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
        };
        scheduler.submit(request).expect("room");
    }
    loop {
        let (plan, output) = step(&mut scheduler);
        let all_decode = plan.items.len() == RUNNING && plan.num_rows() == RUNNING;
        scheduler
            .apply(&plan, &output)
            .expect("it answers the plan");
        if all_decode {
            return scheduler;
        }
    }
}

fn plan(criterion: &mut Criterion) {
    let mut scheduler = decoding_scheduler();
    let mut steps = 0;
    criterion.bench_function("prepare + seal + apply, 1000 running", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut spent = std::time::Duration::ZERO;
            for _ in 0..rounds {
                // The answers of a long run are kept short, so that tables stay near 1,500 tokens.
                if steps == 160 {
                    scheduler = decoding_scheduler();
                    steps = 0;
                }
                steps += 1;
                let begin = std::time::Instant::now();
                let prepared = scheduler.prepare();
                let plan = scheduler.seal(prepared).expect("all decode");
                spent += begin.elapsed();
                let drawn = plan
                    .items
                    .iter()
                    .map(|item| (item.sequence, Drawn::Tokens(vec![DrawnToken::plain(7)])));
                let output = StepOutput {
                    drawn: drawn.collect(),
                    prompt_logprobs: Vec::new(),
                };
                let begin = std::time::Instant::now();
                black_box(
                    scheduler
                        .apply(&plan, &output)
                        .expect("it answers the plan"),
                );
                drop(plan);
                spent += begin.elapsed();
            }
            spent
        });
    });
}

criterion_group!(benches, plan);
criterion_main!(benches);
