//! The request parser beside nginx's: the same bytes go to both, and both must see the same requests in them, or refuse them
//! alike. What differs has an entry in `differences`, with the reason. Needs nginx:
//! `NGINX=$(command -v nginx) cargo test --test nginx -- --include-ignored`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "a test stops at the first thing that is not as it should be, and says so"
)]

#[allow(dead_code)] // the other test crate uses all of it
#[path = "../it/client.rs"]
mod client;
mod corpus;
mod differences;
#[path = "../it/fault.rs"]
mod fault;
mod nginx;
mod seen;
#[allow(dead_code)]
#[path = "../it/wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::io::Write as _;

use client::{Client, wait_for};
use differences::{Verdict, judge};
use nginx::Nginx;

/// Both servers, and how often each difference was met.
struct Comparison {
    client: Client,
    nginx: Nginx,
    met: BTreeMap<&'static str, usize>,
    unexplained: Vec<String>,
}

impl Comparison {
    fn start() -> Self {
        Self {
            client: Client::with(&[("LOG", "error")]),
            nginx: Nginx::start(),
            met: BTreeMap::new(),
            unexplained: Vec::new(),
        }
    }

    fn compare(&mut self, message: &[u8]) {
        let request = [message, corpus::SENTINEL].concat();
        let ours = seen::by_client(&seen::exchange(self.client.address, &request));
        let theirs = seen::by_nginx(&seen::exchange(self.nginx.address, &request));
        let verdict = judge(message, &ours, &theirs);
        match verdict {
            Verdict::Same => *self.met.entry("the same").or_default() += 1,
            Verdict::Laxer(name) => *self.met.entry(name).or_default() += 1,
            Verdict::Stricter(name) if seen::ends_at_once(self.client.address, &request) => {
                *self.met.entry(name).or_default() += 1;
            }
            Verdict::Stricter(name) => {
                let shown = message.escape_ascii();
                self.unexplained.push(format!("the client waits for more: {name}\n  {shown}"));
            }
            Verdict::Unknown(what) => {
                let shown = message.escape_ascii();
                self.unexplained.push(format!("{what}\n  {shown}\n  client: {ours:?}\n  nginx:  {theirs:?}"));
            }
        }
    }

    #[track_caller]
    fn finish(self) -> BTreeMap<&'static str, usize> {
        for (name, count) in &self.met {
            println!("{count:>6} {name}");
        }
        let shown = self.unexplained.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("\n");
        assert!(self.unexplained.is_empty(), "{} differences:\n{shown}", self.unexplained.len());
        self.client.must_be_well_and_empty("all that");
        self.met
    }
}

#[test]
#[ignore = "needs nginx: NGINX"]
fn what_is_made_to_confuse_is_read_as_nginx_reads_it() {
    let mut comparison = Comparison::start();
    let corpus = corpus::by_hand();
    assert!(corpus.len() > 300, "{} messages", corpus.len());
    for message in &corpus {
        comparison.compare(message);
    }
    let met = comparison.finish();
    for name in differences::names() {
        assert!(met.contains_key(name), "nothing shows the difference {name:?} any more");
    }
}

#[test]
#[ignore = "needs nginx: NGINX"]
fn damaged_requests_are_read_as_nginx_reads_them() {
    let mut comparison = Comparison::start();
    for message in corpus::damaged(6000, 4) {
        comparison.compare(&message);
    }
    comparison.finish();
}

#[test]
#[ignore = "needs nginx: NGINX"]
fn requests_without_a_flaw_are_understood_by_both() {
    let client = Client::start();
    let nginx = Nginx::start();
    for message in corpus::good() {
        let request = [&message, corpus::SENTINEL].concat();
        let ours = seen::by_client(&seen::exchange(client.address, &request));
        let theirs = seen::by_nginx(&seen::exchange(nginx.address, &request));
        let shown = message.escape_ascii();
        assert_eq!(ours.requests, [seen::Request::Other, seen::Request::Sentinel], "client: {shown}");
        assert_eq!(theirs.requests, [seen::Request::Other, seen::Request::Sentinel], "nginx: {shown}");
    }
}

/// By default nginx speaks HTTP/1.0 to what is behind it, which knows no chunks.
#[test]
#[ignore = "needs nginx: NGINX"]
fn an_archive_that_is_cut_behind_nginx_does_not_look_whole() {
    let client = Client::with(&[("DISK_TIMEOUT", "1s")]);
    let nginx = Nginx::in_front_of(client.address);
    let id = client.run("head -c 400000000 /dev/zero > large; head -c 40000000 /dev/urandom > more");
    assert!(!client.result(&id).files().is_empty());
    let retrieve = || {
        let mut stream = wire::connect(nginx.address);
        let request = format!("GET /retrieve/{id} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    assert!(!wire::read_answer(&mut retrieve(), false).files().is_empty(), "nginx passes it on whole");
    let mut stream = retrieve();
    stream.peek(&mut [0]).unwrap();
    let paths = client.directories().into_iter().flat_map(|path| [path.join("large"), path.join("more")]);
    let paths: Vec<_> = paths.collect();
    let paths: Vec<_> = paths.iter().map(std::path::PathBuf::as_path).collect();
    let calls = "read,pread64,readv,preadv";
    let Some(fault) = fault::Fault::inject(&client, calls, "delay_enter=20000000", &paths) else { return };
    let answer = wire::try_read_answer(&mut stream, false);
    assert!(answer.is_err(), "{:?}", answer.map(|answer| answer.head));
    wait_for("the reason", || client.log().contains("answer cut").then_some(()));
    drop(fault);
}
