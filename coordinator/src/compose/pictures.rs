//! Brings pictures to vision workers once, when they come, so that the steps that show them neither hash nor upload them again.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use inkstone_composition::{Picture, PictureId};
use inkstone_pictures::{FoundPicture, header::PictureFormat};
use tokio::time::Instant;

use super::{ProvidedPicture, kept::KeptPicture};
use crate::{
    cluster_view::Patience,
    error::{FieldViolation, RequestError},
    model::ServedModel,
    request::{
        dispatcher::Dispatcher,
        pictures::{self as placing, KnownPicture, PutOptions, composed_hd_num},
    },
};

/// A picture that came, and is not known to be one yet.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    /// Where it stands in the call.
    pub(super) path: String,
    pub(super) data: Bytes,
}

impl Upload {
    /// Pictures of one field.
    pub(super) fn of(field: &str, pictures: impl IntoIterator<Item = Bytes>) -> Vec<Self> {
        let pictures = pictures.into_iter().enumerate();
        pictures
            .map(|(index, data)| Self {
                path: format!("{field}[{index}]"),
                data,
            })
            .collect()
    }
}

/// What a picture is called: the digest of its bytes.
pub(super) fn picture_id(content: &blake3::Hash) -> PictureId {
    PictureId::new(content.to_hex().as_str())
}

/// By its first bytes; whether it can be decoded is for vision workers to find out.
pub(super) fn media_type(data: &[u8]) -> &'static str {
    PictureFormat::sniff(data).map_or("application/octet-stream", PictureFormat::media_type)
}

/// Checks the sizes of pictures and hashes them.
pub(super) async fn hash(
    uploads: Vec<Upload>,
    max_bytes: usize,
) -> Result<Vec<placing::Picture>, RequestError> {
    let mut faults = vec![];
    for Upload { path, data } in &uploads {
        let num_bytes = data.len();
        if !(1..=max_bytes).contains(&num_bytes) {
            let description = format!("must have 1 to {max_bytes} bytes, found {num_bytes}");
            faults.push(FieldViolation::new(path, description));
        }
    }
    if !faults.is_empty() {
        return Err(RequestError::Invalid(faults));
    }
    if uploads.is_empty() {
        return Ok(vec![]);
    }
    let hashing = tokio::task::spawn_blocking(move || {
        let uploads = uploads.into_iter();
        uploads
            .map(|Upload { path, data }| placing::Picture {
                content: blake3::hash(&data),
                path,
                data,
                known: None,
            })
            .collect()
    });
    hashing
        .await
        .map_err(|error| RequestError::Internal(format!("hashing pictures: {error}")))
}

/// Puts pictures, all at once; one that is there twice is put once. All that are refused are named.
pub(super) async fn put(
    dispatcher: &Dispatcher,
    model: &ServedModel,
    pictures: Vec<placing::Picture>,
    deadline: Option<Instant>,
) -> Result<Vec<Arc<KnownPicture>>, RequestError> {
    let mut distinct: Vec<placing::Picture> = vec![];
    let order: Vec<usize> = pictures
        .into_iter()
        .map(|picture| {
            let same = distinct
                .iter()
                .position(|known| known.content == picture.content);
            same.unwrap_or_else(|| {
                distinct.push(picture);
                distinct.len() - 1
            })
        })
        .collect();
    let timeouts = &dispatcher.timeouts;
    let options = PutOptions {
        hd_num: composed_hd_num(&model.description.picture),
        encode_soon: true,
        deadline,
        patience: Patience::of_new(Instant::now() + timeouts.first_group),
        retry_after: timeouts.retry_after,
    };
    let placed = placing::put_all(&dispatcher.cluster, model, &distinct, options).await?;
    let known = distinct.into_iter().zip(placed);
    let known: Vec<_> = known
        .map(|(picture, placed)| Arc::new(KnownPicture::new(picture, placed)))
        .collect();
    Ok(order.into_iter().map(|at| known[at].clone()).collect())
}

/// Puts what a search found. What is no picture, or too large, is left out; an error only where that is true of none and something
/// else kept them from being put.
pub(super) async fn put_found(
    dispatcher: &Dispatcher,
    model: &ServedModel,
    found: Vec<FoundPicture>,
) -> Result<Vec<(KeptPicture, String)>, RequestError> {
    let max_bytes = dispatcher.limits.max_picture_bytes;
    let puts = found.into_iter().map(|found| async move {
        let upload = Upload {
            path: found.index.clone(),
            data: found.data.clone(),
        };
        let hashed = hash(vec![upload], max_bytes).await?;
        let known = put(dispatcher, model, hashed, None).await?;
        let known = known.into_iter().next();
        Ok::<_, RequestError>(known.map(|known| of_found(found, known)))
    });
    let mut good = vec![];
    let mut failed = None;
    for put in join_all(puts).await {
        match put {
            Ok(kept) => good.extend(kept),
            Err(error @ (RequestError::Invalid(_) | RequestError::PictureRefused(_))) => {
                tracing::warn!(%error, "a picture that was found is left out");
            }
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if good.is_empty() => Err(error),
        _ => Ok(good),
    }
}

fn of_found(found: FoundPicture, known: Arc<KnownPicture>) -> (KeptPicture, String) {
    let FoundPicture {
        index,
        data: _,
        media_type,
        caption,
        source,
        author,
        licence,
    } = found;
    let picture = Picture {
        id: picture_id(&known.content),
        media_type,
        index: Some(index).filter(|index| !index.is_empty()),
        source,
        author,
        licence,
    };
    (KeptPicture { picture, known }, caption)
}

/// Puts what the client found or made.
pub(super) async fn put_provided(
    dispatcher: &Dispatcher,
    model: &ServedModel,
    field: &str,
    provided: Vec<ProvidedPicture>,
    deadline: Option<Instant>,
) -> Result<Vec<KeptPicture>, RequestError> {
    let uploads = provided.iter().enumerate();
    let uploads = uploads.map(|(index, provided)| Upload {
        path: format!("{field}[{index}].data"),
        data: provided.data.clone(),
    });
    let hashed = hash(uploads.collect(), dispatcher.limits.max_picture_bytes).await?;
    let known = put(dispatcher, model, hashed, deadline).await?;
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let kept = provided.into_iter().zip(known).map(|(provided, known)| {
        let picture = Picture {
            id: picture_id(&known.content),
            media_type: media_type(&provided.data).to_owned(),
            index: given(provided.index),
            source: given(provided.source),
            author: given(provided.author),
            licence: given(provided.licence),
        };
        KeptPicture { picture, known }
    });
    Ok(kept.collect())
}
