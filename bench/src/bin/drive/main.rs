//! `drive FIGURE --name value ...`: measures one figure of a running client and prints it as lines of `name value`.
//! The client is known by its address (`--at 127.0.0.1:PORT`) and process id (`--pid`) alone. `bench/run` gives sizes
//! and counts; this file shows which there are.

mod form;
mod http;
mod idle;
mod payloads;
mod process;
mod requests;
mod start;
mod transfer;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use bench::options::Options;

use form::Script;
use payloads::{Latency, Throughput};
use process::Process;
use requests::Requests;
use transfer::{Transfer, Uploads};

const FIGURES: &str =
    "free-port, ready, start, idle, connections, requests, latency, throughput, uploads, transfer";

fn main() -> ExitCode {
    match drive() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("drive: {error}");
            ExitCode::FAILURE
        }
    }
}

fn drive() -> io::Result<()> {
    let (figure, mut given) = Options::read()?;
    let given = &mut given;
    match figure.as_str() {
        "free-port" => {
            println!("{}", free_port()?);
            Ok(())
        }
        "ready" => http::wait_until_ready(at(given)?, Duration::from_secs(10)),
        "start" => start::measure(
            &given.take::<String>("binary")?,
            &given.take::<String>("dir")?,
            given.take("runs")?,
        ),
        "idle" => idle::measure(at(given)?, pid(given)?, seconds(given, "settle")?, seconds(given, "watch")?),
        "connections" => idle::with_connections(at(given)?, pid(given)?, given.take("count")?),
        "requests" => requests::measure(&Requests {
            at: at(given)?,
            name: given.take("as")?,
            path: given.take("path")?,
            callers: given.take_or("callers", 1)?,
            each: given.take("each")?,
            is_kept_alive: given.take_or("kept-alive", false)?,
        }),
        "latency" => payloads::latency(&Latency {
            at: at(given)?,
            script: script(given)?,
            payloads: given.take("payloads")?,
            warm_up: given.take("warm-up")?,
            poll_pause: millis(given, "poll-pause-ms")?,
            spread: millis(given, "spread-ms")?,
        }),
        "throughput" => payloads::throughput(&Throughput {
            at: at(given)?,
            process: pid(given)?,
            script: script(given)?,
            payloads: given.take("payloads")?,
            submitters: given.take("submitters")?,
            rest: seconds(given, "rest")?,
        }),
        "uploads" => transfer::uploads(&Uploads {
            at: at(given)?,
            process: pid(given)?,
            script: script(given)?,
            count: given.take("count")?,
            bytes: mib(given)?,
        }),
        "transfer" => transfer::one(&Transfer {
            at: at(given)?,
            process: pid(given)?,
            script: script(given)?,
            bytes: mib(given)?,
            poll_pause: millis(given, "poll-pause-ms")?,
        }),
        _ => Err(io::Error::other(format!("{figure} is not known: it is one of {FIGURES}"))),
    }
}

fn at(given: &mut Options) -> io::Result<SocketAddr> {
    given.take("at")
}

fn pid(given: &mut Options) -> io::Result<Process> {
    given.take("pid").map(Process)
}

fn script(given: &mut Options) -> io::Result<Script> {
    given.take("script")
}

fn mib(given: &mut Options) -> io::Result<u64> {
    given.take("mib").map(|mib: u64| mib << 20)
}

fn seconds(given: &mut Options, name: &str) -> io::Result<Duration> {
    given.take(name).map(Duration::from_secs)
}

fn millis(given: &mut Options, name: &str) -> io::Result<Duration> {
    given.take_or(name, 0).map(Duration::from_millis)
}

/// A port that nobody listens on now. The 2.3.1 client cannot tell which port it has been given for 0.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
