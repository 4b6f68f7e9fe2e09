//! Hosts of the operator's own, which may be fetched from although their addresses are not public.

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;
use url::Host;

use super::address::AddressKind;

/// One of them, as an operator writes it: `pictures.internal`, `10.1.2.3`, `fd12::/48`. All ports of it are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrivateHost {
    /// In lower case, without a dot at its end. Its addresses may be private, loopback, unique-local or shared, but not link-local or
    /// multicast: those are allowed by address only.
    Name(String),
    /// Its addresses, by whatever name they are found.
    Network(IpNet),
}

/// What was written is neither a name, nor an address, nor a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("wanted a host name, an address or a network such as 10.0.0.0/8, found {found:?}")]
pub struct PrivateHostError {
    found: String,
}

impl FromStr for PrivateHost {
    type Err = PrivateHostError;

    fn from_str(text: &str) -> Result<Self, PrivateHostError> {
        let bare = text.trim();
        if let Ok(network) = bare.parse::<IpNet>() {
            return Ok(Self::Network(network.trunc()));
        }
        if let Ok(address) = bare.parse::<IpAddr>() {
            // As addresses are compared: an IPv4 address in IPv6 clothes is an IPv4 address.
            return Ok(Self::Network(address.to_canonical().into()));
        }
        // As in a URL, so that both sides of a comparison went through the same rules.
        match Host::parse(bare) {
            Ok(Host::Domain(name)) => Ok(Self::Name(without_dot(&name).to_owned())),
            Ok(Host::Ipv4(address)) => Ok(Self::Network(IpAddr::V4(address).into())),
            Ok(Host::Ipv6(address)) => Ok(Self::Network(IpAddr::V6(address).to_canonical().into())),
            Err(_) => Err(PrivateHostError {
                found: text.to_owned(),
            }),
        }
    }
}

/// Whether `address`, which `host` was found to have, may be connected to.
pub(super) fn admits(allowed: &[PrivateHost], host: &Host<String>, address: IpAddr) -> bool {
    let may_be_named = match AddressKind::of(address) {
        AddressKind::Public => return true,
        // Nobody keeps pictures there, and who asks wants something else.
        AddressKind::Metadata => return false,
        AddressKind::Private
        | AddressKind::Loopback
        | AddressKind::UniqueLocal
        | AddressKind::Shared => true,
        AddressKind::LinkLocal
        | AddressKind::Unspecified
        | AddressKind::Multicast
        | AddressKind::Benchmark
        | AddressKind::Documentation
        | AddressKind::Reserved => false,
    };
    let address = address.to_canonical();
    allowed.iter().any(|entry| match entry {
        PrivateHost::Network(network) => network.contains(&address),
        PrivateHost::Name(name) => {
            may_be_named && matches!(host, Host::Domain(host) if without_dot(host) == name)
        }
    })
}

fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(list: &[&str]) -> Vec<PrivateHost> {
        let parsed = list.iter().map(|entry| entry.parse().expect("an entry"));
        parsed.collect()
    }

    fn admitted(allowed: &[&str], host: &str, address: &str) -> bool {
        let host = Host::parse(host).expect("a host");
        admits(
            &entries(allowed),
            &host,
            address.parse().expect("an address"),
        )
    }

    #[test]
    fn entries_are_names_addresses_and_networks() {
        assert_eq!(
            entries(&[
                "Pictures.Internal.",
                " 10.1.2.3",
                "10.1.2.3/8",
                "fd12::/48",
                "[::1]",
                "::ffff:10.1.2.3"
            ]),
            [
                PrivateHost::Name("pictures.internal".to_owned()),
                PrivateHost::Network("10.1.2.3/32".parse().expect("a network")),
                PrivateHost::Network("10.0.0.0/8".parse().expect("a network")),
                PrivateHost::Network("fd12::/48".parse().expect("a network")),
                PrivateHost::Network("::1/128".parse().expect("a network")),
                PrivateHost::Network("10.1.2.3/32".parse().expect("a network")),
            ]
        );
        for wrong in ["", "a b", "host:80", "http://host/", "10.0.0.0/33"] {
            let error = wrong.parse::<PrivateHost>().expect_err(wrong);
            assert!(
                error.to_string().starts_with("wanted a host name"),
                "{error}"
            );
        }
    }

    #[test]
    fn without_entries_only_public_addresses_pass() {
        assert!(admitted(&[], "example.org", "1.1.1.1"));
        for address in ["10.0.0.1", "127.0.0.1", "::1", "fe80::1", "0.0.0.0"] {
            assert!(!admitted(&[], "example.org", address), "{address}");
        }
    }

    #[test]
    fn a_named_host_may_have_addresses_as_private_hosts_have() {
        let allowed = ["pictures.internal"];
        for address in ["10.0.0.1", "127.0.0.1", "fd00::1", "100.64.0.1"] {
            assert!(
                admitted(&allowed, "Pictures.internal.", address),
                "{address}"
            );
            assert!(!admitted(&allowed, "other.internal", address));
            assert!(!admitted(&allowed, "x.pictures.internal", address));
        }
        for address in ["169.254.1.1", "224.0.0.1", "0.0.0.0", "fe80::1"] {
            assert!(
                !admitted(&allowed, "pictures.internal", address),
                "{address}"
            );
        }
    }

    #[test]
    fn a_network_counts_for_every_name_and_for_mapped_forms() {
        assert!(admitted(&["10.1.0.0/16"], "any.example", "10.1.2.3"));
        assert!(admitted(&["10.1.0.0/16"], "any.example", "::ffff:10.1.2.3"));
        assert!(!admitted(&["10.1.0.0/16"], "any.example", "10.2.0.1"));
        assert!(!admitted(&["10.1.0.0/16"], "any.example", "fd00::1"));
    }

    #[test]
    fn no_entry_opens_a_metadata_service() {
        for allowed in ["169.254.0.0/16", "0.0.0.0/0", "169.254.169.254", "metadata"] {
            assert!(!admitted(&[allowed], "metadata", "169.254.169.254"));
            assert!(!admitted(&[allowed], "metadata", "::ffff:169.254.169.254"));
        }
    }
}
