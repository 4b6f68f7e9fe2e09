//! Searches for pictures in the server's own source. What is found is put and kept with its article at once.

use std::time::Duration;

use bytes::Bytes;
use inkstone_composition::{
    MAX_CANDIDATES, Picture,
    article::{ArticleId, SearchRequest},
    steps::caption,
};
use inkstone_pictures::{FoundPicture, Search, SourceError};
use tokio::time::{timeout, timeout_at};

use super::{
    Caller, Composer, FoundImage, ProvidedPicture, SearchImages,
    kept::{KeptArticle, KeptPicture},
    metrics, pictures, step,
};
use crate::{article_error::ArticleError, error::RequestError, model::ServedModel};

impl Composer {
    /// A search within a composition: pictures that were found, put and kept; or why not, for its events.
    pub(super) async fn search_for(
        &self,
        kept: &KeptArticle,
        model: &ServedModel,
        search: SearchRequest,
        max_pictures: usize,
    ) -> Result<Vec<Picture>, String> {
        let search = Search {
            caption: search.caption,
            exclude: search.exclude,
            max_pictures,
        };
        let searching = async {
            let found = self.find(search).await?;
            self.put_and_keep(kept, model, found).await
        };
        match searching.await {
            Ok(kept) => Ok(kept.into_iter().map(|(kept, _)| kept.picture).collect()),
            Err(error) => Err(step::failure(&error, self.settings.search_time)),
        }
    }

    /// Asks the source.
    async fn find(&self, search: Search) -> Result<Vec<FoundPicture>, RequestError> {
        let source = self.source.as_ref().ok_or(ArticleError::NoPictureSource)?;
        let max_pictures = search.max_pictures;
        let limit = self.settings.search_time;
        let retry_after = self.dispatcher.timeouts.retry_after;
        let answer = timeout(limit, source.search(&search)).await;
        metrics::searched(match &answer {
            Ok(Ok(found)) if found.is_empty() => "NOTHING",
            Ok(Ok(_)) => "FOUND",
            Ok(Err(_)) => "FAILED",
            Err(_) => "TOO_SLOW",
        });
        match answer {
            Ok(Ok(mut found)) => {
                found.truncate(max_pictures);
                Ok(found)
            }
            Ok(Err(error)) => Err(source_failed(&error, retry_after)),
            Err(_) => {
                let (name, seconds) = (source.name(), limit.as_secs_f32());
                Err(ArticleError::SourceFailed {
                    message: format!("picture source {name} did not answer within {seconds} s"),
                    retry_after,
                }
                .into())
            }
        }
    }

    /// Puts what was found and keeps what is good of it, as far as there is room; with what the source says of each.
    async fn put_and_keep(
        &self,
        kept: &KeptArticle,
        model: &ServedModel,
        found: Vec<FoundPicture>,
    ) -> Result<Vec<(KeptPicture, String)>, RequestError> {
        let put = pictures::put_found(&self.dispatcher, model, found).await?;
        let mut good = vec![];
        let mut full = None;
        for (picture, caption) in put {
            match self.keep_pictures(kept, vec![picture.clone()]) {
                Ok(()) => good.push((picture, caption)),
                Err(error) => full = Some(error),
            }
        }
        match full {
            Some(error) if good.is_empty() => Err(error),
            _ => Ok(good),
        }
    }

    /// Keeps pictures with their article, all or none.
    pub(super) fn keep_pictures(
        &self,
        kept: &KeptArticle,
        pictures: Vec<KeptPicture>,
    ) -> Result<(), RequestError> {
        self.take_bytes(&kept.id, kept.new_bytes(&pictures))?;
        kept.keep(pictures);
        Ok(())
    }

    /// Answers a `CandidatesRequest` event of a composition whose pictures come from the client. At most four are used.
    pub(crate) async fn provide(
        &self,
        tenant: &Bytes,
        id: &ArticleId,
        place: usize,
        mut provided: Vec<ProvidedPicture>,
    ) -> Result<(), RequestError> {
        let kept = self.find_article(tenant, id)?;
        let not_wanted = || RequestError::from(ArticleError::PicturesNotWanted { place });
        if !kept.is_wanted(place) {
            return Err(not_wanted());
        }
        provided.truncate(MAX_CANDIDATES);
        let model = self.dispatcher.model()?;
        let dispatcher = &self.dispatcher;
        let put = pictures::put_provided(dispatcher, model, "pictures", provided, None).await?;
        self.keep_pictures(&kept, put.clone())?;
        let pictures = put.into_iter().map(|kept| kept.picture).collect();
        match kept.provide(place, pictures) {
            true => Ok(()),
            false => Err(not_wanted()),
        }
    }

    /// Pictures for a caption, from the server's source.
    pub(crate) async fn search_images(
        &self,
        caller: Caller,
        ask: SearchImages,
    ) -> Result<Vec<FoundImage>, RequestError> {
        match caller.deadline {
            Some(deadline) => timeout_at(deadline, self.search_for_caller(caller, ask))
                .await
                .unwrap_or(Err(RequestError::DeadlineExceeded)),
            None => self.search_for_caller(caller, ask).await,
        }
    }

    async fn search_for_caller(
        &self,
        caller: Caller,
        ask: SearchImages,
    ) -> Result<Vec<FoundImage>, RequestError> {
        let SearchImages {
            caption,
            article,
            max_pictures,
            mut exclude,
        } = ask;
        let caption = caption::clean(&caption);
        if caption.is_empty() {
            let description = "must say what the pictures should show, found nothing";
            return Err(RequestError::invalid("caption", description));
        }
        let kept = match &article {
            Some(id) => Some(self.find_article(&caller.tenant, id)?),
            None => None,
        };
        if let Some(kept) = &kept {
            let offered =
                kept.with_article(|article| Ok::<_, RequestError>(article.excluded().to_vec()))?;
            exclude.extend(offered);
        }
        let found = self.find(Search {
            caption,
            exclude,
            max_pictures,
        });
        let found = found.await?;
        let Some(kept) = kept else {
            return Ok(found.into_iter().map(unkept).collect());
        };
        let model = self.dispatcher.model()?;
        let put = self.put_and_keep(&kept, model, found).await?;
        let offered: Vec<Picture> = put.iter().map(|(kept, _)| kept.picture.clone()).collect();
        kept.with_article(|article| {
            article.exclude(&offered);
            Ok::<_, RequestError>(())
        })?;
        let put = put.into_iter().map(|(kept, caption)| FoundImage {
            picture: kept.picture,
            caption,
            data: None,
        });
        Ok(put.collect())
    }
}

fn source_failed(error: &SourceError, retry_after: Duration) -> RequestError {
    ArticleError::SourceFailed {
        message: error.to_string(),
        retry_after,
    }
    .into()
}

/// A picture that nobody keeps; its bytes go with it.
fn unkept(found: FoundPicture) -> FoundImage {
    let FoundPicture {
        index,
        data,
        media_type,
        caption,
        source,
        author,
        licence,
    } = found;
    let picture = Picture {
        id: pictures::picture_id(&blake3::hash(&data)),
        media_type,
        index: Some(index).filter(|index| !index.is_empty()),
        source,
        author,
        licence,
    };
    FoundImage {
        picture,
        caption,
        data: Some(data),
    }
}
