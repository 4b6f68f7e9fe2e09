//! A real etcd on data of its own, with every way to lose it.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::process::{Launch, Process};

/// How long it may take to answer after its start, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether this machine has an etcd. Tests that need one say that they skip where there is none, unless `INKSTONE_REQUIRE_ETCD=1`.
pub fn is_installed() -> bool {
    let has = |program: &str| {
        let asked = Command::new(program).arg("version").output();
        let asked = asked.or_else(|_| Command::new(program).arg("--version").output());
        asked.is_ok()
    };
    let found = has("etcd") && has("etcdctl");
    let required = std::env::var("INKSTONE_REQUIRE_ETCD").is_ok_and(|value| value == "1");
    assert!(
        found || !required,
        "INKSTONE_REQUIRE_ETCD=1, but etcd and etcdctl are not installed"
    );
    found
}

/// A port that nobody listens on at this moment.
pub fn free_port(ip: IpAddr) -> u16 {
    let listener = TcpListener::bind((ip, 0)).expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

/// An etcd of one member.
pub struct Etcd {
    launch: Launch,
    process: Option<Process>,
    /// Where it answers.
    pub address: SocketAddr,
    _data: TempDir,
}

impl Etcd {
    /// Starts one in this process's network.
    pub fn start() -> Self {
        Self::start_in(None, Ipv4Addr::LOCALHOST.into())
    }

    /// Starts one in a network namespace, at an address of it.
    pub fn start_in(namespace: Option<String>, ip: IpAddr) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let local = IpAddr::from(Ipv4Addr::LOCALHOST);
        // In a namespace of its own every port is free; a port that is free here serves as well as any.
        let address = SocketAddr::new(ip, free_port(local));
        let peer = format!("http://127.0.0.1:{}", free_port(local));
        let client = format!("http://{address}");
        let folder = data.path().to_str().expect("UTF-8");
        let arguments = [
            "--name=one",
            &format!("--data-dir={folder}"),
            &format!("--listen-client-urls={client}"),
            &format!("--advertise-client-urls={client}"),
            &format!("--listen-peer-urls={peer}"),
            &format!("--initial-advertise-peer-urls={peer}"),
            &format!("--initial-cluster=one={peer}"),
            "--logger=zap",
        ];
        let launch = Launch {
            name: "etcd".into(),
            program: "etcd".into(),
            arguments: arguments.map(str::to_owned).to_vec(),
            namespace,
        };
        let mut etcd = Self {
            launch,
            process: None,
            address,
            _data: data,
        };
        etcd.restart();
        etcd
    }

    /// `http://HOST:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Starts it again on the same data, and waits until it answers.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "it runs");
        let process = self.process.insert(Process::launch(&self.launch));
        let started = Instant::now();
        while !is_healthy(self.address) {
            let ended = process.try_end();
            assert!(
                ended.is_none() && started.elapsed() < PATIENCE,
                "etcd does not answer:\n{}",
                process.log_text()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process().kill();
        self.process = None;
    }

    /// Stops it, as its operator would.
    pub fn stop(&mut self) {
        let process = self.process();
        process.terminate();
        process.wait_for_end(Duration::from_secs(20));
        self.process = None;
    }

    /// Freezes it: it holds its connections and says nothing.
    pub fn pause(&mut self) {
        self.process().pause();
    }

    /// Lets it go on.
    pub fn resume(&mut self) {
        self.process().resume();
    }

    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Forgets every revision before the present one.
    pub fn compact(&self) {
        let revision = self.revision();
        let text = self.ctl(&["compact", &revision.to_string()]);
        assert!(text.contains("compacted"), "{text}");
    }

    /// Its present revision.
    pub fn revision(&self) -> i64 {
        let text = self.ctl(&["get", "/none", "--write-out=json"]);
        let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        answer["header"]["revision"].as_i64().expect("a revision")
    }

    fn ctl(&self, arguments: &[&str]) -> String {
        let endpoint = format!("--endpoints={}", self.address);
        let mut command = match &self.launch.namespace {
            None => Command::new("etcdctl"),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, "etcdctl"]);
                command
            }
        };
        let output = command
            .env("ETCDCTL_API", "3")
            .arg(endpoint)
            .args(arguments)
            .output()
            .expect("etcdctl runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {arguments:?}: {errors}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it runs")
    }

    /// Its log.
    pub fn log_text(&self) -> String {
        self.process
            .as_ref()
            .map(Process::log_text)
            .unwrap_or_default()
    }
}

/// Asks for its health, as a probe would.
fn is_healthy(address: SocketAddr) -> bool {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(500))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    asked().is_ok_and(|text| text.contains("\"true\""))
}
