//! Pictures' features on their way to the loop, which waits for none of them.

use std::sync::Arc;

use futures::future::BoxFuture;
use inkstone_engine::RequestId;
use tokio::{runtime::Handle, sync::mpsc, task::AbortHandle};

use super::{Command, Refusal};
use crate::executor::EncodedPicture;
pub use crate::feature_fetcher::{FetchError, PictureRef};

/// Gets features of pictures, off the loop's thread. It must come to an end by itself.
pub trait PictureSource: Send {
    /// All of `pictures`, in any order.
    fn fetch(
        &self,
        pictures: Vec<PictureRef>,
    ) -> BoxFuture<'static, Result<Vec<Arc<EncodedPicture>>, FetchError>>;
}

/// Begins fetches; what comes of one is a command to the loop.
pub(super) struct Fetches {
    pub(super) source: Box<dyn PictureSource>,
    pub(super) runtime: Handle,
    /// It does not keep the loop alive.
    pub(super) commands: mpsc::WeakSender<Command>,
}

impl Fetches {
    pub(super) fn begin(&self, request: RequestId, pictures: Vec<PictureRef>) -> AbortHandle {
        let fetch = self.source.fetch(pictures);
        let commands = self.commands.clone();
        let task = self.runtime.spawn(async move {
            let fetched = fetch.await;
            if let Some(commands) = commands.upgrade() {
                // Where the loop is gone nobody waits for pictures.
                let _ = commands.send(Command::Pictures(request, fetched)).await;
            }
        });
        task.abort_handle()
    }
}

/// What a request's owner can do about features that did not come.
pub(super) fn refusal_of(error: &FetchError) -> Refusal {
    match error {
        // Either way another vision worker can encode the picture again.
        FetchError::Missing { .. } | FetchError::Unavailable { .. } => Refusal::FeaturesMissing,
        FetchError::WrongSize { .. } => Refusal::Invalid,
    }
}
