//! `VisionService`: uploads in, features out, in pieces.

use std::{
    pin::Pin,
    sync::{Arc, RwLock},
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use inkstone_proto::worker::v1::{
    DescribeVisionRequest, DescribeVisionResponse, FeaturesHeader, GetFeaturesRequest,
    GetFeaturesResponse, PictureHeader, PutPictureRequest, PutPictureResponse,
    get_features_response, put_picture_request::Part, vision_service_server::VisionService,
};
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    executor::PictureDigest,
    vision::{VisionError, VisionWorker},
};

/// Bytes of features in one message.
const CHUNK_BYTES: usize = 1 << 20;

/// See the module's text. Cheap to clone; it answers UNAVAILABLE while there is no encoder, and takes no new pictures while it drains.
#[derive(Clone, Default)]
pub struct VisionServer {
    stage: Arc<RwLock<Stage>>,
    calls: TaskTracker,
}

#[derive(Default)]
enum Stage {
    #[default]
    Absent,
    Serving(Arc<VisionWorker>),
    Draining(Arc<VisionWorker>),
}

impl VisionServer {
    /// Takes pictures from now on.
    pub fn start(&self, worker: Arc<VisionWorker>) {
        self.set_stage(Stage::Serving(worker));
    }

    /// Takes no new pictures from now on, and waits until nobody waits for features. Not bounded.
    pub async fn drain(&self) {
        if let Ok(worker) = self.worker() {
            self.set_stage(Stage::Draining(worker));
        }
        self.calls.close();
        self.calls.wait().await;
        self.calls.reopen();
    }

    /// Answers that there is no encoder (any more).
    pub fn clear(&self) {
        self.set_stage(Stage::Absent);
    }

    fn set_stage(&self, stage: Stage) {
        *self.stage.write().expect("nobody panics with the stage") = stage;
    }

    /// The encoder, while there is one.
    fn worker(&self) -> Result<Arc<VisionWorker>, Status> {
        match &*self.stage.read().expect("nobody panics with the stage") {
            Stage::Serving(worker) | Stage::Draining(worker) => Ok(Arc::clone(worker)),
            Stage::Absent => Err(Status::unavailable("this process encodes no pictures now")),
        }
    }

    /// The encoder, while it takes pictures.
    fn taking_worker(&self) -> Result<Arc<VisionWorker>, Status> {
        match &*self.stage.read().expect("nobody panics with the stage") {
            Stage::Draining(_) => Err(Status::unavailable("the picture encoder is stopping")),
            Stage::Serving(worker) => Ok(Arc::clone(worker)),
            Stage::Absent => Err(Status::unavailable("this process encodes no pictures now")),
        }
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
            description_json: self.worker()?.description().to_json(),
        }))
    }

    async fn put_picture(
        &self,
        request: Request<Streaming<PutPictureRequest>>,
    ) -> Result<Response<PutPictureResponse>, Status> {
        let _open = self.calls.token();
        let worker = self.taking_worker()?;
        let mut stream = request.into_inner();
        let Some(Part::Header(header)) = stream.message().await?.and_then(|request| request.part)
        else {
            return Err(Status::invalid_argument("an upload starts with a header"));
        };
        let file = receive(&mut stream, &header, worker.max_picture_bytes()).await?;
        let hd_num = (header.hd_num > 0).then_some(header.hd_num);
        let accepted = match header.encode_soon {
            true => worker.put_expected(file, hd_num).await,
            false => worker.put(file, hd_num).await,
        };
        let accepted = accepted.map_err(put_status)?;
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
        let open = self.calls.token();
        let bytes = match self.worker()?.features(digest).await {
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
        Ok(Response::new(Box::pin(parts.map(move |part| {
            let _until_sent = &open;
            Ok(GetFeaturesResponse { part: Some(part) })
        }))))
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
