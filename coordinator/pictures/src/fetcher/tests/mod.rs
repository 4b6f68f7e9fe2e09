//! The fetcher before real sockets, all of them on loopback.

pub(crate) mod server;

mod answers;
mod redirects;
mod resolution;
mod secure;

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use super::*;

/// Tells what a test wants it to: the first list of addresses, then the next, and the last one for ever.
#[derive(Default)]
struct FakeResolver {
    answers: HashMap<String, Vec<Vec<IpAddr>>>,
    asked: Mutex<Vec<String>>,
}

impl FakeResolver {
    fn with(mut self, host: &str, answers: &[&[&str]]) -> Self {
        let parse = |list: &&[&str]| {
            let addresses = list.iter().map(|address| address.parse());
            addresses.collect::<Result<_, _>>().expect("addresses")
        };
        let answers = answers.iter().map(parse).collect();
        self.answers.insert(host.to_owned(), answers);
        self
    }

    fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.clone()
    }
}

#[async_trait]
impl Resolver for FakeResolver {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let mut asked = self.asked.lock().expect("a log");
        let num_before = asked.iter().filter(|other| *other == host).count();
        asked.push(host.to_owned());
        let answers = self.answers.get(host).ok_or(io::ErrorKind::NotFound)?;
        Ok(answers[num_before.min(answers.len() - 1)].clone())
    }
}

/// Short limits, so that what has no end is waited for in vain only a moment.
fn settings(allowed: &[&str]) -> FetchSettings {
    let allowed = allowed.iter().map(|entry| entry.parse());
    FetchSettings {
        max_bytes: 1 << 20,
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(5),
        total_timeout: Duration::from_secs(20),
        allowed: allowed.collect::<Result<_, _>>().expect("entries"),
        ..FetchSettings::default()
    }
}

fn fetcher_with(settings: FetchSettings, resolver: Arc<FakeResolver>) -> GuardedFetcher {
    GuardedFetcher::with_parts(settings, resolver, RootCertStore::empty())
}

/// Knows no names; may go to 127.0.0.1.
pub(crate) fn local_fetcher() -> GuardedFetcher {
    fetcher_with(settings(&["127.0.0.1"]), Arc::default())
}
