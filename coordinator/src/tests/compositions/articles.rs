//! How articles come about.

use super::*;
use crate::worker_client::fake::Script;

#[tokio::test]
async fn an_article_with_the_clients_pictures() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    let mut client = client(&coordinator).await;
    for text in [ARTICLE, "<Seg1>，<Seg2>", "a sea\"", "a hill\"", ": B", "A"] {
        answer(&cluster, text);
    }
    let request = wire::ComposeRequest {
        picture_count: Some(2),
        picture_source: wire::PictureSource::Client.into(),
        request_id: "mine".into(),
        ..wanted()
    };
    let events = client.compose(of_tenant(request, "ann")).await;
    let mut events = events.unwrap().into_inner();
    let mut told = vec![];
    let mut wanted_at = vec![];
    let mut num_captions = 0;
    while let Some(one) = event(&mut events).await {
        assert_eq!(one.sequence, told.len() as u64);
        match one.event.as_ref().expect("an event says something") {
            compose_event::Event::Accepted(accepted) => {
                assert_eq!(one.sequence, 0);
                assert_eq!(accepted.picture_source(), wire::PictureSource::Client);
                assert_eq!(accepted.picture_count, Some(2));
                assert!(accepted.expires_after_seconds > 0);
            }
            compose_event::Event::Caption(_) => num_captions += 1,
            compose_event::Event::CandidatesRequest(request) => wanted_at.push(request.location),
            _ => {}
        }
        let article_id = one.article_id.clone();
        told.push(one);
        // So the second caption is asked for before the first choice.
        if num_captions == 2 {
            for location in std::mem::take(&mut wanted_at) {
                let pictures = match location {
                    1 => vec![provided(b"one"), provided(b"two")],
                    _ => vec![provided(b"three"), provided(b"four")],
                };
                let answer = wire::ProvideCandidatesRequest {
                    article_id: article_id.clone(),
                    location,
                    pictures,
                };
                let answer = client.provide_candidates(of_tenant(answer, "ann")).await;
                answer.unwrap();
            }
        }
    }
    let article = done(&told);
    assert_eq!(texts(&article), ["A title", "first", "second"]);
    let shown: Vec<_> = article
        .segments
        .iter()
        .filter_map(|segment| segment.illustration.as_ref())
        .map(|shown| (shown.caption.as_str(), shown.chosen, shown.candidates.len()))
        .collect();
    assert_eq!(shown, [("a sea", 1, 2), ("a hill", 0, 2)]);

    // The same again from any number on, and nothing for others.
    let resume = |sequence: u64| wire::ResumeRequest {
        article_id: article.id.clone(),
        sequence,
    };
    for sequence in [0, 3, told.len() as u64 - 1] {
        let again = client.resume(of_tenant(resume(sequence), "ann")).await;
        let again = all_events(&mut again.unwrap().into_inner()).await;
        assert_eq!(again, told[sequence as usize..]);
    }
    let others = client.resume(of_tenant(resume(0), "bob")).await;
    check_refused(others, Code::NotFound, "ARTICLE_NOT_FOUND");

    let illustration = article.segments[1].illustration.as_ref().unwrap();
    let chosen = &illustration.candidates[1];
    assert_eq!(chosen.author, "Ann");
    let get = wire::GetPictureRequest {
        article_id: article.id.clone(),
        picture_id: chosen.id.clone(),
    };
    let file = client.get_picture(of_tenant(get, "ann")).await.unwrap();
    let (_, name, data) = read_file(file.into_inner()).await;
    assert_eq!(data, b"two");
    assert_eq!(name, chosen.id);
    let get = wire::GetPictureRequest {
        article_id: article.id.clone(),
        picture_id: "none".into(),
    };
    let none = client.get_picture(of_tenant(get, "ann")).await;
    check_refused(none, Code::NotFound, "PICTURE_NOT_FOUND");

    for (format, media_type, part) in [
        (wire::ExportFormat::Zip, "application/zip", "PK"),
        (wire::ExportFormat::Html, "text/html", "second"),
        (wire::ExportFormat::Json, "application/json", "second"),
        (wire::ExportFormat::Markdown, "text/markdown", "second"),
    ] {
        let export = wire::ExportRequest {
            article_id: article.id.clone(),
            format: format.into(),
        };
        let file = client.export(of_tenant(export, "ann")).await.unwrap();
        let (found, name, data) = read_file(file.into_inner()).await;
        assert!(found.starts_with(media_type), "{found}");
        assert!(!name.is_empty());
        assert!(String::from_utf8_lossy(&data).contains(part), "{format:?}");
    }
}

#[tokio::test]
async fn an_article_with_the_uploads() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    let mut client = client(&coordinator).await;
    for text in [ARTICLE, "<Seg1>，<Seg2>", ": B"] {
        answer(&cluster, text);
    }
    let request = wire::ComposeRequest {
        pictures: vec![picture(b"one"), picture(b"two")],
        ..wanted()
    };
    let mut events = client.compose(request).await.unwrap().into_inner();
    let told = all_events(&mut events).await;
    let Some(compose_event::Event::Accepted(accepted)) = &told[0].event else {
        panic!("the first event is another one: {:?}", told[0]);
    };
    assert_eq!(accepted.picture_source(), wire::PictureSource::Uploads);
    let article = done(&told);
    let shown: Vec<_> = article
        .segments
        .iter()
        .filter_map(|segment| segment.illustration.as_ref())
        .map(|shown| shown.candidates[shown.chosen as usize].id.clone())
        .collect();
    let [first, second] = &accepted.pictures[..] else {
        panic!("two pictures were sent, found {:?}", accepted.pictures);
    };
    assert_eq!(shown, [second.clone(), first.clone()]);
}

#[tokio::test]
async fn a_call_ends_by_its_deadline_and_the_composition_goes_on() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    let mut client = client(&coordinator).await;
    let steps = [
        Step::Text("A title\n\n"),
        Step::Pause(Duration::from_millis(1500)),
        Step::Text("first"),
        Step::Tokens(vec![fake::tokenizer().end_of_turn_id()]),
        Step::End(EndReason::Stop),
    ];
    cluster.group().script(Script::Play(steps.into()));
    let mut request = Request::new(wire::ComposeRequest {
        picture_count: Some(0),
        ..wanted()
    });
    // The client's own clock would end the call as cancelled.
    let header = MetadataValue::from_static("500m");
    request.metadata_mut().insert("grpc-timeout", header);
    let mut events = client.compose(request).await.unwrap().into_inner();
    let first = event(&mut events).await.expect("it was accepted");
    let end = loop {
        match timeout(PATIENCE, events.message()).await.unwrap() {
            Ok(Some(_)) => {}
            other => break other.expect_err("the deadline ends the call"),
        }
    };
    assert_eq!(end.code(), Code::DeadlineExceeded, "{end:?}");
    let resume = wire::ResumeRequest {
        article_id: first.article_id,
        sequence: 0,
    };
    let mut events = client.resume(resume).await.unwrap().into_inner();
    let article = done(&all_events(&mut events).await);
    assert_eq!(texts(&article), ["A title", "first"]);
}

#[tokio::test]
async fn a_cancelled_composition_keeps_what_is_there() {
    let cluster = FakeCluster::new(1, 1);
    let coordinator = Coordinator::over(&cluster).await;
    let mut client = client(&coordinator).await;
    let endless = Step::Repeat("word ".into(), Duration::from_millis(5));
    let steps = [Step::Text("A title\n\n"), endless];
    cluster.group().script(Script::Play(steps.into()));
    let mut events = client.compose(wanted()).await.unwrap().into_inner();
    let first = event(&mut events).await.expect("it was accepted");
    loop {
        let one = event(&mut events).await.expect("the title closes");
        if matches!(one.event, Some(compose_event::Event::SegmentClosed(_))) {
            break;
        }
    }
    let get = wire::GetArticleRequest {
        article_id: first.article_id.clone(),
    };
    let running = client.get_article(get).await.unwrap().into_inner();
    let running = running.article.expect("something is known of it");
    assert!(running.is_composing);
    assert_eq!(
        (running.id.as_str(), running.instruction.as_str()),
        (first.article_id.as_str(), "hello")
    );
    let early = wire::ExportRequest {
        article_id: first.article_id.clone(),
        ..Default::default()
    };
    let early = client.export(early).await;
    check_refused(early, Code::FailedPrecondition, "STILL_COMPOSING");
    let cancel = wire::CancelRequest {
        article_id: first.article_id,
    };
    client.cancel(cancel).await.unwrap();
    let article = done(&all_events(&mut events).await);
    assert_eq!(article.segments[0].text, "A title");
    eventually("the group is free", || cluster.group().num_running() == 0).await;
}
