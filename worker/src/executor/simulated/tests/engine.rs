//! The real scheduler over the simulated accelerator: thousands of requests in moments, under a clock that nobody waits for.

use inkstone_engine::{
    BeamParams, Decoding, EndReason, EngineLimits, EngineRequest, Event, Priority, PromptSpan,
    Scheduler,
};

use super::*;

const REQUESTS: u64 = 2000;
const NEW_TOKENS: usize = 24;
const PICTURE_TOKENS: usize = 48;

/// Too little memory for all that may run: some have to give way and come back.
const LIMITS: EngineLimits = EngineLimits {
    num_blocks: 1200,
    max_step_tokens: 2048,
    max_running: 1500,
    max_waiting: REQUESTS as usize,
    max_wait_steps: 100,
};

fn prompt(id: u64) -> Vec<PromptPart> {
    let mut prompt = vec![PromptPart::Tokens(vec![1, 300 + id as u32, 400])];
    if id.is_multiple_of(7) {
        prompt.push(PromptPart::Picture {
            digest: PictureDigest([(id % 5) as u8; 32]),
            num_tokens: PICTURE_TOKENS,
        });
    }
    let question = (0..10 + id % 30).map(|place| 5000 + (id * 31 + place) as u32);
    prompt.push(PromptPart::Tokens(question.collect()));
    prompt
}

fn decoding(id: u64) -> Decoding {
    if id.is_multiple_of(23) {
        return Decoding::Beam(BeamParams {
            width: 2,
            num_answers: 2,
            length_penalty: 1.0,
            early_stopping: false,
        });
    }
    let branches = if id.is_multiple_of(11) { 3 } else { 1 };
    Decoding::Sample { branches }
}

fn engine_request(id: u64) -> EngineRequest {
    let span = |part: PromptPart| match part {
        PromptPart::Tokens(ids) => PromptSpan::Tokens(ids),
        PromptPart::Picture { digest, num_tokens } => PromptSpan::Picture {
            digest: digest.0,
            num_tokens,
        },
    };
    EngineRequest {
        id: RequestId(id),
        prompt: prompt(id).into_iter().map(span).collect(),
        cache_salt: [0; 32],
        decoding: decoding(id),
        max_new_tokens: NEW_TOKENS,
        stop_token_ids: vec![STOP],
        priority: if id.is_multiple_of(3) {
            Priority::Batch
        } else {
            Priority::Interactive
        },
        prompt_logprobs: false,
        pictures_ready: true,
        resumed: Vec::new(),
        first_in_line: false,
    }
}

/// What came of all requests.
#[derive(Default)]
struct Told {
    tokens: HashMap<(RequestId, usize), Vec<u32>>,
    ended: usize,
    beams: usize,
}

impl Told {
    fn note(&mut self, event: Event) {
        match event {
            Event::Token {
                request,
                branch,
                index,
                token,
            } => {
                let tokens = self.tokens.entry((request, branch)).or_default();
                assert_eq!(tokens.len(), index, "request {request}, branch {branch}");
                tokens.push(token.token_id);
            }
            Event::Ended { reason, .. } => {
                assert_eq!(reason, EndReason::Length);
                self.ended += 1;
            }
            Event::Beams { answers, .. } => {
                assert!(answers.iter().all(|a| a.token_ids.len() == NEW_TOKENS));
                self.beams += 1;
            }
            Event::Started { .. } => {}
            other => panic!("nobody asked for {other:?}"),
        }
    }
}

#[test]
fn thousands_of_requests_get_the_tokens_they_get_alone() {
    let (mut executor, clock) = executor(None);
    let mut scheduler = Scheduler::new(LIMITS);
    executor.books.num_blocks = LIMITS.num_blocks;
    for id in 1..=REQUESTS {
        scheduler.submit(engine_request(id)).unwrap();
        executor.admit(setup(id, id, prompt(id))).unwrap();
    }
    let mut told = Told::default();
    let mut steps = 0;
    while let Some(plan) = scheduler.plan() {
        assert!(plan.num_rows() <= LIMITS.max_step_tokens);
        let plan = Arc::new(plan);
        executor.start(Arc::clone(&plan)).unwrap();
        let output = executor.finish().unwrap();
        steps += u32::from(!plan.items.is_empty());
        let events = scheduler.apply(&plan, &output).unwrap();
        events.into_iter().for_each(|event| told.note(event));
        let events = scheduler.take_events();
        events.into_iter().for_each(|event| told.note(event));
    }
    let source = TokenSource::new(VOCABULARY, None);
    let (mut branches, mut beams) = (0, 0);
    for id in 1..=REQUESTS {
        let Decoding::Sample { branches: count } = decoding(id) else {
            beams += 1;
            continue;
        };
        branches += count;
        let setup = setup(id, id, prompt(id));
        for branch in 0..count {
            let alone: Vec<u32> = (0..NEW_TOKENS)
                .map(|token_index| alone(&source, &setup, branch, token_index))
                .collect();
            assert_eq!(told.tokens[&(RequestId(id), branch)], alone, "request {id}");
        }
    }
    assert_eq!((told.ended, told.beams), (branches, beams));
    // Every step reads the weights: 14.7 GB at 2.9 TB/s.
    assert!(
        clock.now() > steps * Duration::from_millis(5),
        "{:?}",
        clock.now()
    );
    assert!(scheduler.stats().preemptions > 0);
    assert!(executor.books.sequences.is_empty() && executor.books.requests.is_empty());
}

fn alone(source: &TokenSource, setup: &RequestSetup, branch: usize, token_index: usize) -> u32 {
    let at = DrawAt {
        token_index,
        position: setup.prompt_tokens() + token_index,
        kind: DrawKind::Tokens {
            first_branch: branch,
            branches: 1,
        },
    };
    match source.draw(setup, at) {
        Drawn::Tokens(tokens) => tokens[0].token_id,
        other => panic!("wanted a token, found {other:?}"),
    }
}
