//! What is wrong with a request is named; what is right comes out as it was meant.

use inkstone_model::synthesize::Preset;

use super::*;
use crate::group::plan_stream::sampling_to_wire;

fn terms() -> RequestTerms {
    RequestTerms {
        epoch: 7,
        vocab_size: 1000,
        max_sequence_tokens: 100,
        model_fingerprint: [1; 32],
        rope: RopeRule::new(&Preset::Tiny.config()),
    }
}

fn tokens(ids: &[u32]) -> wire::PromptPart {
    let span = wire::TokenSpan { ids: ids.to_vec() };
    wire::PromptPart {
        part: Some(prompt_part::Part::Tokens(span)),
    }
}

fn picture(name: u8, num_tokens: u32) -> wire::PromptPart {
    let picture = wire::PictureRef {
        digest: vec![name; 32].into(),
        num_tokens,
        vision_address: "http://127.0.0.1:1".to_owned(),
    };
    wire::PromptPart {
        part: Some(prompt_part::Part::Picture(picture)),
    }
}

fn good() -> GenerateRequest {
    GenerateRequest {
        prompt: vec![tokens(&[1, 5]), picture(9, 30), tokens(&[7])],
        sampling: Some(sampling_to_wire(&Default::default())),
        max_new_tokens: 10,
        stop_token_ids: vec![2],
        ..GenerateRequest::default()
    }
}

fn resumed(branch: u32, ids: &[u32]) -> wire::ResumedAnswer {
    wire::ResumedAnswer {
        branch,
        ids: ids.to_vec(),
        ended: false,
    }
}

fn beam(width: u32, num_answers: u32) -> Option<wire::BeamSettings> {
    Some(wire::BeamSettings {
        width,
        num_answers,
        length_penalty: 1.0,
        early_stopping: true,
    })
}

fn check(change: impl FnOnce(&mut GenerateRequest)) -> Result<Submission, Refused> {
    let mut request = good();
    change(&mut request);
    terms().check(3, Some(request))
}

#[test]
fn a_good_request_comes_out_as_it_was_meant() {
    let submission = check(|request| request.branches = 4).unwrap();
    assert_eq!(submission.handle, 3);
    assert_eq!(submission.decoding, Decoding::Sample { branches: 4 });
    assert_eq!(submission.priority, Priority::Interactive);
    assert_eq!(submission.prompt.len(), 3);
    assert_eq!(submission.pictures.len(), 1);
    let twice = check(|request| request.prompt.push(picture(9, 30))).unwrap();
    assert_eq!(twice.prompt.len(), 4);
    assert_eq!(twice.pictures.len(), 1, "one picture is fetched once");
    assert!(!twice.first_in_line && twice.resumed.is_empty());
    let resumed = check(|request| {
        request.branches = 2;
        request.resumed = vec![resumed(1, &[5, 6])];
        request.first_in_line = true;
    });
    let resumed = resumed.unwrap();
    let wanted = Resumed {
        branch: 1,
        token_ids: vec![5, 6],
        has_ended: false,
    };
    assert_eq!(
        (resumed.resumed, resumed.first_in_line),
        (vec![wanted], true)
    );
    let searched = check(|request| request.beam = beam(5, 3)).unwrap();
    let Decoding::Beam(params) = searched.decoding else {
        panic!("wanted a beam search, found {:?}", searched.decoding);
    };
    assert_eq!((params.width, params.num_answers), (5, 3));
    assert!(params.early_stopping);
}

#[test]
fn what_is_wrong_is_named() {
    type Change = fn(&mut GenerateRequest);
    let wrong: [(&str, Change); 22] = [
        ("sampling", |request| request.sampling = None),
        ("max_new_tokens", |request| request.max_new_tokens = 0),
        ("together", |request| request.max_new_tokens = 100),
        ("together", |request| request.prompt.clear()),
        ("prompt", |request| request.prompt.push(tokens(&[1000]))),
        ("stop_token_ids", |request| {
            request.stop_token_ids = vec![1000]
        }),
        ("prompt part", |request| {
            request.prompt.push(wire::PromptPart { part: None });
        }),
        ("no position", |request| request.prompt.push(picture(8, 0))),
        ("positions", |request| request.prompt.push(picture(9, 29))),
        ("beam.num_answers", |request| request.beam = beam(3, 4)),
        ("beam.num_answers", |request| request.beam = beam(3, 0)),
        ("beam.width", |request| request.beam = beam(u32::MAX, 1)),
        ("branches", |request| {
            request.branches = 2;
            request.beam = beam(3, 1);
        }),
        ("branches", |request| request.branches = u32::MAX),
        ("priority", |request| request.priority = 77),
        ("min_new_tokens", |request| {
            request.sampling.as_mut().unwrap().min_new_tokens = 11;
        }),
        ("resumed: branch must be below 1", |request| {
            request.resumed = vec![resumed(1, &[5])];
        }),
        ("resumed: branch 0 is named twice", |request| {
            request.resumed = vec![resumed(0, &[5]), resumed(0, &[5])];
        }),
        ("resumed: branch 0 must have at most", |request| {
            request.resumed = vec![resumed(0, &[5; 11])];
        }),
        ("resumed: token 1000", |request| {
            request.resumed = vec![resumed(0, &[1000])];
        }),
        ("resumed: a beam search", |request| {
            request.resumed = vec![resumed(0, &[5])];
            request.beam = beam(3, 1);
        }),
        ("num_logprobs", |request| {
            request.sampling.as_mut().unwrap().num_logprobs = Some(u32::MAX);
        }),
    ];
    for (name, change) in wrong {
        let (reason, message) = check(change).unwrap_err();
        assert_eq!(reason, Refusal::Invalid, "{message}");
        assert!(message.contains(name), "wanted {name}, found: {message}");
    }
}

#[test]
fn a_request_for_another_epoch_is_refused_as_such() {
    assert!(check(|request| request.epoch = 7).is_ok());
    let (reason, message) = check(|request| request.epoch = 6).unwrap_err();
    assert_eq!(reason, Refusal::Epoch);
    assert!(message.contains('6') && message.contains('7'), "{message}");
}

#[test]
fn blocks_are_shared_by_one_owner_one_model_and_one_rotary_base() {
    let salt = |terms: &RequestTerms, owner: &'static [u8], prompt_tokens: usize| {
        terms.salt(owner, prompt_tokens)
    };
    let terms = terms();
    let base = salt(&terms, b"a", 10);
    assert_eq!(base, salt(&terms, b"a", 4000));
    assert_ne!(base, salt(&terms, b"b", 10));
    let other = RequestTerms {
        model_fingerprint: [2; 32],
        ..terms.clone()
    };
    assert_ne!(base, salt(&other, b"a", 10));
    // A coordinator comes to the same.
    let class = inkstone_prefix::rope_class(10, Preset::Tiny.config().rope_base_fixed_up_to());
    assert_eq!(base, inkstone_prefix::salt(&[1; 32], b"a", class));
    // A base grows beyond the longest position where the model scales it.
    let scaled = RequestTerms {
        rope: RopeRule::new(&Preset::TwoFive7b.config()),
        ..terms
    };
    assert_eq!(salt(&scaled, b"a", 10), salt(&scaled, b"a", 20_000));
    assert_ne!(salt(&scaled, b"a", 30_000), salt(&scaled, b"a", 20_000));
    assert_ne!(salt(&scaled, b"a", 30_000), salt(&scaled, b"a", 30_001));
}
