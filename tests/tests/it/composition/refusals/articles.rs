//! Calls about articles that are others', do not exist, or are not there yet.

use inkstone_proto::v1::{
    ApplyEditRequest, CancelEditRequest, CancelRequest, ChangeArticleRequest, DeleteArticleRequest,
    EditOperation, EditRequest, ExportRequest, GetArticleRequest, GetPictureRequest,
    ProvideCandidatesRequest, ResumeRequest, SetText, Undo, change_article_request::Change,
    compose_event::Event,
};
use inkstone_tests::pictures::stripes;
use tonic::{Code, Status};

use super::{
    super::{
        client::{
            Client, Told, assert_refused, compose_events, connect, of_tenant, provided, request,
        },
        scripted::{Asked, Model, Reply, Scripted, Step},
    },
    answer, uploads,
};

/// Every call that names an article, for one that is another's or does not exist.
async fn statuses(client: &mut Client, id: &str, tenant: &'static str) -> Vec<Status> {
    let article_id = || id.to_owned();
    let mut statuses = vec![];
    macro_rules! ask {
        ($call:ident, $message:expr) => {
            let answer = client.$call(of_tenant($message, tenant)).await;
            statuses.push(answer.map(drop).expect_err(stringify!($call)));
        };
    }
    ask!(
        get_article,
        GetArticleRequest {
            article_id: article_id()
        }
    );
    ask!(
        resume,
        ResumeRequest {
            article_id: article_id(),
            sequence: 0
        }
    );
    ask!(
        cancel,
        CancelRequest {
            article_id: article_id()
        }
    );
    ask!(
        provide_candidates,
        ProvideCandidatesRequest {
            article_id: article_id(),
            location: 1,
            pictures: vec![provided(stripes(1), "")],
        }
    );
    ask!(
        get_picture,
        GetPictureRequest {
            article_id: article_id(),
            picture_id: "x".to_owned(),
        }
    );
    ask!(
        export,
        ExportRequest {
            article_id: article_id(),
            format: 0,
        }
    );
    ask!(
        edit,
        EditRequest {
            article_id: article_id(),
            revision: 0,
            segment: 0,
            operation: EditOperation::Rewrite.into(),
            instruction: String::new(),
        }
    );
    ask!(
        apply_edit,
        ApplyEditRequest {
            article_id: article_id(),
            revision: 0,
            text: None,
        }
    );
    ask!(
        cancel_edit,
        CancelEditRequest {
            article_id: article_id()
        }
    );
    ask!(
        change_article,
        ChangeArticleRequest {
            article_id: article_id(),
            revision: 0,
            change: Some(Change::Undo(Undo {})),
        }
    );
    ask!(
        delete_article,
        DeleteArticleRequest {
            article_id: article_id()
        }
    );
    statuses
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_articles_of_others_and_hostile_names_are_not_found() {
    let scripted = Scripted::start(Model::small(), &[], answer).await;
    let mut client = connect(&scripted.address).await;
    let stream = client.compose(of_tenant(uploads(2), "alice")).await;
    let mut stream = stream.expect("it is taken").into_inner();
    let events = super::super::client::follow(&mut stream, 0).await;
    let told = Told::of(&events);
    let id = events[0].article_id.clone();
    for tenant in ["bob", "alice2", "ALICE"] {
        for status in statuses(&mut client, &id, tenant).await {
            assert_refused(&status, Code::NotFound, "ARTICLE_NOT_FOUND");
        }
    }
    let long = "9".repeat(1 << 20);
    let cut = &id[..id.len() - 1];
    let upper = id.to_uppercase();
    let mut hostile = vec![
        "",
        ".",
        "../../etc/passwd",
        "%2e%2e%2f",
        "a\0b",
        "文章",
        "' OR 1=1 --",
        &long,
        cut,
    ];
    if upper != id {
        hostile.push(&upper);
    }
    for hostile in hostile {
        for status in statuses(&mut client, hostile, "alice").await {
            let is_refused = matches!(status.code(), Code::NotFound | Code::InvalidArgument);
            assert!(is_refused, "{status:?}");
            assert!(status.message().len() < 4096, "it does not echo a megabyte");
        }
    }
    // All of it is still there for who made it, and its pictures go by names that are no paths.
    let ids: Vec<String> = told.accepted.pictures.clone();
    for picture_id in ["", "../x", &long, "pictures/1.png"] {
        let get = GetPictureRequest {
            article_id: id.clone(),
            picture_id: picture_id.to_owned(),
        };
        let status = client.get_picture(of_tenant(get, "alice")).await;
        let status = status.expect_err("there is none");
        let is_refused = matches!(status.code(), Code::NotFound | Code::InvalidArgument);
        assert!(is_refused, "{status:?}");
    }
    for picture_id in ids {
        let get = GetPictureRequest {
            article_id: id.clone(),
            picture_id,
        };
        let stream = client.get_picture(of_tenant(get, "alice")).await;
        let chunk = stream.expect("it is there").into_inner().message().await;
        assert!(!chunk.expect("it comes").expect("a piece").data.is_empty());
    }
    // Names say nothing about each other.
    let other = compose_events(&mut client, uploads(1)).await;
    let other = &other[0].article_id;
    let same = id.bytes().zip(other.bytes()).filter(|(a, b)| a == b);
    assert!(same.count() < id.len() / 2, "{id} and {other}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_articles_change_when_they_are_there_and_not_before() {
    let script = |asked: &Asked| match asked.step() {
        Step::Article if asked.text.contains("Hang.") => Reply::Hang,
        Step::Article if asked.text.contains("Nothing.") => "".into(),
        _ => answer(asked),
    };
    let scripted = Scripted::start(Model::small(), &[], script).await;
    let mut client = connect(&scripted.address).await;
    let change = |id: &str| ChangeArticleRequest {
        article_id: id.to_owned(),
        revision: 0,
        change: Some(Change::SetText(SetText {
            segment: 0,
            text: "x".to_owned(),
        })),
    };
    let stream = client.compose(request("Hang.")).await.expect("it is taken");
    let mut stream = stream.into_inner();
    let first = super::super::client::next(&mut stream)
        .await
        .expect("an event");
    assert!(matches!(first.event, Some(Event::Accepted(_))));
    let id = first.article_id;
    let now = super::super::client::article(&mut client, &id).await;
    assert!(now.is_composing && now.segments.is_empty());
    assert_eq!(now.instruction, "Hang.");
    let status = client.change_article(change(&id)).await;
    let status = status.expect_err("there is nothing to change");
    assert_refused(&status, Code::FailedPrecondition, "STILL_COMPOSING");
    let export = ExportRequest {
        article_id: id,
        format: 0,
    };
    let status = client.export(export).await;
    let status = status.expect_err("there is nothing to export");
    assert_refused(&status, Code::FailedPrecondition, "STILL_COMPOSING");

    let events = compose_events(&mut client, request("Nothing.")).await;
    let id = events[0].article_id.clone();
    let status = client.change_article(change(&id)).await;
    let status = status.expect_err("there is no article");
    assert_refused(&status, Code::FailedPrecondition, "NO_ARTICLE");

    let events = compose_events(&mut client, uploads(1)).await;
    let id = events[0].article_id.clone();
    let stale = ChangeArticleRequest {
        revision: 17,
        ..change(&id)
    };
    let status = client.change_article(stale).await;
    let status = status.expect_err("it is for another revision");
    assert_refused(&status, Code::Aborted, "REVISION_CONFLICT");
    client.change_article(change(&id)).await.expect("it fits");
}
