//! Composes articles: drives `inkstone_composition::procedure`, whose steps are ordinary requests of the dispatcher, keeps what
//! comes out for a time, and changes it as its owner says.
//!
//! `asked` is what callers ask and are told, in words of our own. Articles are their tenant's; another's is not found.

mod asked;

use std::sync::Arc;

use bytes::Bytes;
use inkstone_composition::{
    PictureId,
    article::{ArticleId, Proposal, Revision},
};
use inkstone_pictures::PictureSource;

pub(crate) use self::asked::{
    ArticleView, Caller, Change, ComposeAsk, ComposeEvents, EditEvents, EditUpdate, ExportFile,
    ExportFormat, FoundImage, ProvidedPicture, SearchImages, SelectImage, SelectedImage,
    StepParams, SuggestCaption, SuggestLocations, SuggestedCaption, SuggestedLocations,
    WantedSource,
};
use crate::{
    article_error::ArticleError, config::ComposeSettings, error::RequestError,
    request::dispatcher::Dispatcher,
};

/// The compositions and articles of this coordinator.
pub(crate) struct Composer {
    dispatcher: Arc<Dispatcher>,
    source: Option<Arc<dyn PictureSource>>,
    settings: ComposeSettings,
}

impl Composer {
    /// To be called within a runtime: what is kept too long is looked for from now on.
    pub(crate) fn new(
        dispatcher: Arc<Dispatcher>,
        source: Option<Arc<dyn PictureSource>>,
        settings: ComposeSettings,
    ) -> Arc<Self> {
        Arc::new(Self {
            dispatcher,
            source,
            settings,
        })
    }

    /// Begins a composition. Returns when its first step runs; what keeps that from running is the error, and nothing is kept
    /// then. From there on the composition is a task of its own.
    pub(crate) async fn compose(
        self: &Arc<Self>,
        caller: Caller,
        ask: ComposeAsk,
    ) -> Result<ComposeEvents, RequestError> {
        let _ = (caller, ask);
        Err(self.nothing().await)
    }

    /// The events of a composition from a number on.
    pub(crate) fn resume(
        self: &Arc<Self>,
        tenant: &Bytes,
        id: &ArticleId,
        from: u64,
    ) -> Result<ComposeEvents, RequestError> {
        let _ = (tenant, from);
        Err(ArticleError::NotFound { wanted: id.clone() }.into())
    }

    /// Ends a composition; what is there is kept. One that has ended stays as it is.
    pub(crate) fn cancel(&self, tenant: &Bytes, id: &ArticleId) -> Result<(), RequestError> {
        let _ = tenant;
        Err(ArticleError::NotFound { wanted: id.clone() }.into())
    }

    /// Answers a `CandidatesRequest` event of a composition whose pictures come from the client.
    pub(crate) async fn provide(
        &self,
        tenant: &Bytes,
        id: &ArticleId,
        place: usize,
        pictures: Vec<ProvidedPicture>,
    ) -> Result<(), RequestError> {
        let _ = (tenant, id, place, pictures);
        Err(self.nothing().await)
    }

    /// The article as it is now.
    pub(crate) fn article(
        &self,
        tenant: &Bytes,
        id: &ArticleId,
    ) -> Result<ArticleView, RequestError> {
        let _ = tenant;
        Err(ArticleError::NotFound { wanted: id.clone() }.into())
    }

    /// Forgets an article, and ends its composition.
    pub(crate) fn delete(&self, tenant: &Bytes, id: &ArticleId) -> Result<(), RequestError> {
        let _ = tenant;
        Err(ArticleError::NotFound { wanted: id.clone() }.into())
    }

    /// Media type and bytes of one of the article's pictures, candidates among them.
    pub(crate) fn picture(
        &self,
        tenant: &Bytes,
        id: &ArticleId,
        picture: &PictureId,
    ) -> Result<(String, Bytes), RequestError> {
        let _ = (tenant, picture);
        Err(ArticleError::NotFound { wanted: id.clone() }.into())
    }

    /// The article as a file.
    pub(crate) async fn export(
        &self,
        tenant: &Bytes,
        id: &ArticleId,
        format: ExportFormat,
    ) -> Result<ExportFile, RequestError> {
        let _ = (tenant, id, format);
        Err(self.nothing().await)
    }

    /// Asks the model for a new text; the article changes with [`apply_edit`](Self::apply_edit) only. Returns when the step
    /// runs. Dropping the events before their end closes the edit.
    pub(crate) async fn edit(
        self: &Arc<Self>,
        caller: Caller,
        id: &ArticleId,
        revision: Revision,
        proposal: Proposal,
    ) -> Result<EditEvents, RequestError> {
        let _ = (caller, id, revision, proposal);
        Err(self.nothing().await)
    }

    /// Puts the open edit's text, or the user's version of it, into the article.
    pub(crate) fn apply_edit(
        &self,
        tenant: &Bytes,
        id: &ArticleId,
        revision: Revision,
        text: Option<String>,
    ) -> Result<ArticleView, RequestError> {
        let _ = (tenant, revision, text);
        Err(ArticleError::NotFound { wanted: id.clone() }.into())
    }

    /// Discards the open edit.
    pub(crate) fn cancel_edit(&self, tenant: &Bytes, id: &ArticleId) -> Result<(), RequestError> {
        let _ = tenant;
        Err(ArticleError::NotFound { wanted: id.clone() }.into())
    }

    /// Changes the article by hand.
    pub(crate) async fn change(
        &self,
        caller: Caller,
        id: &ArticleId,
        revision: Revision,
        change: Change,
    ) -> Result<ArticleView, RequestError> {
        let _ = (caller, id, revision, change);
        Err(self.nothing().await)
    }

    /// After which segments pictures fit.
    pub(crate) async fn suggest_locations(
        &self,
        caller: Caller,
        ask: SuggestLocations,
    ) -> Result<SuggestedLocations, RequestError> {
        let _ = (caller, ask);
        Err(self.nothing().await)
    }

    /// What a picture after a segment should show.
    pub(crate) async fn suggest_caption(
        &self,
        caller: Caller,
        ask: SuggestCaption,
    ) -> Result<SuggestedCaption, RequestError> {
        let _ = (caller, ask);
        Err(self.nothing().await)
    }

    /// Which of some pictures fits after a segment.
    pub(crate) async fn select_image(
        &self,
        caller: Caller,
        ask: SelectImage,
    ) -> Result<SelectedImage, RequestError> {
        let _ = (caller, ask);
        Err(self.nothing().await)
    }

    /// Pictures for a caption, from the server's source.
    pub(crate) async fn search_images(
        &self,
        caller: Caller,
        ask: SearchImages,
    ) -> Result<Vec<FoundImage>, RequestError> {
        let _ = (caller, ask);
        Err(self.nothing().await)
    }

    async fn nothing(&self) -> RequestError {
        let _ = (&self.source, &self.settings);
        let _ = self.dispatcher.model().is_ok();
        std::future::ready(ArticleError::NoPictureSource.into()).await
    }
}
