//! Streams of answers: none goes on when its caller stopped to wait, and files go in pieces.

use bytes::Bytes;
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use inkstone_proto::v1 as wire;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use crate::{
    api::{error::to_status, grpc::deadline::Deadline},
    error::RequestError,
};

/// What streaming calls answer with.
pub(super) type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// Bytes of a piece of a file.
const CHUNK_BYTES: usize = 64 * 1024;

/// The answers until the caller's deadline, then the error that says so. The transport watches over it only until the first.
pub(super) fn until_deadline<T: Send + 'static>(
    answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    deadline: Option<Deadline>,
    request_id: &str,
) -> Answers<T> {
    let Some(Deadline(deadline)) = deadline else {
        return answers.boxed();
    };
    let late = to_status(&RequestError::DeadlineExceeded, request_id);
    let begin = Some((answers.boxed(), late));
    let bounded = stream::unfold(begin, move |state| async move {
        let (mut answers, late) = state?;
        // A stream that always has an answer ready gives a timer no chance.
        if Instant::now() >= deadline {
            return Some((Err(late), None));
        }
        match timeout_at(deadline, answers.next()).await {
            Ok(answer) => Some((answer?, Some((answers, late)))),
            Err(_) => Some((Err(late), None)),
        }
    });
    bounded.boxed()
}

/// A file in pieces, at least one; the first says what it is.
pub(super) fn chunks(
    media_type: String,
    file_name: String,
    data: Bytes,
) -> impl Iterator<Item = wire::FileChunk> {
    let num_bytes = data.len();
    let starts = (0..num_bytes.max(1)).step_by(CHUNK_BYTES);
    let mut head = Some((media_type, file_name));
    starts.map(move |start| {
        let (media_type, file_name) = head.take().unwrap_or_default();
        wire::FileChunk {
            media_type,
            file_name,
            data: data.slice(start..num_bytes.min(start + CHUNK_BYTES)),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;

    use super::*;

    #[test]
    fn a_file_comes_whole_and_says_once_what_it_is() {
        for num_bytes in [
            0,
            1,
            CHUNK_BYTES - 1,
            CHUNK_BYTES,
            CHUNK_BYTES + 1,
            3 * CHUNK_BYTES,
        ] {
            let file: Vec<u8> = (0..num_bytes).map(|at| (at % 251) as u8).collect();
            let pieces = chunks("image/png".into(), "a.png".into(), file.clone().into());
            let pieces: Vec<_> = pieces.collect();
            assert_eq!(pieces.len(), num_bytes.div_ceil(CHUNK_BYTES).max(1));
            assert_eq!(pieces[0].media_type, "image/png");
            assert_eq!(pieces[0].file_name, "a.png");
            let later = &pieces[1..];
            assert!(later.iter().all(|piece| piece.media_type.is_empty()
                && piece.file_name.is_empty()
                && !piece.data.is_empty()));
            assert!(pieces.iter().all(|piece| piece.data.len() <= CHUNK_BYTES));
            let whole: Vec<u8> = pieces.iter().flat_map(|piece| piece.data.clone()).collect();
            assert_eq!(whole, file);
        }
    }

    #[tokio::test]
    async fn a_stream_ends_at_its_deadline_and_says_why() {
        // One that waits for its next answer, and one that always has one.
        let waiting = stream::once(async { Ok(0) }).chain(stream::pending());
        let busy = stream::repeat_with(|| Ok(0));
        for answers in [waiting.boxed(), busy.boxed()] {
            let deadline = Deadline(Instant::now() + Duration::from_millis(20));
            let answers: Vec<_> = until_deadline(answers, Some(deadline), "id")
                .collect()
                .await;
            let (last, before) = answers.split_last().unwrap();
            assert!(before.iter().all(Result::is_ok));
            let late = last.as_ref().unwrap_err();
            assert_eq!(late.code(), Code::DeadlineExceeded);
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_by_itself_says_no_more() {
        let deadline = Deadline(Instant::now() + Duration::from_secs(60));
        for deadline in [None, Some(deadline)] {
            let answers = until_deadline(stream::iter([Ok(1), Ok(2)]), deadline, "id");
            let answers: Vec<_> = answers.map(|answer| answer.unwrap()).collect().await;
            assert_eq!(answers, [1, 2]);
        }
    }
}
