//! Several answers, beams, log-probabilities, constraints: what a client asks for, what the leader is asked for, what
//! comes back.

use std::time::Duration;

use tonic::metadata::MetadataValue;

use super::*;
use crate::worker_client::{
    Beam, BeamAnswer, Constraint, Decoding, EndReason, GenerationEvent, Priority, TokenBatch,
    TokenInfo, WorkerError,
    fake::{self, Script, Step},
};

fn sampled(sampling: wire::SamplingParams) -> wire::ChatRequest {
    wire::ChatRequest {
        sampling: Some(sampling),
        ..question("hi")
    }
}

fn drawing(n: u32, best_of: Option<u32>) -> wire::ChatRequest {
    sampled(wire::SamplingParams {
        n: Some(n),
        best_of,
        ..Default::default()
    })
}

fn with_stops(request: wire::ChatRequest, stops: &[&str]) -> wire::ChatRequest {
    wire::ChatRequest {
        stop: Some(wire::StopParams {
            stop_strings: stops.iter().map(ToString::to_string).collect(),
            ..Default::default()
        }),
        ..request
    }
}

fn info(token_id: u32, logprob: f32) -> TokenInfo {
    TokenInfo {
        token_id,
        logprob: Some(logprob),
        top: vec![(token_id, logprob), (7, -9.0)],
    }
}

/// The tokens of a text, each as likely as this.
fn likely(branch: u32, text: &str, logprob: f32) -> Step {
    let ids = fake::encode(text);
    Step::Event(GenerationEvent::Tokens(TokenBatch {
        branch,
        first_index: 0,
        infos: ids.iter().map(|&id| info(id, logprob)).collect(),
        ids,
    }))
}

async fn read(cluster: &FakeCluster, request: wire::ChatRequest) -> Answer {
    let coordinator = Coordinator::over(cluster).await;
    Answer::read(coordinator.chat(request).await.unwrap()).await
}

#[tokio::test]
async fn several_answers_stream_side_by_side_each_to_its_own_end() {
    let cluster = FakeCluster::new(1, 1);
    cluster.group().play([
        Step::Event(GenerationEvent::Started { cached_tokens: 5 }),
        Step::TextOf(1, "hello"),
        Step::TextOf(0, "word "),
        Step::EndOf(1, EndReason::Length),
        Step::TextOf(0, "hello"),
        Step::EndOf(0, EndReason::Stop),
    ]);
    let answer = read(&cluster, drawing(2, None)).await;
    assert_eq!(answer.text_of(0), "word hello");
    assert_eq!(answer.text_of(1), "hello");
    let num = |text| fake::encode(text).len() as u32;
    let ends: Vec<_> = answer
        .ends
        .iter()
        .map(|end| (end.answer, end.reason(), end.completion_tokens, end.score))
        .collect();
    let wanted = [
        (1, wire::FinishReason::Length, num("hello"), None),
        (0, wire::FinishReason::Stop, num("word hello"), None),
    ];
    assert_eq!(ends, wanted);
    assert_eq!(answer.finished().reason(), wire::FinishReason::Stop);
    let usage = answer.finished().usage.unwrap();
    assert_eq!(usage.completion_tokens, num("word hello") + num("hello"));
    assert_eq!(usage.cached_prompt_tokens, 5);
    assert_eq!(answer.started.cached_prompt_tokens, 5);
    let asked = &cluster.group().asked()[0];
    assert_eq!(asked.decoding, Decoding::Sample { branches: 2 });
    assert_eq!(asked.sampling.num_logprobs, None);
}

#[tokio::test]
async fn a_stop_string_ends_its_answer_alone() {
    let cluster = FakeCluster::new(1, 1);
    cluster.group().play([
        Step::TextOf(0, "hello world"),
        Step::TextOf(0, "never seen"),
        Step::TextOf(1, "hello"),
        Step::TextOf(0, "never seen"),
        Step::EndOf(0, EndReason::Length),
        Step::TextOf(1, "word "),
        Step::EndOf(1, EndReason::Length),
    ]);
    let request = with_stops(drawing(2, None), &["o w"]);
    let answer = read(&cluster, request).await;
    assert_eq!(answer.text_of(0), "hell");
    assert_eq!(answer.text_of(1), "helloword ");
    assert_eq!(answer.ends[0].answer, 0);
    assert_eq!(answer.ends[0].stop_string, "o w");
    assert_eq!(answer.ends[1].stop_string, "");
    assert_eq!(answer.finished().stop_string, "o w");
    assert_eq!(answer.finished().reason(), wire::FinishReason::Stop);
}

#[tokio::test]
async fn when_all_answers_met_a_stop_string_the_request_is_cancelled() {
    let cluster = FakeCluster::new(1, 1);
    cluster.group().play([
        Step::TextOf(1, "hello"),
        Step::TextOf(0, "hello"),
        Step::Repeat("word ".into(), Duration::from_millis(5)),
    ]);
    let request = with_stops(drawing(2, None), &["lo"]);
    let answer = read(&cluster, request).await;
    assert_eq!([answer.text_of(0), answer.text_of(1)], ["hel", "hel"]);
    answer.finished();
    eventually("the request ends", || cluster.group().num_running() == 0).await;
}

#[tokio::test]
async fn the_most_likely_answers_are_returned_at_the_end_best_first() {
    let cluster = FakeCluster::new(1, 1);
    cluster.group().play([
        likely(0, "hello", -3.0),
        // Longer, so less likely as a whole; more likely by token.
        likely(2, "word word word hello", -1.0),
        likely(1, " world", -2.0),
        Step::EndOf(1, EndReason::Stop),
        Step::EndOf(2, EndReason::Length),
        Step::EndOf(0, EndReason::Length),
    ]);
    let answer = read(&cluster, drawing(2, Some(3))).await;
    assert_eq!(answer.text_of(0), "word word word hello");
    assert_eq!(answer.text_of(1), " world");
    let ends: Vec<_> = answer
        .ends
        .iter()
        .map(|end| (end.answer, end.score))
        .collect();
    assert_eq!(ends, [(0, Some(-1.0)), (1, Some(-2.0))]);
    assert_eq!(answer.finished().reason(), wire::FinishReason::Length);
    let all = ["hello", "word word word hello", " world"];
    let num_drawn: usize = all.iter().map(|text| fake::encode(text).len()).sum();
    let usage = answer.finished().usage.unwrap();
    assert_eq!(usage.completion_tokens as usize, num_drawn);
    assert!(answer.deltas.iter().all(|delta| delta.logprobs.is_empty()));
    let asked = &cluster.group().asked()[0];
    assert_eq!(asked.decoding, Decoding::Sample { branches: 3 });
    assert_eq!(asked.sampling.num_logprobs, Some(0));
}

#[tokio::test]
async fn a_leader_that_keeps_log_probabilities_to_itself_is_at_fault() {
    let cluster = FakeCluster::new(1, 1);
    cluster.group().play([Step::Text("hello")]);
    let answer = read(&cluster, drawing(1, Some(2))).await;
    check_error(&answer.end.unwrap_err(), Code::Internal, "INTERNAL");
}

#[tokio::test]
async fn beams_come_at_the_end_with_their_scores() {
    let cluster = FakeCluster::new(1, 1);
    let stop = fake::tokenizer().end_of_turn_id();
    let beam = |text: &str, score, reason| {
        let mut ids = fake::encode(text);
        if reason == EndReason::Stop {
            ids.push(stop);
        }
        BeamAnswer { ids, score, reason }
    };
    // Longer than one delta.
    let long = "word ".repeat(2000);
    cluster
        .group()
        .play([Step::Event(GenerationEvent::Beams(vec![
            beam("hello", -0.5, EndReason::Stop),
            beam(&long, -0.75, EndReason::Length),
            beam("hello world", -1.0, EndReason::Length),
        ]))]);
    let request = wire::ChatRequest {
        beam: Some(wire::BeamParams {
            width: 5,
            num_answers: Some(3),
            length_penalty: None,
            early_stopping: true,
        }),
        ..with_stops(question("hi"), &[" world"])
    };
    let answer = read(&cluster, request).await;
    assert_eq!(answer.text_of(0), "hello");
    assert_eq!(answer.text_of(1), long);
    assert_eq!(answer.text_of(2), "hello", "stop strings cut beams too");
    let ends: Vec<_> = answer
        .ends
        .iter()
        .map(|end| (end.answer, end.score, end.reason(), &*end.stop_string))
        .collect();
    let wanted = [
        (0, Some(-0.5), wire::FinishReason::Stop, ""),
        (1, Some(-0.75), wire::FinishReason::Length, ""),
        (2, Some(-1.0), wire::FinishReason::Stop, " world"),
    ];
    assert_eq!(ends, wanted);
    assert_eq!(answer.finished().reason(), wire::FinishReason::Stop);
    let asked = &cluster.group().asked()[0];
    let wanted = Beam {
        width: 5,
        num_answers: 3,
        length_penalty: 1.0,
        early_stopping: true,
    };
    assert_eq!(asked.decoding, Decoding::Beam(wanted));
    assert_eq!(asked.sampling.temperature, 0.0);
}

#[tokio::test]
async fn log_probabilities_come_with_the_delta_of_their_token() {
    let cluster = FakeCluster::new(1, 1);
    let ids = fake::encode("hello!");
    let prompt = |tokens| Step::Event(GenerationEvent::PromptLogprobs { first: 0, tokens });
    let mut first = info(1, 0.0);
    first.logprob = None;
    cluster.group().play([
        prompt(vec![first, info(4, -0.25)]),
        likely(0, "hello!", -0.5),
        Step::End(EndReason::Length),
    ]);
    let request = sampled(wire::SamplingParams {
        logprobs: true,
        prompt_logprobs: true,
        top_logprobs: 2,
        ..Default::default()
    });
    let answer = read(&cluster, request).await;
    for delta in &answer.deltas {
        let told: Vec<_> = delta.logprobs.iter().map(|info| info.token_id).collect();
        assert_eq!(told, delta.token_ids);
        for logprob in &delta.logprobs {
            assert_eq!(logprob.logprob, Some(-0.5));
            assert_eq!(logprob.top[1].token_id, 7);
        }
    }
    assert_eq!(answer.token_ids(), ids);
    let [prompt] = &answer.prompt_logprobs[..] else {
        panic!("{:?}", answer.prompt_logprobs);
    };
    let told: Vec<_> = prompt.tokens.iter().map(|info| info.logprob).collect();
    assert_eq!((prompt.first, told), (0, vec![None, Some(-0.25)]));
    let asked = &cluster.group().asked()[0];
    assert!(asked.prompt_logprobs);
    assert_eq!(asked.sampling.num_logprobs, Some(2));
}

#[tokio::test]
async fn tokens_after_a_stop_string_have_no_log_probabilities() {
    let cluster = FakeCluster::new(1, 1);
    cluster
        .group()
        .play([likely(0, "hello world", -0.5), Step::Pause(PATIENCE)]);
    let request = wire::ChatRequest {
        sampling: Some(wire::SamplingParams {
            logprobs: true,
            ..Default::default()
        }),
        ..with_stops(question("hi"), &["hello"])
    };
    let answer = read(&cluster, request).await;
    let num_told: usize = answer.deltas.iter().map(|delta| delta.logprobs.len()).sum();
    assert_eq!(num_told, answer.token_ids().len());
    assert!(num_told < fake::encode("hello world").len());
}

#[tokio::test]
async fn constraints_numbers_and_priority_reach_the_leader() {
    use wire::constraint::Form;
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    let choices = vec!["yes".to_owned(), "no".to_owned()];
    let list = wire::ChoiceList {
        choices: choices.clone(),
    };
    let forms = [
        (Form::Choices(list), Constraint::Choices(choices)),
        (
            Form::JsonSchema("{}".into()),
            Constraint::JsonSchema("{}".into()),
        ),
        (Form::Regex("a+".into()), Constraint::Regex("a+".into())),
    ];
    for (index, (form, wanted)) in forms.into_iter().enumerate() {
        let request = wire::ChatRequest {
            constraint: Some(wire::Constraint { form: Some(form) }),
            priority: wire::Priority::Batch.into(),
            stop: Some(wire::StopParams {
                min_tokens: 3,
                ..Default::default()
            }),
            ..sampled(wire::SamplingParams {
                min_p: Some(0.25),
                presence_penalty: Some(0.5),
                frequency_penalty: Some(-0.5),
                logit_bias: [(9, 1.0), (3, -2.0)].into(),
                ..Default::default()
            })
        };
        let answer = coordinator.chat(request).await.unwrap();
        Answer::read(answer).await.finished();
        let asked = &cluster.group().asked()[index];
        assert_eq!(asked.sampling.constraint, Some(wanted));
        assert_eq!(asked.sampling.min_new_tokens, 3);
        assert_eq!(asked.sampling.min_p, 0.25);
        assert_eq!(asked.sampling.presence_penalty, 0.5);
        assert_eq!(asked.sampling.frequency_penalty, -0.5);
        assert_eq!(asked.sampling.logit_bias, [(3, -2.0), (9, 1.0)]);
        assert_eq!(asked.priority, Priority::Batch);
    }
}

#[tokio::test]
async fn what_only_the_group_can_judge_is_the_callers_to_mend() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    let refused = || WorkerError::Refused("schema: unexpected end of input".into());
    let request = wire::ChatRequest {
        constraint: Some(wire::Constraint {
            form: Some(wire::constraint::Form::JsonSchema("{".into())),
        }),
        ..question("hi")
    };
    cluster.group().script(Script::Refuse(refused()));
    let status = coordinator.refusal(request).await;
    check_fields(&status, &["constraint"]);
    assert!(
        status.message().contains("unexpected end of input"),
        "{status:?}"
    );
    // So are more answers than the group has room for.
    let beam = Some(wire::BeamParams {
        width: 16,
        ..Default::default()
    });
    let search = wire::ChatRequest {
        beam,
        ..question("hi")
    };
    for (request, field) in [
        (search, "beam.width"),
        (drawing(16, None), "sampling.n"),
        (drawing(1, Some(16)), "sampling.best_of"),
    ] {
        cluster.group().script(Script::Refuse(refused()));
        let status = coordinator.refusal(request).await;
        check_fields(&status, &[field]);
    }
    // Otherwise the group refuses what we have checked: a fault.
    cluster.group().script(Script::Refuse(refused()));
    let status = coordinator.refusal(question("hi")).await;
    check_error(&status, Code::Internal, "INTERNAL");
}

#[tokio::test]
async fn what_is_cached_is_shared_within_a_tenant_only() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    for tenant in [None, Some("a tenant's name"), Some("")] {
        let mut call = Request::new(question("hi"));
        if let Some(tenant) = tenant {
            let tenant = MetadataValue::from_static(tenant);
            call.metadata_mut().insert("inkstone-tenant", tenant);
        }
        Answer::read(coordinator.chat(call).await.unwrap()).await;
    }
    let asked = cluster.group().asked();
    let salts: Vec<_> = asked.iter().map(|asked| asked.cache_salt.clone()).collect();
    assert_eq!(salts, ["", "a tenant's name", ""]);
    assert_eq!(asked[0].priority, Priority::Interactive);
}
