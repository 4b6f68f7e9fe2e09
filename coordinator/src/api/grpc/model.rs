//! `inkstone.v1.ModelService`.

use std::sync::Arc;

use inkstone_interface::{description::Variant, tokenizer::Trust};
use inkstone_proto::v1 as wire;
use tonic::{Request, Response, Status};

use crate::{
    api::error::to_status, error::RequestError, model::ServedModel, request::dispatcher::Dispatcher,
};

/// The service over a dispatcher.
pub(crate) struct ModelService {
    dispatcher: Arc<Dispatcher>,
}

impl ModelService {
    pub(crate) fn new(dispatcher: Arc<Dispatcher>) -> Self {
        Self { dispatcher }
    }

    async fn tokenize(&self, call: wire::TokenizeRequest) -> Result<Vec<u32>, RequestError> {
        let limit = self.dispatcher.limits.max_text_bytes;
        let num_bytes = call.text.len();
        if num_bytes > limit {
            let description = format!("has {num_bytes} bytes, limit is {limit}");
            return Err(RequestError::invalid("text", description));
        }
        let model = self.dispatcher.model()?.clone();
        let encode = move || encode(&model, &call);
        let ids = tokio::task::spawn_blocking(encode).await;
        ids.map_err(|error| RequestError::Internal(format!("tokenising: {error}")))
    }
}

#[tonic::async_trait]
impl wire::model_service_server::ModelService for ModelService {
    async fn get_model(
        &self,
        _: Request<wire::GetModelRequest>,
    ) -> Result<Response<wire::GetModelResponse>, Status> {
        let model = self.dispatcher.model();
        let model = model.map_err(|error| to_status(&error, ""))?;
        Ok(Response::new(describe(model)))
    }

    async fn tokenize(
        &self,
        call: Request<wire::TokenizeRequest>,
    ) -> Result<Response<wire::TokenizeResponse>, Status> {
        let ids = self.tokenize(call.into_inner()).await;
        let token_ids = ids.map_err(|error| to_status(&error, ""))?;
        Ok(Response::new(wire::TokenizeResponse { token_ids }))
    }
}

fn encode(model: &ServedModel, call: &wire::TokenizeRequest) -> Vec<u32> {
    let trust = if call.allow_markers {
        Trust::Trusted
    } else {
        Trust::Untrusted
    };
    let bos = call.add_bos.then(|| model.tokenizer.bos_id());
    let ids = model.tokenizer.encode(&call.text, trust);
    bos.into_iter().chain(ids).collect()
}

fn describe(model: &ServedModel) -> wire::GetModelResponse {
    let description = &model.description;
    let geometry = &description.picture;
    let fixed_layout = match geometry.hd {
        Some(_) => None,
        None => geometry.layout(geometry.side, geometry.side, 1).ok(),
    };
    wire::GetModelResponse {
        name: description.name.clone(),
        variant: match description.variant {
            Variant::Xc2 => wire::Variant::Xcomposer2,
            Variant::Xc2FourKhd => wire::Variant::Xcomposer24khd,
            Variant::Xc2d5 => wire::Variant::Xcomposer2d5,
        }
        .into(),
        max_prompt_tokens: to_u32(model.max_prompt_tokens),
        max_sequence_tokens: to_u32(model.max_sequence_tokens),
        vocab_size: to_u32(description.config.vocab_size),
        stop_token_ids: model.stop_token_ids.to_vec(),
        picture_side: geometry.side,
        picture_tokens: fixed_layout.map_or(0, |layout| to_u32(layout.num_tokens)),
    }
}

/// Sizes of models are far below; a description that says otherwise is capped rather than wrapped.
fn to_u32(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}
