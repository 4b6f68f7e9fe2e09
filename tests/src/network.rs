//! Machines of a network of its own: a namespace for each, a bridge between them, and rules that take packets away. Needs root,
//! `ip` and `nft`.

use std::{
    collections::BTreeMap,
    io::Write,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::{Command, Stdio, id},
};

/// All names of ours begin so; the process's id follows.
const PREFIX: &str = "ink";

/// Whether this process may make networks. Tests that need one say that they skip where it may not, unless
/// `INKSTONE_REQUIRE_NETNS=1`.
pub fn is_possible() -> bool {
    let name = format!("{PREFIX}{}-probe", id());
    let possible = try_ip(&["netns", "add", &name]) && {
        let has_rules = try_ip(&["netns", "exec", &name, "nft", "list", "ruleset"]);
        try_ip(&["netns", "del", &name]) && has_rules
    };
    let required = std::env::var("INKSTONE_REQUIRE_NETNS").is_ok_and(|value| value == "1");
    assert!(
        possible || !required,
        "INKSTONE_REQUIRE_NETNS=1, but namespaces cannot be made here: that takes root, `ip` and `nft`"
    );
    possible
}

/// Machines that reach one another and the test, until a rule says otherwise. Taken down when dropped.
pub struct Network {
    machines: BTreeMap<String, Ipv4Addr>,
    bridge: String,
}

impl Network {
    /// Makes a machine for each name.
    pub fn new(names: &[String]) -> Self {
        remove_leftovers();
        let [.., high, low] = id().to_be_bytes();
        let at = |last: u8| Ipv4Addr::new(10, 64 | high, low, last);
        let bridge = format!("{PREFIX}{}", id());
        ip(&["link", "add", &bridge, "type", "bridge"]);
        ip(&["addr", "add", &format!("{}/24", at(1)), "dev", &bridge]);
        ip(&["link", "set", &bridge, "up"]);
        let mut network = Self {
            machines: BTreeMap::new(),
            bridge,
        };
        for (index, name) in names.iter().enumerate() {
            let last = u8::try_from(index + 2).expect("a few machines");
            network.add_machine(name, index, at(last));
        }
        network
    }

    fn add_machine(&mut self, name: &str, index: usize, address: Ipv4Addr) {
        let namespace = self.namespace(name);
        let outside = format!("{}-{index}", self.bridge);
        ip(&["netns", "add", &namespace]);
        self.machines.insert(name.to_owned(), address);
        let pair = ["link", "add", &outside, "type", "veth", "peer", "name"];
        ip(&[&pair[..], &["eth0", "netns", &namespace]].concat());
        ip(&["link", "set", &outside, "master", &self.bridge, "up"]);
        let inside = |arguments: &[&str]| ip(&[&["-n", &namespace], arguments].concat());
        inside(&["addr", "add", &format!("{address}/24"), "dev", "eth0"]);
        inside(&["link", "set", "eth0", "up"]);
        inside(&["link", "set", "lo", "up"]);
        nft(
            &namespace,
            "table inet faults {\n chain input {\n type filter hook input priority 0\n }\n}\n",
        );
    }

    /// The namespace of a machine.
    pub fn namespace(&self, machine: &str) -> String {
        format!("{}-{machine}", self.bridge)
    }

    /// The address of a machine.
    pub fn address(&self, machine: &str) -> IpAddr {
        let address = self.machines.get(machine);
        (*address.unwrap_or_else(|| panic!("there is no machine {machine}"))).into()
    }

    /// Nothing passes between the two.
    pub fn cut(&self, one: &str, other: &str) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Nothing of what `from` sends arrives at `to`; the other way all does.
    pub fn cut_one_way(&self, from: &str, to: &str) {
        self.rule(to, from, "drop");
    }

    /// Nothing that the test sends arrives at `to` any more, answers to what comes from there included.
    pub fn cut_off_from_the_test(&self, to: &str) {
        let [a, b, c, _] = self.machines[to].octets();
        self.apply(to, Ipv4Addr::new(a, b, c, 1).into(), "drop");
    }

    /// So many of 100 packets between the two are lost.
    pub fn lose(&self, one: &str, other: &str, percent: u32) {
        let action = format!("numgen random mod 100 < {percent} drop");
        self.rule(one, other, &action);
        self.rule(other, one, &action);
    }

    /// Connections between the two are reset, and no new ones come about.
    pub fn reset(&self, one: &str, other: &str) {
        // A reset of ours must arrive, so it is the one thing that is not answered with another.
        let action = "tcp flags & rst == 0 reject with tcp reset";
        self.rule(one, other, action);
        self.rule(other, one, action);
    }

    /// Everything passes again.
    pub fn heal(&self) {
        for machine in self.machines.keys() {
            nft(&self.namespace(machine), "flush chain inet faults input\n");
        }
    }

    fn rule(&self, at: &str, from: &str, action: &str) {
        self.apply(at, self.address(from), action);
    }

    fn apply(&self, at: &str, from: IpAddr, action: &str) {
        let rule = format!("add rule inet faults input ip saddr {from} {action}\n");
        nft(&self.namespace(at), &rule);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // A namespace takes its end of a wire away some time later: too late for the next network of this process.
        for index in 0..self.machines.len() {
            try_ip(&["link", "del", &format!("{}-{index}", self.bridge)]);
        }
        for machine in self.machines.keys() {
            try_ip(&["netns", "del", &self.namespace(machine)]);
        }
        try_ip(&["link", "del", &self.bridge]);
    }
}

/// Takes down what a test left that was killed.
fn remove_leftovers() {
    let listed = Command::new("ip").args(["netns", "list"]).output();
    let listed = String::from_utf8(listed.expect("ip runs").stdout).expect("UTF-8");
    for name in listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
    {
        let Some((bridge, _)) = name.split_once('-') else {
            continue;
        };
        let owner = bridge.strip_prefix(PREFIX).map(str::parse::<u32>);
        if let Some(Ok(owner)) = owner
            && (owner == id() || !Path::new(&format!("/proc/{owner}")).exists())
        {
            try_ip(&["netns", "del", name]);
            try_ip(&["link", "del", bridge]);
        }
    }
}

fn try_ip(arguments: &[&str]) -> bool {
    let output = Command::new("ip").args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output();
    let output = output.expect("ip runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments:?}: {errors}");
}

fn nft(namespace: &str, script: &str) {
    let mut child = Command::new("ip")
        .args(["netns", "exec", namespace, "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("nft runs");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(script.as_bytes()).expect("it reads");
    drop(stdin);
    let status = child.wait().expect("it ends");
    assert!(status.success(), "nft in {namespace}: {script}");
}
