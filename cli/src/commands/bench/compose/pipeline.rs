//! An article by one call, whose pictures the client brings when it is asked for them.

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context, bail};
use inkstone_proto::v1::{self as wire, compose_event::Event};
use tokio::task::JoinSet;

use super::{
    Client, Run, Task, Written, call, pictures::Pictures, report::Timings, timeline::Timeline,
};
use crate::commands::client::explain;

/// Whether captions and choices wait for each other.
#[derive(Clone, Copy, Debug)]
pub(super) enum StepsRun {
    InTurn,
    AtOnce,
}

/// When each stage ended.
struct Ends {
    article: Instant,
    places: Instant,
    captions: Instant,
}

pub(super) async fn write(
    mut client: Client,
    task: &Task,
    steps: StepsRun,
    pictures: &Pictures<'_>,
) -> anyhow::Result<Run> {
    let tenant = pictures.novelty.tenant();
    let order = match steps {
        StepsRun::InTurn => wire::StepOrder::InTurn,
        StepsRun::AtOnce => wire::StepOrder::AtOnce,
    };
    let request = wire::ComposeRequest {
        picture_count: Some(task.num_pictures),
        picture_source: match task.has_uploads {
            true => wire::PictureSource::Uploads.into(),
            false => wire::PictureSource::Client.into(),
        },
        pictures: task.uploads(|png| pictures.file(png)),
        captions: order.into(),
        choices: order.into(),
        ..task.request()
    };
    // Ready before the time runs, as in the other way.
    let mut found: Vec<Vec<wire::ProvidedPicture>> = (0..task.num_pictures as usize)
        .map(|place| provided(task, place, pictures))
        .collect();
    let mut num_uploads = request.pictures.len();
    let mut names = vec![];
    let mut providing = JoinSet::new();
    let mut places = vec![];
    let (mut captions, mut chosen) = (BTreeMap::new(), BTreeMap::new());
    let begin = Instant::now();
    let mut timeline = Timeline::default();
    let mut ends = Ends {
        article: begin,
        places: begin,
        captions: begin,
    };
    let events = client.compose(call(request, &tenant)?).await;
    let mut events = events.map_err(explain)?.into_inner();
    let article = loop {
        let event = events.message().await.map_err(explain)?;
        let event = event.context("the events ended before the article")?;
        let article_id = event.article_id;
        let event = event.event.context("an event says nothing")?;
        timeline.note(begin.elapsed(), &event);
        match event {
            Event::ArticleDone(_) => ends.article = Instant::now(),
            Event::Locations(told) => {
                (ends.places, ends.captions) = (Instant::now(), Instant::now());
                places = told.locations;
            }
            Event::Caption(caption) => {
                ends.captions = Instant::now();
                captions.insert(caption.location, caption.text);
            }
            Event::CandidatesRequest(wanted) => {
                let place = places.iter().position(|place| *place == wanted.location);
                let found = place.and_then(|place| found.get_mut(place));
                let found = found.context("pictures are wanted for no place")?;
                let pictures = std::mem::take(found);
                num_uploads += pictures.len();
                let answer = wire::ProvideCandidatesRequest {
                    article_id,
                    location: wanted.location,
                    pictures,
                };
                let (mut client, answer) = (client.clone(), call(answer, &tenant)?);
                providing.spawn(async move { client.provide_candidates(answer).await });
            }
            Event::ImageSelected(selected) => {
                // An upload makes a group of its own: which one it is shows in its name.
                let picture = selected.picture.unwrap_or_default().id;
                let upload = names.iter().position(|name| *name == picture);
                let which = upload.map_or(selected.candidate, |upload| upload as u32);
                chosen.insert(selected.location, which);
            }
            Event::LocationDropped(dropped) => {
                bail!(
                    "place {} has no picture: {}",
                    dropped.location,
                    dropped.text
                )
            }
            Event::Error(failed) => bail!("no article: {}", failed.text),
            Event::Done(done) => break done.article.context("done without an article")?,
            Event::Accepted(accepted) => names = accepted.pictures,
            Event::TextDelta(_)
            | Event::SegmentClosed(_)
            | Event::Candidates(_)
            | Event::Progress(_)
            | Event::Warning(_) => {}
        }
    };
    let end = Instant::now();
    while let Some(provided) = providing.join_next().await {
        provided?.map_err(explain)?;
    }
    forget(&mut client, article.id, &tenant).await?;
    Ok(Run {
        written: Written {
            segments: article.segments.into_iter().map(|one| one.text).collect(),
            places,
            captions: captions.into_values().collect(),
            chosen: chosen.into_values().collect(),
        },
        timings: Timings {
            article: ends.article - begin,
            places: ends.places - ends.article,
            captions: ends.captions - ends.places,
            pictures: end - ends.captions,
        },
        num_uploads,
        timeline,
    })
}

/// What the client finds for a place.
fn provided(task: &Task, place: usize, pictures: &Pictures<'_>) -> Vec<wire::ProvidedPicture> {
    let found = task.candidates(place).map(|png| wire::ProvidedPicture {
        data: pictures.file(png).into(),
        ..Default::default()
    });
    found.collect()
}

/// Articles of this measurement are of no use to anybody.
pub(super) async fn forget(
    client: &mut Client,
    article_id: String,
    tenant: &str,
) -> anyhow::Result<()> {
    let forget = wire::DeleteArticleRequest { article_id };
    let forgotten = client.delete_article(call(forget, tenant)?).await;
    forgotten.map_err(explain)?;
    Ok(())
}
