//! How processes become a group. Every member but rank 0 calls rank 0 and says who it is and at which port it can be called
//! itself; once all are there, rank 0 tells everyone everyone's address; then each member calls those between rank 0 and
//! itself. The one called checks group, epoch, world size and protocol version, and answers with a verdict, so that both ends know
//! why a member is refused. A refused member does not disturb the group: those who belong may still come.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    thread,
    time::{Duration, Instant},
};

use super::TcpMember;
use crate::collectives::HandshakeError;

const MAGIC: [u8; 4] = *b"INKC";
const PROTOCOL_VERSION: u32 = 1;
const HELLO_BYTES: usize = 44;
const VERDICT_BYTES: usize = 20;
const ADDRESS_BYTES: usize = 18;

/// How long a caller may take to say who it is: whoever calls and stays silent must not hold up the others for long.
const HELLO_DEADLINE: Duration = Duration::from_secs(1);
/// Between two looks at a listener, or two calls to one who does not listen yet.
const NAP: Duration = Duration::from_millis(2);

type Result<T> = std::result::Result<T, HandshakeError>;
type Peers = Vec<Option<TcpStream>>;

/// Rank 0's part. Returns the sockets to the others, by rank.
pub(super) fn lead(listener: &TcpListener, member: &TcpMember) -> Result<Peers> {
    let clock = Clock::start(member.join_deadline);
    let callers = accept_all(listener, member, 1..member.world_size, &clock)?;
    let addresses = address_list(member.world_size, &callers)?;
    let mut peers: Peers = (0..member.world_size).map(|_| None).collect();
    for (rank, caller) in callers {
        (&caller.socket).write_all(&addresses)?;
        peers[rank] = Some(caller.socket);
    }
    finish(peers)
}

/// The part of every other rank. Returns the sockets to the others, by rank.
pub(super) fn join(leader: impl ToSocketAddrs, member: &TcpMember) -> Result<Peers> {
    let clock = Clock::start(member.join_deadline);
    let socket = call(leader, &clock, 0)?;
    let listener = TcpListener::bind((socket.local_addr()?.ip(), 0))?;
    introduce(&socket, member, listener.local_addr()?.port(), &clock, 0)?;
    let addresses = read_addresses(&socket, member.world_size, &clock)?;

    let mut peers: Peers = (0..member.world_size).map(|_| None).collect();
    peers[0] = Some(socket);
    for rank in 1..member.rank {
        let socket = call(addresses[rank], &clock, rank)?;
        introduce(&socket, member, 0, &clock, rank)?;
        peers[rank] = Some(socket);
    }
    let callers = accept_all(
        &listener,
        member,
        member.rank + 1..member.world_size,
        &clock,
    )?;
    for (rank, caller) in callers {
        peers[rank] = Some(caller.socket);
    }
    finish(peers)
}

/// From here on the sockets belong to the exchanges, which never block in them.
fn finish(peers: Peers) -> Result<Peers> {
    for socket in peers.iter().flatten() {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
    }
    Ok(peers)
}

struct Caller {
    socket: TcpStream,
    /// Where others can call it.
    address: SocketAddr,
}

/// Waits until a member of each rank in `ranks` has called and been found to belong.
fn accept_all(
    listener: &TcpListener,
    member: &TcpMember,
    ranks: std::ops::Range<usize>,
    clock: &Clock,
) -> Result<BTreeMap<usize, Caller>> {
    listener.set_nonblocking(true)?;
    let mut callers = BTreeMap::new();
    let mut refused = None;
    while callers.len() < ranks.len() {
        let missing = || {
            ranks
                .clone()
                .filter(|rank| !callers.contains_key(rank))
                .collect()
        };
        let Some(left) = clock.left() else {
            return Err(clock.late(missing(), refused));
        };
        let Some((socket, from)) = accept(listener)? else {
            thread::sleep(NAP);
            continue;
        };
        match hear(&socket, member, &missing(), left.min(HELLO_DEADLINE)) {
            Ok(hello) => {
                let address = SocketAddr::new(from.ip(), hello.port);
                callers.insert(hello.rank as usize, Caller { socket, address });
            }
            Err(reason) => refused = Some(Box::new(reason)),
        }
    }
    Ok(callers)
}

fn accept(listener: &TcpListener) -> Result<Option<(TcpStream, SocketAddr)>> {
    match listener.accept() {
        Ok((socket, from)) => {
            socket.set_nonblocking(false)?;
            Ok(Some((socket, from)))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        // The caller went away between its call and our answer.
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads a caller's hello, answers with the verdict, and hands back the hello of one who belongs.
fn hear(
    socket: &TcpStream,
    member: &TcpMember,
    missing: &[usize],
    deadline: Duration,
) -> Result<Hello> {
    socket.set_read_timeout(Some(deadline))?;
    socket.set_write_timeout(Some(deadline))?;
    let mut bytes = [0; HELLO_BYTES];
    (&*socket).read_exact(&mut bytes)?;
    let verdict = Hello::from_bytes(&bytes).and_then(|hello| hello.check(member, missing));
    // One who is refused may hang up before it has heard why.
    let told = (&*socket).write_all(&verdict_to_bytes(verdict.as_ref().err()));
    let hello = verdict?;
    told?;
    Ok(hello)
}

/// Says who we are to the one we called, and waits for the verdict.
fn introduce(
    socket: &TcpStream,
    member: &TcpMember,
    port: u16,
    clock: &Clock,
    peer: usize,
) -> Result<()> {
    (&*socket).write_all(&Hello::of(member, port).to_bytes())?;
    let mut bytes = [0; VERDICT_BYTES];
    clock.read_exact(socket, &mut bytes, peer)?;
    verdict_from_bytes(&bytes)
}

/// Calls until someone answers or the time is over: the other end may start later than this one.
fn call(address: impl ToSocketAddrs, clock: &Clock, peer: usize) -> Result<TcpStream> {
    loop {
        let Some(left) = clock.left() else {
            return Err(clock.late(vec![peer], None));
        };
        // A name is looked up each time: it may come to exist, or move, while we wait.
        for address in address.to_socket_addrs().into_iter().flatten() {
            if let Ok(socket) = TcpStream::connect_timeout(&address, left) {
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
        }
        thread::sleep(NAP.max(left.min(Duration::from_millis(20))));
    }
}

/// Everyone's address in rank order. Rank 0's own is not needed by anyone and left unspecified.
fn address_list(world_size: usize, callers: &BTreeMap<usize, Caller>) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(world_size * ADDRESS_BYTES);
    for rank in 0..world_size {
        let address = callers.get(&rank).map(|caller| caller.address);
        let ip = match address.map(|address| address.ip()) {
            Some(IpAddr::V4(ip)) => ip.to_ipv6_mapped(),
            Some(IpAddr::V6(ip)) => ip,
            None => Ipv6Addr::UNSPECIFIED,
        };
        bytes.extend(ip.octets());
        bytes.extend(address.map_or(0, |address| address.port()).to_le_bytes());
    }
    Ok(bytes)
}

fn read_addresses(socket: &TcpStream, world_size: usize, clock: &Clock) -> Result<Vec<SocketAddr>> {
    let mut bytes = vec![0; world_size * ADDRESS_BYTES];
    clock.read_exact(socket, &mut bytes, 0)?;
    let address = |bytes: &[u8]| {
        let mut ip = [0; 16];
        ip.copy_from_slice(&bytes[..16]);
        let port = u16::from_le_bytes([bytes[16], bytes[17]]);
        SocketAddr::new(IpAddr::V6(Ipv6Addr::from(ip)).to_canonical(), port)
    };
    Ok(bytes.chunks_exact(ADDRESS_BYTES).map(address).collect())
}

/// What a caller says of itself: 44 bytes, little-endian.
#[derive(Clone, Copy, Debug)]
struct Hello {
    version: u32,
    group: [u8; 16],
    epoch: u64,
    world_size: u32,
    rank: u32,
    /// Where it listens for other members; 0 when it does not say.
    port: u16,
}

impl Hello {
    fn of(member: &TcpMember, port: u16) -> Self {
        Self {
            version: PROTOCOL_VERSION,
            group: group_digest(&member.group),
            epoch: member.epoch,
            world_size: member.world_size as u32,
            rank: member.rank as u32,
            port,
        }
    }

    /// The version comes right after the magic and stays there in all versions.
    fn to_bytes(self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&self.version.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.group);
        bytes[24..32].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.world_size.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.rank.to_le_bytes());
        bytes[40..42].copy_from_slice(&self.port.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; HELLO_BYTES]) -> Result<Self> {
        if bytes[..4] != MAGIC {
            return Err(HandshakeError::NotAMember);
        }
        let mut group = [0; 16];
        group.copy_from_slice(&bytes[8..24]);
        Ok(Self {
            version: u32_at(bytes, 4),
            group,
            epoch: u64_at(bytes, 24),
            world_size: u32_at(bytes, 32),
            rank: u32_at(bytes, 36),
            port: u32_at(bytes, 40) as u16,
        })
    }

    /// Whether the caller belongs to `member`'s group and has a rank that is still missing.
    fn check(self, member: &TcpMember, missing: &[usize]) -> Result<Self> {
        let ours = Self::of(member, 0);
        if self.version != ours.version {
            let (wanted, found) = (ours.version, self.version);
            return Err(HandshakeError::ProtocolVersion { wanted, found });
        }
        if self.group != ours.group {
            return Err(HandshakeError::Group);
        }
        if self.epoch != ours.epoch {
            let (wanted, found) = (ours.epoch, self.epoch);
            return Err(HandshakeError::Epoch { wanted, found });
        }
        if self.world_size != ours.world_size {
            let (wanted, found) = (ours.world_size, self.world_size);
            return Err(HandshakeError::WorldSize { wanted, found });
        }
        if !missing.contains(&(self.rank as usize)) {
            let (found, world_size) = (self.rank, ours.world_size);
            return Err(HandshakeError::Rank { found, world_size });
        }
        Ok(self)
    }
}

/// A name of any length in a fixed place.
fn group_digest(group: &str) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(group.as_bytes()).as_bytes()[..16]);
    digest
}

/// A verdict is a code and two numbers, what was wanted and what was found; code 0 lets the caller in.
fn verdict_to_bytes(refusal: Option<&HandshakeError>) -> [u8; VERDICT_BYTES] {
    let (code, wanted, found): (u32, u64, u64) = match refusal {
        None => (0, 0, 0),
        Some(HandshakeError::ProtocolVersion { wanted, found }) => {
            (1, u64::from(*wanted), u64::from(*found))
        }
        Some(HandshakeError::Group) => (2, 0, 0),
        Some(HandshakeError::Epoch { wanted, found }) => (3, *wanted, *found),
        Some(HandshakeError::WorldSize { wanted, found }) => {
            (4, u64::from(*wanted), u64::from(*found))
        }
        Some(HandshakeError::Rank { found, world_size }) => {
            (5, u64::from(*world_size), u64::from(*found))
        }
        Some(
            HandshakeError::NotAMember | HandshakeError::Deadline { .. } | HandshakeError::Io(_),
        ) => (6, 0, 0),
    };
    let mut bytes = [0; VERDICT_BYTES];
    bytes[..4].copy_from_slice(&code.to_le_bytes());
    bytes[4..12].copy_from_slice(&wanted.to_le_bytes());
    bytes[12..].copy_from_slice(&found.to_le_bytes());
    bytes
}

fn verdict_from_bytes(bytes: &[u8; VERDICT_BYTES]) -> Result<()> {
    let (wanted, found) = (u64_at(bytes, 4), u64_at(bytes, 12));
    let (wanted32, found32) = (wanted as u32, found as u32);
    Err(match u32_at(bytes, 0) {
        0 => return Ok(()),
        1 => HandshakeError::ProtocolVersion {
            wanted: wanted32,
            found: found32,
        },
        2 => HandshakeError::Group,
        3 => HandshakeError::Epoch { wanted, found },
        4 => HandshakeError::WorldSize {
            wanted: wanted32,
            found: found32,
        },
        5 => HandshakeError::Rank {
            found: found32,
            world_size: wanted32,
        },
        _ => HandshakeError::NotAMember,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

/// The time that forming the group may take.
struct Clock {
    started: Instant,
    deadline: Duration,
}

impl Clock {
    fn start(deadline: Duration) -> Self {
        Self {
            started: Instant::now(),
            deadline,
        }
    }

    fn left(&self) -> Option<Duration> {
        self.deadline
            .checked_sub(self.started.elapsed())
            .filter(|left| !left.is_zero())
    }

    fn late(&self, missing: Vec<usize>, refused: Option<Box<HandshakeError>>) -> HandshakeError {
        HandshakeError::Deadline {
            deadline: self.deadline,
            missing,
            refused,
        }
    }

    /// Fills `bytes` from `peer` in the time that is left.
    fn read_exact(&self, mut socket: &TcpStream, bytes: &mut [u8], peer: usize) -> Result<()> {
        let mut num_read = 0;
        while num_read < bytes.len() {
            let Some(left) = self.left() else {
                return Err(self.late(vec![peer], None));
            };
            socket.set_read_timeout(Some(left))?;
            match socket.read(&mut bytes[num_read..]) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(num_bytes) => num_read += num_bytes,
                Err(error) if is_a_timeout(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn is_a_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}
