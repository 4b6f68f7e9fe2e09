//! One exchange of frames with all peers: writes and reads go on side by side on sockets that do not block, so that ranks
//! that all send much at the same time cannot wait for each other's buffers. A frame is a header of 16 bytes and f32 values,
//! little-endian throughout.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crate::collectives::{CollectiveError, Operation, Result, backoff::Backoff};

const _: () = assert!(
    cfg!(target_endian = "little"),
    "frames are copied as they are in memory"
);

const HEADER_BYTES: usize = 16;
/// No rank of ours sends more in one frame; a larger length is a broken peer, not an allocation to make.
const MAX_ELEMENTS: u64 = 1 << 30;

/// The exchange of one call: what goes to and comes from each peer.
pub(super) struct Exchange<'a> {
    rank: usize,
    header: Header,
    links: Vec<Link<'a>>,
}

struct Link<'a> {
    peer: usize,
    socket: &'a TcpStream,
    outgoing: Outgoing<'a>,
    incoming: Incoming<'a>,
    is_awaited: &'a AtomicBool,
}

struct Outgoing<'a> {
    header: [u8; HEADER_BYTES],
    body: &'a [u8],
    num_sent: usize,
}

struct Incoming<'a> {
    header: [u8; HEADER_BYTES],
    body: &'a mut Vec<f32>,
    wanted: Option<usize>,
    num_received: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    operation: u8,
    sequence: u32,
    num_elements: u64,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(rank: usize, operation: Operation, sequence: u32) -> Self {
        Self {
            rank,
            header: Header {
                operation: operation as u8,
                sequence,
                num_elements: 0,
            },
            links: Vec::new(),
        }
    }

    /// Sends `body` to `peer` and receives into `inbox`, where `wanted` elements are expected if that is known. `is_awaited` is set
    /// until both are done.
    pub(super) fn add(
        &mut self,
        (peer, is_awaited): (usize, &'a AtomicBool),
        socket: &'a TcpStream,
        body: &'a [f32],
        inbox: &'a mut Vec<f32>,
        wanted: Option<usize>,
    ) {
        let header = Header {
            num_elements: body.len() as u64,
            ..self.header
        };
        is_awaited.store(true, Ordering::Relaxed);
        self.links.push(Link {
            peer,
            socket,
            is_awaited,
            outgoing: Outgoing {
                header: header.to_bytes(),
                body: bytemuck::cast_slice(body),
                num_sent: 0,
            },
            incoming: Incoming {
                header: [0; HEADER_BYTES],
                body: inbox,
                wanted,
                num_received: 0,
            },
        });
    }

    /// Returns when every frame has gone out and come in.
    pub(super) fn run(&mut self, deadline: Duration, is_aborted: &AtomicBool) -> Result<()> {
        let mut backoff = Backoff::start();
        loop {
            let outcome = self.step();
            if is_aborted.load(Ordering::SeqCst) && !matches!(outcome, Ok(Step::Done)) {
                let reason = "by this rank".to_owned();
                return Err(CollectiveError::Aborted { reason });
            }
            match outcome? {
                Step::Done => return Ok(()),
                Step::Moved => backoff.progressed(),
                Step::Idle => backoff.pause(),
            }
            if backoff.waited() > deadline {
                return Err(self.late(backoff.waited(), deadline));
            }
        }
    }

    /// Moves what can be moved without waiting.
    fn step(&mut self) -> Result<Step> {
        let (mut is_done, mut has_moved) = (true, false);
        for link in &mut self.links {
            has_moved |= link.outgoing.advance(link.peer, link.socket)?;
            has_moved |= link
                .incoming
                .advance(link.peer, link.socket, self.rank, self.header)?;
            if link.is_done() {
                link.is_awaited.store(false, Ordering::Relaxed);
            } else {
                is_done = false;
            }
        }
        Ok(match (is_done, has_moved) {
            (true, _) => Step::Done,
            (false, true) => Step::Moved,
            (false, false) => Step::Idle,
        })
    }

    fn late(&self, waited: Duration, deadline: Duration) -> CollectiveError {
        let missing = self.links.iter().filter(|link| !link.is_done());
        CollectiveError::DeadlineExceeded {
            rank: self.rank,
            missing: missing.map(|link| link.peer).collect(),
            waited,
            deadline,
        }
    }
}

enum Step {
    Done,
    Moved,
    Idle,
}

impl Link<'_> {
    fn is_done(&self) -> bool {
        self.outgoing.is_done() && self.incoming.is_done()
    }
}

impl Outgoing<'_> {
    fn is_done(&self) -> bool {
        self.num_sent == HEADER_BYTES + self.body.len()
    }

    /// Writes as much as the socket takes and says whether it took any.
    fn advance(&mut self, peer: usize, mut socket: &TcpStream) -> Result<bool> {
        let num_sent_before = self.num_sent;
        while !self.is_done() {
            let written = if self.num_sent < HEADER_BYTES {
                let header = io::IoSlice::new(&self.header[self.num_sent..]);
                socket.write_vectored(&[header, io::IoSlice::new(self.body)])
            } else {
                socket.write(&self.body[self.num_sent - HEADER_BYTES..])
            };
            match moved(peer, written)? {
                Some(num_bytes) => self.num_sent += num_bytes,
                None => break,
            }
        }
        Ok(self.num_sent > num_sent_before)
    }
}

impl Incoming<'_> {
    /// The body has its length once the header is in.
    fn is_done(&self) -> bool {
        self.num_received >= HEADER_BYTES
            && self.num_received == HEADER_BYTES + size_of_val(self.body.as_slice())
    }

    /// Reads what is there, never beyond this frame, and says whether there was any.
    fn advance(
        &mut self,
        peer: usize,
        mut socket: &TcpStream,
        rank: usize,
        ours: Header,
    ) -> Result<bool> {
        let num_received_before = self.num_received;
        while !self.is_done() {
            let is_header = self.num_received < HEADER_BYTES;
            let space = if is_header {
                &mut self.header[self.num_received..]
            } else {
                let body = bytemuck::cast_slice_mut(self.body.as_mut_slice());
                &mut body[self.num_received - HEADER_BYTES..]
            };
            let Some(num_bytes) = moved(peer, socket.read(space))? else {
                break;
            };
            self.num_received += num_bytes;
            if is_header && self.num_received == HEADER_BYTES {
                self.accept_header(peer, rank, ours)?;
            }
        }
        Ok(self.num_received > num_received_before)
    }

    fn accept_header(&mut self, peer: usize, rank: usize, ours: Header) -> Result<()> {
        let theirs = Header::from_bytes(&self.header);
        if (theirs.operation, theirs.sequence) != (ours.operation, ours.sequence) {
            return Err(CollectiveError::OutOfStep {
                rank,
                peer,
                wanted: ours.name(),
                found: theirs.name(),
            });
        }
        let found = usize::try_from(theirs.num_elements).unwrap_or(usize::MAX);
        let wanted = self.wanted.unwrap_or(found);
        if found != wanted || theirs.num_elements > MAX_ELEMENTS {
            return Err(CollectiveError::LengthMismatch {
                rank,
                peer,
                wanted,
                found,
            });
        }
        self.body.resize(found, 0.0);
        Ok(())
    }
}

impl Header {
    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = self.operation;
        bytes[4..8].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[8..].copy_from_slice(&self.num_elements.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [operation, _, _, _, s0, s1, s2, s3, num_elements @ ..] = *bytes;
        Self {
            operation,
            sequence: u32::from_le_bytes([s0, s1, s2, s3]),
            num_elements: u64::from_le_bytes(num_elements),
        }
    }

    fn name(self) -> String {
        let operations = [
            Operation::AllReduce,
            Operation::AllGather,
            Operation::Barrier,
            Operation::SharePieces,
        ];
        let known = operations
            .iter()
            .find(|&&known| known as u8 == self.operation);
        match known {
            Some(operation) => format!("{operation:?} number {}", self.sequence),
            None => format!("unknown operation {}", self.operation),
        }
    }
}

/// Bytes moved, or none because the socket would block.
fn moved(peer: usize, outcome: io::Result<usize>) -> Result<Option<usize>> {
    let source = match outcome {
        Ok(0) => io::Error::from(io::ErrorKind::UnexpectedEof),
        Ok(num_bytes) => return Ok(Some(num_bytes)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(None),
        Err(error) => error,
    };
    Err(CollectiveError::PeerLost { peer, source })
}
