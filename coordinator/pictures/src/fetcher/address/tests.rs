use proptest::prelude::*;

use super::*;

#[track_caller]
fn check(kind: AddressKind, addresses: &[&str]) {
    for address in addresses {
        let parsed: IpAddr = address.parse().expect("an address");
        assert_eq!(AddressKind::of(parsed), kind, "{address}");
    }
}

#[test]
fn each_kind_is_known_at_both_ends_of_its_range() {
    check(Private, &["10.0.0.0", "10.255.255.255"]);
    check(Private, &["172.16.0.0", "172.31.255.255"]);
    check(Private, &["192.168.0.0", "192.168.255.255", "fec0::1"]);
    check(Loopback, &["127.0.0.1", "127.255.255.255", "::1"]);
    check(LinkLocal, &["169.254.0.1", "fe80::1", "febf:ffff::1"]);
    check(UniqueLocal, &["fc00::", "fd12:3456::1", "fdff:ffff::1"]);
    check(Shared, &["100.64.0.0", "100.127.255.255"]);
    check(Unspecified, &["0.0.0.0", "0.255.255.255", "::"]);
    check(Multicast, &["224.0.0.1", "239.255.255.255", "ff02::1"]);
    check(Benchmark, &["198.18.0.0", "198.19.255.255", "2001:2::1"]);
    check(Documentation, &["192.0.2.1", "198.51.100.1", "203.0.113.1"]);
    check(
        Documentation,
        &["2001:db8::1", "3fff::1", "3fff:fff:ffff::"],
    );
    check(Reserved, &["240.0.0.1", "255.255.255.255", "192.0.0.8"]);
    check(Reserved, &["100::1", "2001:10::1", "5f00::1", "4000::1"]);
}

#[test]
fn metadata_services_are_known_wherever_they_stand() {
    check(Metadata, &["169.254.169.254", "169.254.170.2"]);
    check(Metadata, &["100.100.100.200", "192.0.0.192"]);
    check(Metadata, &["168.63.129.16", "fd00:ec2::254"]);
    check(Metadata, &["::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"]);
}

#[test]
fn the_neighbours_of_ranges_are_public() {
    check(Public, &["9.255.255.255", "11.0.0.0", "1.1.1.1"]);
    check(Public, &["172.15.255.255", "172.32.0.0"]);
    check(Public, &["100.63.255.255", "100.128.0.0"]);
    check(Public, &["126.255.255.255", "128.0.0.0"]);
    check(Public, &["169.253.255.255", "169.255.0.0"]);
    check(Public, &["198.17.255.255", "198.20.0.0"]);
    check(Public, &["223.255.255.255", "192.167.255.255"]);
    check(Public, &["2606:4700:4700::1111", "2a00:1450::1"]);
}

#[test]
fn ipv6_forms_of_ipv4_addresses_are_no_way_round() {
    check(Private, &["::ffff:10.0.0.1", "64:ff9b::10.0.0.1"]);
    check(Loopback, &["::ffff:127.0.0.1", "64:ff9b::7f00:1"]);
    // Compatible, translated, the network's own NAT64, 6to4, Teredo.
    check(Reserved, &["::10.0.0.1", "::127.0.0.1", "::1.1.1.1"]);
    check(Reserved, &["::ffff:0:10.0.0.1", "64:ff9b:1::10.0.0.1"]);
    check(Reserved, &["2002:a00:1::", "2002:7f00:1::1", "2001::1"]);
    // ISATAP.
    check(Private, &["2606:4700::5efe:10.0.0.1"]);
    check(Loopback, &["2606:4700::200:5efe:127.0.0.1"]);
    check(Public, &["::ffff:1.1.1.1", "64:ff9b::1.1.1.1"]);
}

fn within_v4(net: Ipv4Net, host: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(net.network()) | (host & u32::from(net.hostmask())))
}

fn within_v6(net: Ipv6Net, host: u128) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(net.network()) | (host & u128::from(net.hostmask())))
}

/// What the standard library knows of an address, apart from our tables.
fn is_known_to_be_special(address: Ipv4Addr) -> bool {
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_multicast()
        || address.is_unspecified()
        || address.octets()[0] == 0
        || address.octets()[0] >= 240
        || (address.octets()[0] == 100 && address.octets()[1] & 0xc0 == 64)
        || (address.octets()[0] == 198 && address.octets()[1] & 0xfe == 18)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_address_of_a_special_range_is_public(
        four in 0..V4_RANGES.len(), six in 0..V6_RANGES.len(), host in any::<u128>(),
    ) {
        let address = within_v4(V4_RANGES[four].0, host as u32);
        prop_assert_ne!(AddressKind::of(address.into()), Public, "{}", address);
        let address = within_v6(V6_RANGES[six].0, host);
        // A translator's addresses stand in a range of their own within ::/8.
        if destination(address).is_none() {
            prop_assert_ne!(AddressKind::of(address.into()), Public, "{}", address);
        }
    }

    #[test]
    fn what_the_standard_library_calls_special_is_not_public(bits in any::<u32>()) {
        let address = Ipv4Addr::from(bits);
        if is_known_to_be_special(address) {
            prop_assert_ne!(AddressKind::of(address.into()), Public);
        }
    }

    #[test]
    fn an_ipv6_form_is_what_its_ipv4_address_is(bits in any::<u32>()) {
        let address = Ipv4Addr::from(bits);
        let kind = AddressKind::of(address.into());
        let [a, b, c, d] = address.octets();
        let [high, low] = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
        prop_assert_eq!(AddressKind::of(address.to_ipv6_mapped().into()), kind);
        let nat64 = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low);
        prop_assert_eq!(AddressKind::of(nat64.into()), kind);
        let isatap = Ipv6Addr::new(0x2606, 0, 0, 0, 0, 0x5efe, high, low);
        prop_assert_eq!(AddressKind::of(isatap.into()), kind);
        // Forms that nobody needs any more are refused whatever they hide.
        let to_4 = Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1);
        let teredo = Ipv6Addr::new(0x2001, 0, high, low, 0, 0, !high, !low);
        let compatible = Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low);
        let translated = Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low);
        for form in [to_4, teredo, compatible, translated] {
            prop_assert_ne!(AddressKind::of(form.into()), Public, "{}", form);
        }
    }

    #[test]
    fn ipv6_is_public_only_where_addresses_are_given_out(bits in any::<u128>()) {
        let address = Ipv6Addr::from(bits);
        if AddressKind::of(address.into()) == Public {
            prop_assert!(GLOBAL_UNICAST.contains(&address) || destination(address).is_some());
            prop_assert!(!address.is_loopback() && !address.is_multicast() && !address.is_unspecified());
        }
    }
}
