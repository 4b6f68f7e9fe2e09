//! The one call between a coordinator and a leader, against a leader that says what a test tells it to say.

mod leader;

use bytes::Bytes;
use futures::StreamExt;
use inkstone_proto::worker::v1::{
    self as worker_wire, connect_request::Message, request_event::Event as Said,
};

use self::leader::*;
use super::*;
use crate::{
    config::Timeouts,
    worker_client::{
        Beam, BeamAnswer, Decoding, EndReason, Generation, GenerationEvent, GrpcConnector, Resumed,
        TokenInfo, WorkerError,
    },
};

#[tokio::test]
async fn everything_asked_for_reaches_the_leader() {
    let (mut calls, client) = leader(|_| {}).await;
    let beam = Beam {
        width: 3,
        num_answers: 2,
        length_penalty: 0.5,
        early_stopping: true,
    };
    let asked = Generation {
        resumed: vec![Resumed {
            branch: 1,
            ids: vec![7, 8],
            ended: true,
        }],
        first_in_line: true,
        ..generation(Decoding::Beam(beam))
    };
    let starting = tokio::spawn(async move { client.generate(asked).await });
    let mut call = next_call(&mut calls).await;
    let submit = call.submitted().await;
    let tokens = worker_wire::TokenSpan { ids: vec![1, 2] };
    let part = worker_wire::prompt_part::Part::Tokens(tokens);
    let wanted = worker_wire::GenerateRequest {
        request_id: "mine".into(),
        epoch: 3,
        prompt: vec![worker_wire::PromptPart { part: Some(part) }],
        sampling: Some(worker_wire::SamplingSettings {
            temperature: 0.5,
            top_k: 4,
            top_p: 0.75,
            repetition_penalty: 1.5,
            seed: 7,
            min_p: 0.125,
            presence_penalty: 0.25,
            frequency_penalty: -0.25,
            logit_bias: vec![
                worker_wire::LogitBias {
                    token_id: 3,
                    bias: -2.0,
                },
                worker_wire::LogitBias {
                    token_id: 9,
                    bias: 1.0,
                },
            ],
            min_new_tokens: 2,
            num_logprobs: Some(1),
            constraint: Some(worker_wire::Constraint {
                form: Some(worker_wire::constraint::Form::Regex("a+".into())),
            }),
        }),
        max_new_tokens: 100_000,
        stop_token_ids: vec![2],
        branches: 0,
        beam: Some(worker_wire::BeamSettings {
            width: 3,
            num_answers: 2,
            length_penalty: 0.5,
            early_stopping: true,
        }),
        priority: worker_wire::Priority::Batch.into(),
        cache_salt: Bytes::from_static(b"tenant"),
        prompt_logprobs: true,
        resumed: vec![worker_wire::ResumedAnswer {
            branch: 1,
            ids: vec![7, 8],
            ended: true,
        }],
        first_in_line: true,
    };
    assert_eq!(submit.request, Some(wanted));
    starting.abort();
}

#[tokio::test]
async fn everything_the_leader_says_reaches_the_request() {
    let (mut calls, client) = leader(|_| {}).await;
    let (mut call, handle, drawn) = first(&client, &mut calls).await;
    let beam = Beam {
        width: 1,
        num_answers: 1,
        length_penalty: 1.0,
        early_stopping: false,
    };
    let starting = start(&client, Decoding::Beam(beam));
    let searched_handle = call.submitted().await.handle;
    let wire_info = worker_wire::TokenInfo {
        token_id: 5,
        logprob: Some(-0.5),
        top: vec![worker_wire::TokenLogprob {
            token_id: 6,
            logprob: -0.25,
        }],
    };
    let info = TokenInfo {
        token_id: 5,
        logprob: Some(-0.5),
        top: vec![(6, -0.25)],
    };
    let beams = worker_wire::BeamAnswers {
        answers: vec![worker_wire::BeamAnswer {
            ids: vec![5, 2],
            score: -1.5,
            reason: worker_wire::EndReason::Length.into(),
        }],
    };
    // All in one message, in turns.
    call.say([
        (searched_handle, accepted()),
        (
            handle,
            Said::Started(worker_wire::Started { cached_tokens: 1 }),
        ),
        (
            handle,
            Said::PromptLogprobs(worker_wire::PromptLogprobs {
                first: 0,
                tokens: vec![wire_info.clone()],
            }),
        ),
        (searched_handle, Said::Beams(beams)),
        (
            handle,
            Said::Tokens(worker_wire::Tokens {
                branch: 0,
                first_index: 0,
                ids: vec![5],
                infos: vec![wire_info],
            }),
        ),
        (handle, ended()),
    ])
    .await;
    let said: Vec<_> = drawn.map(Result::unwrap).collect().await;
    let wanted = [
        GenerationEvent::Started { cached_tokens: 1 },
        GenerationEvent::PromptLogprobs {
            first: 0,
            tokens: vec![info.clone()],
        },
        GenerationEvent::Tokens(crate::worker_client::TokenBatch {
            branch: 0,
            first_index: 0,
            ids: vec![5],
            infos: vec![info],
        }),
        GenerationEvent::Ended {
            branch: 0,
            reason: EndReason::Stop,
        },
    ];
    assert_eq!(said, wanted);
    let searched = starting.await.unwrap().unwrap();
    let said: Vec<_> = searched.map(Result::unwrap).collect().await;
    let wanted = BeamAnswer {
        ids: vec![5, 2],
        score: -1.5,
        reason: EndReason::Length,
    };
    assert_eq!(said, [GenerationEvent::Beams(vec![wanted])]);
}

#[tokio::test]
async fn a_request_that_is_not_read_holds_up_no_other() {
    let (mut calls, client) = leader(|_| {}).await;
    let (mut call, slow_handle, slow) = first(&client, &mut calls).await;
    let (quick_handle, quick) = running(&client, &mut call).await;
    let reading = tokio::spawn(read(quick));
    // Far more than any window or buffer of the transport holds: 20 MB.
    let each = 5_000;
    for step in 0..20 {
        for place in 0..each / 100 {
            let index = step * each + place * 100;
            let ids: Vec<u32> = (index..index + 100).map(|id| id | 0x1000_0000).collect();
            let mut events = vec![(slow_handle, tokens(index, ids))];
            // As if other requests were many.
            events.extend((0..1000).map(|gone| (1_000_000 + gone, tokens(0, vec![1]))));
            call.say(events).await;
        }
        call.say([(quick_handle, tokens(step, vec![step]))]).await;
    }
    call.say([(quick_handle, ended())]).await;
    let (ids, end) = reading.await.unwrap();
    assert_eq!(ids, (0..20).collect::<Vec<_>>());
    assert_eq!(end, Ok(()));
    call.say([(slow_handle, ended())]).await;
    let (ids, end) = read(slow).await;
    let wanted: Vec<u32> = (0..20 * each).map(|id| id | 0x1000_0000).collect();
    assert!(ids == wanted, "{} tokens came", ids.len());
    assert_eq!(end, Ok(()));
}

#[tokio::test]
async fn a_stream_that_is_dropped_is_cancelled_and_one_that_ended_is_not() {
    let (mut calls, client) = leader(|_| {}).await;
    let (mut call, ended_handle, whole) = first(&client, &mut calls).await;
    let (dropped_handle, dropped) = running(&client, &mut call).await;
    call.say([(ended_handle, ended())]).await;
    assert_eq!(read(whole).await.1, Ok(()));
    drop(dropped);
    let Message::Cancel(cancel) = call.heard().await else {
        panic!("a request was submitted");
    };
    assert_eq!(cancel.handle, dropped_handle);
    // What is still on its way to it is nobody's concern.
    call.say([(dropped_handle, tokens(0, vec![1]))]).await;

    // One that the leader has not answered is cancelled just as well.
    let starting = start(&client, ONE);
    let handle = call.submitted().await.handle;
    starting.abort();
    let Message::Cancel(cancel) = call.heard().await else {
        panic!("a request was submitted");
    };
    assert_eq!(cancel.handle, handle);
    let (_, stream) = running(&client, &mut call).await;
    drop(stream);
}

#[tokio::test]
async fn a_refusal_is_of_one_request_alone() {
    use worker_wire::RefusalReason as Reason;
    let (mut calls, client) = leader(|_| {}).await;
    let (mut call, handle, stream) = first(&client, &mut calls).await;
    let message = || "why".to_owned();
    for (reason, wanted) in [
        (Reason::Invalid, WorkerError::Refused(message())),
        (
            Reason::Busy,
            WorkerError::Busy {
                message: message(),
                retry_after: None,
            },
        ),
        (Reason::FeaturesMissing, WorkerError::FeaturesMissing),
        (Reason::NotServing, WorkerError::NotServing(message())),
        (Reason::Epoch, WorkerError::EpochMismatch(message())),
        (Reason::Internal, WorkerError::Faulty(message())),
        (Reason::Unspecified, WorkerError::Faulty(message())),
    ] {
        let refused = || {
            Said::Refused(worker_wire::Refused {
                reason: reason.into(),
                message: message(),
            })
        };
        let starting = start(&client, ONE);
        let refused_handle = call.submitted().await.handle;
        call.say([(refused_handle, refused())]).await;
        let error = starting.await.unwrap().err();
        assert_eq!(error, Some(wanted.clone()));
        // Also after it was taken on.
        let (late_handle, late) = running(&client, &mut call).await;
        call.say([(late_handle, tokens(0, vec![1])), (late_handle, refused())])
            .await;
        assert_eq!(read(late).await, (vec![1], Err(wanted)));
    }
    call.say([(handle, tokens(0, vec![4])), (handle, ended())])
        .await;
    assert_eq!(read(stream).await, (vec![4], Ok(())));
}

#[tokio::test]
async fn a_request_of_which_nonsense_is_said_fails_alone_and_is_cancelled() {
    let (mut calls, client) = leader(|_| {}).await;
    let (mut call, handle, stream) = first(&client, &mut calls).await;
    let (good_handle, good) = running(&client, &mut call).await;
    let nonsense = tokens(5, vec![1]);
    call.say([
        (handle, nonsense),
        (handle, ended()),
        (good_handle, ended()),
    ])
    .await;
    let error = read(stream).await.1.unwrap_err();
    assert!(matches!(error, WorkerError::Faulty(_)), "{error:?}");
    assert!(error.to_string().contains("wanted token 0"), "{error}");
    assert_eq!(read(good).await.1, Ok(()));
    let Message::Cancel(cancel) = call.heard().await else {
        panic!("a request was submitted");
    };
    assert_eq!(cancel.handle, handle);
}

#[tokio::test]
async fn when_the_call_breaks_all_its_requests_fail_and_the_next_makes_another() {
    let (mut calls, client) = leader(|_| {}).await;
    let (mut call, handle, one) = first(&client, &mut calls).await;
    let (_, other) = running(&client, &mut call).await;
    let waiting = start(&client, ONE);
    call.submitted().await;
    call.say([(handle, tokens(0, vec![1, 2]))]).await;
    let broken = Err(Status::internal("the step missed its deadline"));
    call.answers.send(broken).await.unwrap();
    drop(call);
    let (ids, end) = read(one).await;
    assert_eq!(ids, [1, 2], "what was said before is not lost");
    let is_unavailable = |error: &WorkerError| matches!(error, WorkerError::Unavailable(why) if why.contains("deadline"));
    assert!(is_unavailable(&end.unwrap_err()));
    assert!(is_unavailable(&read(other).await.1.unwrap_err()));
    assert!(is_unavailable(&waiting.await.unwrap().err().unwrap()));

    let (call, handle, stream) = first(&client, &mut calls).await;
    call.say([(handle, ended())]).await;
    assert_eq!(read(stream).await.1, Ok(()));
    // A leader that ends the call in peace leaves its requests just as well.
    let (mut call, handle) = (call, handle + 1);
    let (late_handle, late) = running(&client, &mut call).await;
    assert_eq!(late_handle, handle, "it is the same call");
    drop(call);
    let error = read(late).await.1.unwrap_err();
    assert!(matches!(error, WorkerError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn the_call_ends_with_its_client_and_its_last_request() {
    let (mut calls, client) = leader(|_| {}).await;
    let (mut call, handle, stream) = first(&client, &mut calls).await;
    drop(client);
    call.say([(handle, tokens(0, vec![1]))]).await;
    let mut stream = stream;
    let event = timeout(PATIENCE, stream.next()).await.unwrap();
    assert!(matches!(event, Some(Ok(_))), "{event:?}");
    drop(stream);
    let last = timeout(PATIENCE, async {
        while let Some(Ok(_)) = call.requests.next().await {}
    });
    last.await.expect("the call ends");
}

#[tokio::test]
async fn a_leader_that_does_not_answer_is_unavailable_in_time() {
    let (mut calls, client) = leader(|timeouts| timeouts.accept = Duration::from_millis(100)).await;
    let starting = start(&client, ONE);
    let mut call = next_call(&mut calls).await;
    let handle = call.submitted().await.handle;
    let error = timeout(PATIENCE, starting).await.unwrap().unwrap().err();
    let Some(WorkerError::Unavailable(message)) = error else {
        panic!("{error:?}");
    };
    assert!(message.contains("within 0.1 s"), "{message}");
    let Message::Cancel(cancel) = call.heard().await else {
        panic!("a request was submitted");
    };
    assert_eq!(cancel.handle, handle);
}

#[tokio::test]
async fn without_a_leader_all_who_wait_are_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let connector = GrpcConnector::new(Timeouts::default());
    let client = connector.language(&address.to_string().parse().unwrap());
    let starting: Vec<_> = (0..3).map(|_| start(&client, ONE)).collect();
    for starting in starting {
        let error = timeout(PATIENCE, starting).await.unwrap().unwrap().err();
        let is_unavailable = matches!(error, Some(WorkerError::Unavailable(_)));
        assert!(is_unavailable, "{error:?}");
    }
}

#[tokio::test]
async fn the_call_is_made_before_the_first_request_and_load_is_heard_on_it() {
    let silence = Duration::from_millis(400);
    let (mut calls, client) = leader(|timeouts| timeouts.silence = silence).await;
    let call = next_call(&mut calls).await;
    assert_eq!(client.pulse().last_report(), None);
    beat(&call).await;
    eventually("the load is heard", || {
        client.pulse().last_report().is_some()
    })
    .await;
    let (report, _) = client.pulse().last_report().unwrap();
    assert_eq!((report.running, report.rows_per_second), (3, 500.0));
    // It is made again by itself, also when nothing is heard on it any more.
    let quiet = call;
    let call = next_call(&mut calls).await;
    beat(&call).await;
    drop((quiet, call));
    let call = next_call(&mut calls).await;
    beat(&call).await;
}

#[tokio::test]
async fn a_leader_with_requests_that_falls_silent_is_lost_and_one_without_is_not() {
    let silence = Duration::from_millis(800);
    let (mut calls, client) = leader(|timeouts| timeouts.silence = silence).await;
    let mut call = next_call(&mut calls).await;
    // Nothing is asked of it.
    tokio::time::sleep(silence * 2).await;
    let (handle, stream) = running(&client, &mut call).await;
    call.say([(handle, tokens(0, vec![1]))]).await;
    for _ in 0..8 {
        tokio::time::sleep(silence / 4).await;
        beat(&call).await;
    }
    let begin = std::time::Instant::now();
    let waiting = start(&client, ONE);
    let (ids, end) = read(stream).await;
    let elapsed = begin.elapsed();
    assert_eq!(ids, [1]);
    assert!(matches!(end, Err(WorkerError::Silent(_))), "{end:?}");
    assert!(elapsed > silence / 2, "{elapsed:?}");
    assert!(elapsed < silence * 3, "{elapsed:?}");
    let error = waiting.await.unwrap().err();
    assert!(matches!(error, Some(WorkerError::Silent(_))), "{error:?}");
    assert!(client.pulse().outlook(None, 0).is_avoided);
    // What the old call still says reaches nobody, and another one is made.
    let late = call.answers.send(Ok(worker_wire::ConnectResponse {
        events: vec![worker_wire::RequestEvent {
            handle,
            event: Some(tokens(1, vec![2])),
        }],
        ..Default::default()
    }));
    let _ = late.await;
    let (mut call, handle, stream) = first(&client, &mut calls).await;
    call.say([(handle, tokens(0, vec![9])), (handle, ended())])
        .await;
    assert_eq!(read(stream).await, (vec![9], Ok(())));
    running(&client, &mut call).await;
}
