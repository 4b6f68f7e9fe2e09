//! An article in the demo's order of work: one question after the other, nothing kept between them.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use inkstone_proto::v1::{self as wire, compose_event::Event};

use super::{
    Client, Run, Task, Written, call, greedy, picture, pictures::Novelty, pipeline::forget,
    report::Timings, timeline::Timeline,
};
use crate::commands::client::explain;

pub(super) async fn write(
    mut client: Client,
    task: &Task,
    novelty: &Novelty,
) -> anyhow::Result<Run> {
    let (segments, article) = article(&mut client, task, novelty).await?;
    let (places, placing) = locations(&mut client, task, &segments, novelty).await?;
    let mut num_uploads = 2 * task.uploads(<[u8]>::to_vec).len();
    let mut captions: Vec<wire::Caption> = vec![];
    let mut captioning = Duration::ZERO;
    // Of the user's own pictures nothing is asked.
    for location in places.iter().filter(|_| !task.has_uploads) {
        let question = wire::SuggestCaptionRequest {
            params: Some(params(task)),
            segments: segments.clone(),
            location: *location,
            earlier: captions.clone(),
        };
        let question = call(question, &novelty.tenant())?;
        let begin = Instant::now();
        let answer = client.suggest_caption(question).await.map_err(explain)?;
        captioning += begin.elapsed();
        let caption = answer.into_inner().caption;
        captions.push(caption.context("an answer without a caption")?);
    }
    let mut chosen: Vec<u32> = vec![];
    let mut choosing = Duration::ZERO;
    for (number, location) in places.iter().enumerate() {
        let unused: Vec<u32> = (0..task.num_pictures)
            .filter(|upload| task.has_uploads && !chosen.contains(upload))
            .collect();
        // The last one is taken without a question.
        if let [last] = unused[..] {
            chosen.push(last);
            continue;
        }
        // The pictures of earlier places stand in the question too, and are sent and encoded with it again.
        let earlier = places.iter().zip(&chosen).enumerate();
        let earlier = earlier.map(|(place, (location, candidate))| {
            let png = match task.has_uploads {
                true => Some(task.upload(*candidate as usize)),
                false => task.candidates(place).nth(*candidate as usize),
            };
            let png = png.context("a choice is no candidate")?;
            anyhow::Ok(wire::PlacedImage {
                location: *location,
                picture: Some(picture(novelty.picture(png))),
            })
        });
        let candidates: Vec<&[u8]> = match task.has_uploads {
            true => unused.iter().map(|at| task.upload(*at as usize)).collect(),
            false => task.candidates(number).collect(),
        };
        let question = wire::SelectImageRequest {
            params: Some(params(task)),
            segments: segments.clone(),
            location: *location,
            earlier: earlier.collect::<anyhow::Result<_>>()?,
            candidates: candidates
                .into_iter()
                .map(|png| picture(novelty.picture(png)))
                .collect(),
        };
        num_uploads += question.earlier.len() + question.candidates.len();
        let question = call(question, &novelty.tenant())?;
        let begin = Instant::now();
        let answer = client.select_image(question).await.map_err(explain)?;
        choosing += begin.elapsed();
        let candidate = answer.into_inner().candidate;
        let upload = unused.get(candidate as usize).copied();
        chosen.push(upload.unwrap_or(candidate));
    }
    Ok(Run {
        written: Written {
            segments,
            places,
            captions: captions.into_iter().map(|caption| caption.text).collect(),
            chosen,
        },
        timings: Timings {
            article,
            places: placing,
            captions: captioning,
            pictures: choosing,
        },
        num_uploads,
        timeline: Timeline::default(),
    })
}

/// The text alone.
async fn article(
    client: &mut Client,
    task: &Task,
    novelty: &Novelty,
) -> anyhow::Result<(Vec<String>, Duration)> {
    let tenant = novelty.tenant();
    let request = wire::ComposeRequest {
        pictures: task.uploads(|png| novelty.picture(png)),
        ..task.request()
    };
    let request = call(request, &tenant)?;
    let begin = Instant::now();
    let events = client.compose(request).await;
    let mut events = events.map_err(explain)?.into_inner();
    let article = loop {
        let event = events.message().await.map_err(explain)?;
        let event = event.context("the events ended before the article")?;
        match event.event.context("an event says nothing")? {
            Event::Done(done) => break done.article.context("done without an article")?,
            Event::Error(failed) => bail!("no article: {}", failed.text),
            _ => {}
        }
    };
    let took = begin.elapsed();
    forget(client, article.id, &tenant).await?;
    let segments = article.segments.into_iter().map(|one| one.text);
    Ok((segments.collect(), took))
}

async fn locations(
    client: &mut Client,
    task: &Task,
    segments: &[String],
    novelty: &Novelty,
) -> anyhow::Result<(Vec<u32>, Duration)> {
    let question = wire::SuggestLocationsRequest {
        params: Some(params(task)),
        segments: segments.to_vec(),
        count: Some(task.num_pictures),
        pictures: task.uploads(|png| novelty.picture(png)),
    };
    let question = call(question, &novelty.tenant())?;
    let begin = Instant::now();
    let answer = client.suggest_locations(question).await.map_err(explain)?;
    let took = begin.elapsed();
    let locations = answer.into_inner().locations;
    let locations = locations.context("an answer without places")?;
    Ok((locations.locations, took))
}

fn params(task: &Task) -> wire::StepParams {
    wire::StepParams {
        sampling: Some(greedy()),
        seed: Some(task.seed),
        ..Default::default()
    }
}
