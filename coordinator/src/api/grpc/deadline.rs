//! The caller's deadline. The server's own handling of `grpc-timeout` ends with the first byte of an answer, so for
//! streams we read the header ourselves, when the call arrives and not when its last picture is in.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Request, Status};

const HEADER: &str = "grpc-timeout";

/// How much earlier than the transport we act on a deadline: the transport would report it as CANCELLED.
const MARGIN: Duration = Duration::from_millis(5);

/// When the caller stops to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(pub(crate) Instant);

/// An interceptor that notes the deadline with the call. Calls without one, or with one that cannot be read, have none.
pub(crate) fn note_deadline(mut call: Request<()>) -> Result<Request<()>, Status> {
    let header = call.metadata().get(HEADER);
    let timeout = header.and_then(|value| parse_timeout(value.to_str().ok()?));
    let deadline = timeout.and_then(|left| Instant::now().checked_add(left.saturating_sub(MARGIN)));
    if let Some(deadline) = deadline {
        call.extensions_mut().insert(Deadline(deadline));
    }
    Ok(call)
}

/// Reads `TimeoutValue TimeoutUnit` of the gRPC protocol: at most eight digits and a letter.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_digits_and_a_unit() {
        for (text, wanted) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("250m", Some(Duration::from_millis(250))),
            ("3u", Some(Duration::from_micros(3))),
            ("4n", Some(Duration::from_nanos(4))),
            ("123456789S", None),
            ("+5S", None),
            ("S", None),
            ("5", None),
            ("", None),
            ("5é", None),
        ] {
            assert_eq!(parse_timeout(text), wanted, "{text}");
        }
    }
}
