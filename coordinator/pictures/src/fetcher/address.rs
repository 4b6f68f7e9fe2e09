//! What kinds of addresses there are, and which of them belong to everybody. IPv6 forms that lead to an IPv4 address are what that
//! address is. After IANA's registries of special-purpose addresses; all that is not known to be public is not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

#[cfg(test)]
mod tests;

/// Whose an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum AddressKind {
    /// Anybody's, anywhere: the only kind that is connected to unasked.
    Public,
    Private,
    Loopback,
    LinkLocal,
    UniqueLocal,
    /// Behind a provider's own translation (100.64.0.0/10).
    Shared,
    Unspecified,
    Multicast,
    /// For measuring between networks.
    Benchmark,
    /// For examples in texts.
    Documentation,
    /// Where clouds tell their machines secrets.
    Metadata,
    /// For protocols, of former times, or never given out.
    Reserved,
}

use AddressKind::{
    Benchmark, Documentation, LinkLocal, Loopback, Metadata, Multicast, Private, Public, Reserved,
    Shared, UniqueLocal, Unspecified,
};

impl AddressKind {
    pub(super) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => match destination(address) {
                Some(destination) => Self::of_v4(destination),
                None => Self::of_v6(address),
            },
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        let range = V4_RANGES.iter().find(|(net, _)| net.contains(&address));
        range.map_or(Public, |(_, kind)| *kind)
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        if let Some((_, kind)) = V6_RANGES.iter().find(|(net, _)| net.contains(&address)) {
            return *kind;
        }
        if !GLOBAL_UNICAST.contains(&address) {
            return Reserved;
        }
        match tunnelled(address).map(Self::of_v4) {
            None | Some(Public) => Public,
            Some(kind) => kind,
        }
    }
}

/// The IPv4 address that a packet to `address` arrives at: IPv4-mapped addresses never are IPv6 on the wire, and a translator (NAT64)
/// gives IPv6-only machines the public IPv4 world.
fn destination(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let is_translated = NAT64.contains(&address);
    (is_translated || MAPPED.contains(&address)).then(|| last_four(address))
}

/// Where an address made of an IPv4 address (ISATAP) would be unpacked.
fn tunnelled(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [_, _, _, _, high, low, _, _] = address.segments();
    (matches!(high, 0 | 0x0200) && low == 0x5efe).then(|| last_four(address))
}

fn last_four(address: Ipv6Addr) -> Ipv4Addr {
    let [.., a, b, c, d] = address.octets();
    Ipv4Addr::new(a, b, c, d)
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

/// Written by its first four groups: nobody's network is told by the others.
const fn v6(a: u16, b: u16, c: u16, d: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), prefix)
}

const fn v6_host(a: u16, b: u16, last: u16) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, last), 128)
}

const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 0, 0, 96);
const GLOBAL_UNICAST: Ipv6Net = v6(0x2000, 0, 0, 0, 3);

/// The first that holds an address counts.
static V4_RANGES: [(Ipv4Net, AddressKind); 23] = [
    // Most clouds, then the tasks and pods of AWS.
    (v4(169, 254, 169, 254, 32), Metadata),
    (v4(169, 254, 170, 2, 32), Metadata),
    (v4(169, 254, 170, 23, 32), Metadata),
    // Alibaba, Oracle, Azure: the last stands among public addresses.
    (v4(100, 100, 100, 200, 32), Metadata),
    (v4(192, 0, 0, 192, 32), Metadata),
    (v4(168, 63, 129, 16, 32), Metadata),
    (v4(0, 0, 0, 0, 8), Unspecified),
    (v4(10, 0, 0, 0, 8), Private),
    (v4(100, 64, 0, 0, 10), Shared),
    (v4(127, 0, 0, 0, 8), Loopback),
    (v4(169, 254, 0, 0, 16), LinkLocal),
    (v4(172, 16, 0, 0, 12), Private),
    (v4(192, 0, 0, 0, 24), Reserved),
    (v4(192, 0, 2, 0, 24), Documentation),
    // Relays of 6to4.
    (v4(192, 88, 99, 0, 24), Reserved),
    (v4(192, 168, 0, 0, 16), Private),
    (v4(198, 18, 0, 0, 15), Benchmark),
    (v4(198, 51, 100, 0, 24), Documentation),
    (v4(203, 0, 113, 0, 24), Documentation),
    (v4(233, 252, 0, 0, 24), Documentation),
    (v4(224, 0, 0, 0, 4), Multicast),
    (v4(240, 0, 0, 0, 4), Reserved),
    (v4(255, 255, 255, 255, 32), Reserved),
];

/// The first that holds an address counts. What is outside of 2000::/3 is reserved, whether it stands here or not.
static V6_RANGES: [(Ipv6Net, AddressKind); 17] = [
    // AWS, its pods, Google.
    (v6_host(0xfd00, 0xec2, 0x254), Metadata),
    (v6_host(0xfd00, 0xec2, 0x23), Metadata),
    (v6_host(0xfd20, 0xce, 0x254), Metadata),
    (v6_host(0, 0, 0), Unspecified),
    (v6_host(0, 0, 1), Loopback),
    // IPv4-compatible addresses and all else below ::/8 that is not taken above: translations that hide an IPv4 address.
    (v6(0, 0, 0, 0, 8), Reserved),
    // Teredo hides an IPv4 address.
    (v6(0x2001, 0, 0, 0, 32), Reserved),
    (v6(0x2001, 2, 0, 0, 48), Benchmark),
    // Protocols, ORCHID among them.
    (v6(0x2001, 0, 0, 0, 23), Reserved),
    (v6(0x2001, 0xdb8, 0, 0, 32), Documentation),
    // 6to4 hides an IPv4 address.
    (v6(0x2002, 0, 0, 0, 16), Reserved),
    // The former 6bone.
    (v6(0x3ffe, 0, 0, 0, 16), Reserved),
    (v6(0x3fff, 0, 0, 0, 20), Documentation),
    (v6(0xfc00, 0, 0, 0, 7), UniqueLocal),
    (v6(0xfe80, 0, 0, 0, 10), LinkLocal),
    // Site-local, of former times.
    (v6(0xfec0, 0, 0, 0, 10), Private),
    (v6(0xff00, 0, 0, 0, 8), Multicast),
];
