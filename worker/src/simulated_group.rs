//! A language group that computes nothing (`worker --executor simulated`): an H100 for each rank, by its data sheet, under the
//! real leader and service.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use inkstone_interface::description::ModelDescription;

use crate::{
    executor::{
        Accelerator, Clock, CostModel, EncodedPicture, SimulatedExecutor, SimulatedSettings,
    },
    group::leader::{FetchError, PictureRef, PictureSource},
};

/// What steps of this model cost.
pub(crate) fn cost_model(description: &ModelDescription, world_size: usize) -> CostModel {
    CostModel::new(
        &description.config,
        &description.partial_lora,
        world_size,
        Accelerator::H100_SXM,
    )
}

/// The executor of a group, on the machine's clock.
pub(crate) fn executor(
    description: &ModelDescription,
    world_size: usize,
    num_blocks: usize,
    answer_tokens: Option<usize>,
) -> SimulatedExecutor {
    let settings = SimulatedSettings {
        cost: cost_model(description, world_size),
        vocab_size: description.config.vocab_size,
        num_blocks,
        answer_tokens,
    };
    SimulatedExecutor::new(settings, Clock::real())
}

/// Fetches nothing: nobody looks at the features.
pub(crate) struct NoPictures;

impl PictureSource for NoPictures {
    fn fetch(
        &self,
        _pictures: Vec<PictureRef>,
    ) -> BoxFuture<'static, Result<Vec<Arc<EncodedPicture>>, FetchError>> {
        async { Ok(Vec::new()) }.boxed()
    }
}
