//! `VisionService`: uploads in, features out, in pieces.

use std::{pin::Pin, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use inkstone_proto::worker::v1::{
    DescribeVisionRequest, DescribeVisionResponse, FeaturesHeader, GetFeaturesRequest,
    GetFeaturesResponse, PictureHeader, PutPictureRequest, PutPictureResponse,
    get_features_response, put_picture_request::Part, vision_service_server::VisionService,
};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    executor::PictureDigest,
    vision::{VisionError, VisionWorker},
};

/// Bytes of features in one message.
const CHUNK_BYTES: usize = 1 << 20;

/// See the module's text.
pub struct VisionServer {
    worker: Arc<VisionWorker>,
}

impl VisionServer {
    /// Serves `worker`.
    pub fn new(worker: Arc<VisionWorker>) -> Self {
        Self { worker }
    }
}

#[tonic::async_trait]
impl VisionService for VisionServer {
    type GetFeaturesStream =
        Pin<Box<dyn Stream<Item = Result<GetFeaturesResponse, Status>> + Send>>;

    async fn describe_vision(
        &self,
        _: Request<DescribeVisionRequest>,
    ) -> Result<Response<DescribeVisionResponse>, Status> {
        Ok(Response::new(DescribeVisionResponse {
            description_json: self.worker.description().to_json(),
        }))
    }

    async fn put_picture(
        &self,
        request: Request<Streaming<PutPictureRequest>>,
    ) -> Result<Response<PutPictureResponse>, Status> {
        let mut stream = request.into_inner();
        let Some(Part::Header(header)) = stream.message().await?.and_then(|request| request.part)
        else {
            return Err(Status::invalid_argument("an upload starts with a header"));
        };
        let file = receive(&mut stream, &header, self.worker.max_picture_bytes()).await?;
        let hd_num = (header.hd_num > 0).then_some(header.hd_num);
        let accepted = self.worker.put(file, hd_num).await.map_err(put_status)?;
        Ok(Response::new(PutPictureResponse {
            digest: Bytes::copy_from_slice(&accepted.digest.0),
            num_tokens: u32::try_from(accepted.num_tokens)
                .map_err(|_| Status::internal("too many tokens"))?,
            width: accepted.width,
            height: accepted.height,
        }))
    }

    async fn get_features(
        &self,
        request: Request<GetFeaturesRequest>,
    ) -> Result<Response<Self::GetFeaturesStream>, Status> {
        let digest = PictureDigest::try_from(&request.into_inner().digest[..])
            .map_err(Status::invalid_argument)?;
        let bytes = match self.worker.features(digest).await {
            None => {
                return Err(Status::not_found(format!(
                    "picture {digest} is not here; put it again"
                )));
            }
            Some(Err(reason)) => {
                return Err(Status::internal(format!(
                    "picture {digest} was not encoded: {reason}"
                )));
            }
            Some(Ok(bytes)) => bytes,
        };
        let header = get_features_response::Part::Header(FeaturesHeader {
            num_bytes: bytes.len() as u64,
        });
        let parts = stream::once(async { header }).chain(stream::iter(chunks(bytes)));
        Ok(Response::new(Box::pin(
            parts.map(|part| Ok(GetFeaturesResponse { part: Some(part) })),
        )))
    }
}

/// Views of `bytes`, nothing copied.
fn chunks(bytes: Bytes) -> impl Iterator<Item = get_features_response::Part> {
    (0..bytes.len()).step_by(CHUNK_BYTES).map(move |start| {
        let end = bytes.len().min(start + CHUNK_BYTES);
        get_features_response::Part::Chunk(bytes.slice(start..end))
    })
}

async fn receive(
    stream: &mut Streaming<PutPictureRequest>,
    header: &PictureHeader,
    max_bytes: usize,
) -> Result<Bytes, Status> {
    let too_large = |found: u64| {
        Status::invalid_argument(format!(
            "the picture has {found} bytes, the limit is {max_bytes}"
        ))
    };
    let wanted = usize::try_from(header.num_bytes).map_err(|_| too_large(header.num_bytes))?;
    if wanted > max_bytes {
        return Err(too_large(header.num_bytes));
    }
    let mut file = BytesMut::with_capacity(wanted);
    while let Some(request) = stream.message().await? {
        match request.part {
            Some(Part::Chunk(chunk)) if file.len() + chunk.len() <= wanted => {
                file.extend_from_slice(&chunk)
            }
            Some(Part::Chunk(_)) => {
                return Err(Status::invalid_argument(
                    "the upload is longer than its header says",
                ));
            }
            Some(Part::Header(_)) | None => {
                return Err(Status::invalid_argument("after the header come chunks"));
            }
        }
    }
    if file.len() != wanted {
        return Err(Status::invalid_argument(format!(
            "the header says {wanted} bytes, the upload had {}",
            file.len()
        )));
    }
    Ok(file.freeze())
}

fn put_status(error: VisionError) -> Status {
    let message = error.to_string();
    match error {
        VisionError::Picture(_) | VisionError::Geometry(_) => Status::invalid_argument(message),
        VisionError::QueueFull { .. } => Status::resource_exhausted(message),
        VisionError::NotServing(_) => Status::unavailable(message),
    }
}
