//! Real processes, real sockets: what a client sees when all goes well, when it sends nonsense, and when something dies.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use inkstone_model::synthesize::{Preset, SynthesizeOptions, synthesize};
use inkstone_proto::v1::{
    BosRule, FinishReason, GetModelRequest, PromptParams, TokenizeRequest, chat_response::Event,
    model_service_client::ModelServiceClient,
};
use inkstone_tests::{
    client::{ask, assistant, connect, greedy, picture, text, user},
    process::Process,
};
use serde_json::{Value, json};
use tonic::Code;
use tonic_types::StatusExt;

use crate::cluster_fixture::{Served, Spread, program, tiny_model};

/// A small picture that any of our decoders reads.
fn shapes() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("pictures/shapes.png"))
        .expect("it is in the repository")
}

/// A Python with grpcio and grpcio-tools, where there is one.
fn python() -> Option<PathBuf> {
    std::env::var_os("INKSTONE_TEST_PYTHON").map(PathBuf::from)
}

fn ask_from_python(python: &Path, address: &str, request: &Value) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut child = Command::new(python)
        .arg(root.join("clients/chat.py"))
        .arg(root.join("../proto/proto"))
        .arg(address)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("INKSTONE_TEST_PYTHON runs");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(request.to_string().as_bytes())
        .expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "the Python client failed");
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

/// The golden conversation about two pictures, of the 4KHD release.
struct TwoPictures {
    folder: PathBuf,
    checkpoint: String,
    case: Value,
    tokens: Vec<i32>,
}

impl TwoPictures {
    fn read() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/xc2-4khd-tiny");
        let read = |name: &str| std::fs::read(folder.join(name)).expect("it is in the repository");
        let manifest: Value = serde_json::from_slice(&read("manifest.json")).expect("JSON");
        let tensors = read("goldens.safetensors");
        let tensors = safetensors::SafeTensors::deserialize(&tensors).expect("safetensors");
        let tokens = tensors.tensor("gen.two.tokens").expect("it is there");
        let (words, _) = tokens.data().as_chunks::<4>();
        Self {
            checkpoint: folder
                .join("checkpoint")
                .to_str()
                .expect("UTF-8")
                .to_owned(),
            case: manifest["cases"]["two"].clone(),
            tokens: words.iter().map(|word| i32::from_le_bytes(*word)).collect(),
            folder,
        }
    }

    /// What a client has to say to get the golden's prompt.
    fn request(&self) -> Value {
        let prompt = self.case["prompt"].as_str().expect("text");
        let question = prompt
            .strip_prefix("[UNUSED_TOKEN_146]user\n")
            .expect("a user's turn");
        let question = question
            .strip_suffix("[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n")
            .expect("an open answer");
        let mut pieces = question.split("<ImageHere>");
        let mut parts = vec![json!({ "text": pieces.next() })];
        let pictures = self.case["images"].as_array().expect("a list");
        for (picture, piece) in pictures.iter().zip(pieces) {
            let file = self
                .folder
                .join("images")
                .join(picture.as_str().expect("a name"));
            parts.extend([json!({ "picture": file }), json!({ "text": piece })]);
        }
        json!({
            "parts": parts,
            "sampling": { "temperature": 0.0, "repetitionPenalty": 1.0 },
            "stop": { "maxTokens": self.tokens.len(), "ignoreEos": true },
            "prompt": { "omitDefaultSystem": true, "bosRule": "BOS_RULE_ONCE", "hdNum": self.case["hd_num"] },
        })
    }
}

#[test]
fn a_python_client_gets_the_reference_tokens_from_a_cluster_of_processes() {
    let Some(python) = python() else {
        eprintln!("skipped: INKSTONE_TEST_PYTHON names no Python with grpcio and grpcio-tools");
        return;
    };
    let golden = TwoPictures::read();
    let cluster = Spread::start(&golden.checkpoint, 2, 1);
    let answer = ask_from_python(&python, &cluster.address, &golden.request());
    assert_eq!(answer["error"], Value::Null, "{answer}");
    assert_eq!(answer["token_ids"], json!(golden.tokens), "{answer}");
    assert_eq!(answer["prompt_tokens"], golden.case["tokens"]);
    assert_eq!(answer["finish_reason"], "FINISH_REASON_LENGTH");
    let read = |process: &Process| {
        process
            .wait_for("loaded the rank's shard", "bytes_read")
            .parse::<f64>()
            .expect("bytes")
    };
    let shares = [read(&cluster.leader), read(&cluster.ranks[0])];
    let whole: f64 = cluster
        .leader
        .wait_for("loaded the rank's shard", "checkpoint_bytes")
        .parse()
        .expect("bytes");
    for share in shares {
        assert!(
            share < 0.75 * whole,
            "a rank of two read {share} of {whole} bytes"
        );
    }
}

#[tokio::test]
async fn every_width_gives_the_same_tokens() {
    let question = || {
        vec![user(vec![
            text("Look: "),
            picture(shapes()),
            text(" what is it?"),
        ])]
    };
    let mut answers = Vec::new();
    for width in ["1", "2", "4"] {
        let served = Served::start(
            tiny_model(),
            &["--dtype", "f32", "--tensor-parallel", width],
        );
        let answer = ask(&mut connect(&served.address).await, greedy(question(), 24))
            .await
            .expect("an answer");
        assert_eq!(answer.token_ids.len(), 24);
        answers.push(answer.token_ids);
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
}

#[tokio::test]
async fn requests_side_by_side_get_what_they_get_alone() {
    let served = Served::start(tiny_model(), &[]);
    let client = connect(&served.address).await;
    let question = |n: usize| {
        let mut parts = vec![text(&"word ".repeat(n * 7 + 1))];
        if n.is_multiple_of(2) {
            parts.insert(0, picture(shapes()));
        }
        greedy(vec![user(parts)], 16 + n as u32)
    };
    let mut alone = Vec::new();
    for n in 0..6 {
        alone.push(
            ask(&mut client.clone(), question(n))
                .await
                .expect("an answer")
                .token_ids,
        );
    }
    let together = (0..6).map(|n| {
        let mut client = client.clone();
        tokio::spawn(async move {
            ask(&mut client, question(n))
                .await
                .expect("an answer")
                .token_ids
        })
    });
    for (n, task) in together.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(task.await.expect("it ends"), alone[n], "request {n}");
    }
}

#[tokio::test]
async fn a_seed_makes_a_sampled_answer_repeatable() {
    let served = Served::start(tiny_model(), &[]);
    let mut client = connect(&served.address).await;
    let mut request = greedy(vec![user(vec![text("Say something.")])], 24);
    let sampling = request.sampling.as_mut().expect("it is set");
    (sampling.temperature, sampling.seed) = (Some(1.0), Some(5));
    let first = ask(&mut client, request.clone()).await.expect("an answer");
    let again = ask(&mut client, request.clone()).await.expect("an answer");
    assert_eq!(first.token_ids, again.token_ids);
    request.sampling.as_mut().expect("it is set").seed = Some(6);
    let other = ask(&mut client, request).await.expect("an answer");
    assert_ne!(first.token_ids, other.token_ids);
}

#[tokio::test]
async fn the_model_service_tells_what_is_served() {
    let served = Served::start(tiny_model(), &[]);
    let mut client = ModelServiceClient::connect(format!("http://{}", served.address))
        .await
        .expect("it listens");
    let model = client
        .get_model(GetModelRequest {})
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(model.name, "tiny");
    assert_eq!(model.stop_token_ids.len(), 2);
    assert!(model.picture_tokens > 0 && model.max_prompt_tokens > model.picture_tokens);
    let marker = |allow_markers| TokenizeRequest {
        text: "[UNUSED_TOKEN_146]user".to_owned(),
        add_bos: true,
        allow_markers,
    };
    let as_text = client
        .tokenize(marker(false))
        .await
        .expect("an answer")
        .into_inner()
        .token_ids;
    let as_marker = client
        .tokenize(marker(true))
        .await
        .expect("an answer")
        .into_inner()
        .token_ids;
    assert_eq!(as_marker[..2], [1, model.vocab_size - 1]);
    assert!(!as_text.contains(&(model.vocab_size - 1)) && as_text.len() > as_marker.len());
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_place_at_once() {
    let served = Served::start(tiny_model(), &["--max-running", "1"]);
    let client = connect(&served.address).await;
    let endless = greedy(vec![user(vec![text("Go on.")])], 3000);
    let mut stream = client
        .clone()
        .chat(endless)
        .await
        .expect("it starts")
        .into_inner();
    while !matches!(
        stream
            .message()
            .await
            .expect("an event")
            .expect("more")
            .event,
        Some(Event::Delta(_))
    ) {}
    let started = Instant::now();
    drop(stream);
    // The only place is free again: otherwise this would wait for the 3000 tokens.
    let short = greedy(vec![user(vec![text("Short.")])], 2);
    let answer = ask(&mut client.clone(), short).await.expect("an answer");
    assert_eq!(answer.token_ids.len(), 2);
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_deadline_ends_the_answer() {
    let served = Served::start(tiny_model(), &["--max-running", "1"]);
    let mut client = connect(&served.address).await;
    let mut request = tonic::Request::new(greedy(vec![user(vec![text("Go on.")])], 3000));
    request.set_timeout(Duration::from_millis(300));
    let status = match client.chat(request).await {
        Err(status) => status,
        Ok(stream) => inkstone_tests::client::collect(stream.into_inner())
            .await
            .expect_err("it is cut"),
    };
    // The client's own timer may be first; both mean the same.
    assert!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{status}"
    );
    let answer = ask(&mut client, greedy(vec![user(vec![text("Short.")])], 2))
        .await
        .expect("an answer");
    assert_eq!(answer.token_ids.len(), 2);
}

#[tokio::test]
async fn nonsense_is_refused_by_name_and_nobody_else_notices() {
    let served = Served::start(tiny_model(), &[]);
    let mut client = connect(&served.address).await;
    let mut truncated = shapes();
    truncated.truncate(truncated.len() / 2);
    let hello = || user(vec![text("Hello")]);
    let cases = [
        (
            "corrupt picture",
            vec![user(vec![text("What?"), picture(truncated)])],
            "messages[0].parts[1].picture",
            "",
        ),
        (
            "not a picture",
            vec![user(vec![picture(b"hello".to_vec())])],
            "messages[0].parts[0].picture",
            "",
        ),
        (
            "a bomb",
            vec![user(vec![picture(bomb(10_000, 10_000))])],
            "messages[0].parts[0].picture",
            "10000 x 10000 pixels",
        ),
        ("two users", vec![hello(), hello()], "messages[1]", ""),
        (
            "assistant last",
            vec![hello(), assistant("Hi")],
            "messages",
            "user",
        ),
        ("nobody", vec![], "messages", ""),
        (
            "too long",
            vec![user(vec![text(&"long ".repeat(9000))])],
            "messages",
            "4096",
        ),
    ];
    for (name, messages, field, says) in cases {
        let status = ask(&mut client, greedy(messages, 4)).await.expect_err(name);
        assert_eq!(status.code(), Code::InvalidArgument, "{name}: {status}");
        let details = status.get_error_details();
        let violations = details
            .bad_request()
            .map(|bad| bad.field_violations.clone())
            .unwrap_or_default();
        let text = format!("{} {violations:?}", status.message());
        assert!(
            violations
                .iter()
                .any(|violation| violation.field.starts_with(field)),
            "{name}: {text}"
        );
        assert!(text.contains(says), "{name}: {text}");
        assert_eq!(
            details.error_info().map(|info| info.domain.as_str()),
            Some("inkstone"),
            "{name}"
        );
    }
    let answer = ask(&mut client, greedy(vec![hello()], 4))
        .await
        .expect("it still answers");
    assert_eq!(answer.finished.reason(), FinishReason::Length);
}

#[tokio::test]
async fn the_bos_rule_is_the_callers_choice() {
    let served = Served::start(tiny_model(), &[]);
    let mut client = connect(&served.address).await;
    let mut count = async |rule: BosRule| {
        let mut request = greedy(
            vec![user(vec![text("a "), picture(shapes()), text(" b")])],
            1,
        );
        request.prompt = Some(PromptParams {
            bos_rule: rule.into(),
            ..request.prompt.unwrap_or_default()
        });
        ask(&mut client, request)
            .await
            .expect("an answer")
            .started
            .prompt_tokens
    };
    let once = count(BosRule::Once).await;
    assert_eq!(count(BosRule::Unspecified).await, once);
    assert_eq!(count(BosRule::Reference).await, once + 1);
}

#[tokio::test]
async fn a_killed_rank_ends_its_group_with_an_error_not_a_hang() {
    let mut cluster = Spread::start(tiny_model(), 2, 1);
    let mut client = connect(&cluster.address).await;
    let mut stream = client
        .chat(greedy(vec![user(vec![text("Go on.")])], 3000))
        .await
        .expect("it starts")
        .into_inner();
    while !matches!(
        stream
            .message()
            .await
            .expect("an event")
            .expect("more")
            .event,
        Some(Event::Delta(_))
    ) {}
    cluster.ranks[0].kill();
    let started = Instant::now();
    let status = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the answer broke off without an error"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    // The coordinator looks for another group for 30 s, in vain.
    assert!(
        started.elapsed() < Duration::from_secs(40),
        "it took {:?}",
        started.elapsed()
    );
    let ended = cluster.leader.wait_for_end(Duration::from_secs(60));
    assert!(
        !ended.success(),
        "a leader without its rank ends with an error"
    );
}

#[tokio::test]
async fn pictures_go_on_to_another_vision_worker_when_theirs_dies() {
    let mut cluster = Spread::start(tiny_model(), 1, 2);
    let mut client = connect(&cluster.address).await;
    // A text chunk behind the picture's end makes files of other bytes, which go to both workers.
    let other_file = |n: u8| [shapes(), vec![n]].concat();
    let question = |n| {
        greedy(
            vec![user(vec![picture(other_file(n)), text("What is it?")])],
            4,
        )
    };
    for n in 0..4 {
        ask(&mut client, question(n))
            .await
            .expect("both workers are there");
    }
    cluster.vision[0].kill();
    for n in 0..12 {
        let answer = ask(&mut client, question(n))
            .await
            .expect("one worker is there");
        assert_eq!(answer.token_ids.len(), 4, "picture {n}");
    }
}

#[tokio::test]
async fn a_terminated_server_lets_running_answers_finish() {
    let mut served = Served::start(tiny_model(), &[]);
    let client = connect(&served.address).await;
    let running = {
        let mut client = client.clone();
        let mut stream = client
            .chat(greedy(vec![user(vec![text("Go on.")])], 200))
            .await
            .expect("it starts")
            .into_inner();
        stream.message().await.expect("an event");
        stream
    };
    served.process.terminate();
    let mut running = running;
    let mut finished = false;
    while let Some(response) = running.message().await.expect("no error while draining") {
        finished |= matches!(response.event, Some(Event::Finished(_)));
    }
    assert!(finished, "the answer was cut");
    drop((running, client));
    assert!(
        served
            .process
            .wait_for_end(Duration::from_secs(60))
            .success()
    );
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let mut served = Served::start(tiny_model(), &[]);
    let mut stream = connect(&served.address)
        .await
        .chat(greedy(vec![user(vec![text("Go on.")])], 3000))
        .await
        .expect("it starts")
        .into_inner();
    stream.message().await.expect("an event");
    served.process.terminate();
    served
        .process
        .wait_for_text("a second signal stops at once");
    served.process.terminate();
    let status = served.process.wait_for_end(Duration::from_secs(5));
    assert!(!status.success(), "{status}");
}

#[tokio::test]
async fn replicas_of_two_ranks_answer_from_one_process() {
    let arguments = ["--language-replicas", "2", "--tensor-parallel", "2"];
    let served = Served::start(tiny_model(), &arguments);
    let client = connect(&served.address).await;
    let asks = (0..4).map(|n| {
        let mut client = client.clone();
        tokio::spawn(async move {
            let question = text(&format!("Question {n}"));
            ask(&mut client, greedy(vec![user(vec![question])], 8)).await
        })
    });
    for task in asks.collect::<Vec<_>>() {
        let answer = task.await.expect("it ends").expect("an answer");
        assert_eq!(answer.token_ids.len(), 8);
    }
}

#[test]
fn a_missing_shard_is_named_and_nothing_starts() {
    let parent = tempfile::tempdir().expect("a temporary folder");
    let dir = parent.path().join("sharded");
    let options = SynthesizeOptions {
        max_file_bytes: 1 << 20,
        ..SynthesizeOptions::default()
    };
    synthesize(Preset::Tiny, 1, &dir, options, &|_| {}).expect("it is written");
    let names = std::fs::read_dir(&dir)
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name());
    let names = names.map(|name| name.into_string().expect("UTF-8"));
    let shard = names
        .filter(|name| name.ends_with(".safetensors"))
        .max()
        .expect("a shard");
    std::fs::remove_file(dir.join(&shard)).expect("removed");
    let mut process = Process::start(
        program(),
        &[
            "serve",
            "--model",
            dir.to_str().expect("UTF-8"),
            "--grpc",
            "127.0.0.1:0",
        ],
    );
    let line = process.wait_for_text("error: ");
    assert!(line.contains(&shard), "{line}");
    assert!(!process.wait_for_end(Duration::from_secs(30)).success());
}

/// A PNG whose header claims `width` × `height` pixels.
fn bomb(width: u32, height: u32) -> Vec<u8> {
    let mut header = Vec::from(*b"IHDR");
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    let mut file = Vec::from(*b"\x89PNG\r\n\x1a\n");
    for chunk in [header, b"IDAT".to_vec(), b"IEND".to_vec()] {
        file.extend(u32::try_from(chunk.len() - 4).expect("short").to_be_bytes());
        file.extend(&chunk);
        file.extend(crc32(&chunk).to_be_bytes());
    }
    file
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
        })
    };
    !bytes.iter().fold(!0, step)
}
