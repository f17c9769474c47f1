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
use std::net::TcpListener;
use std::process::ExitCode;
use std::time::Duration;

use bench::options::Options;

use payloads::{Latency, Throughput};
use process::{Client, Process};
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
    let (figure, mut options) = Options::read()?;
    let given = &mut options;
    let measure: Box<dyn FnOnce() -> io::Result<()>> = match figure.as_str() {
        "free-port" => Box::new(print_free_port),
        "ready" => {
            let client = client(given)?;
            Box::new(move || http::wait_until_ready(client.at, Duration::from_secs(10)))
        }
        "start" => {
            let (binary, dir, runs) =
                (given.take::<String>("binary")?, given.take::<String>("dir")?, given.take("runs")?);
            Box::new(move || start::measure(&binary, &dir, runs))
        }
        "idle" => {
            let (client, settle, watch) =
                (client(given)?, seconds(given, "settle")?, seconds(given, "watch")?);
            Box::new(move || idle::measure(client, settle, watch))
        }
        "connections" => {
            let (client, count) = (client(given)?, given.take("count")?);
            Box::new(move || idle::with_connections(client, count))
        }
        "requests" => {
            let plan = Requests {
                client: client(given)?,
                name: given.take("as")?,
                path: given.take("path")?,
                callers: given.take_or("callers", 1)?,
                each: given.take("each")?,
                is_kept_alive: given.take_or("kept-alive", false)?,
            };
            Box::new(move || requests::measure(&plan))
        }
        "latency" => {
            let plan = Latency {
                client: client(given)?,
                script: given.take("script")?,
                payloads: given.take("payloads")?,
                warm_up: given.take("warm-up")?,
                poll_pause: millis(given, "poll-pause-ms")?,
                spread: millis(given, "spread-ms")?,
            };
            Box::new(move || payloads::latency(&plan))
        }
        "throughput" => {
            let plan = Throughput {
                client: client(given)?,
                script: given.take("script")?,
                payloads: given.take("payloads")?,
                submitters: given.take("submitters")?,
                rest: seconds(given, "rest")?,
            };
            Box::new(move || payloads::throughput(&plan))
        }
        "uploads" => {
            let plan = Uploads {
                client: client(given)?,
                script: given.take("script")?,
                count: given.take("count")?,
                bytes: mib(given)?,
            };
            Box::new(move || transfer::uploads(&plan))
        }
        "transfer" => {
            let plan = Transfer {
                client: client(given)?,
                script: given.take("script")?,
                bytes: mib(given)?,
                poll_pause: millis(given, "poll-pause-ms")?,
            };
            Box::new(move || transfer::one(&plan))
        }
        _ => return Err(io::Error::other(format!("{figure} is not known: it is one of {FIGURES}"))),
    };
    // A misspelt option is found before minutes are spent.
    options.finish()?;
    measure()
}

fn client(given: &mut Options) -> io::Result<Client> {
    Ok(Client { at: given.take("at")?, process: Process(given.take("pid")?) })
}

fn mib(given: &mut Options) -> io::Result<usize> {
    given.take("mib").map(|mib: usize| mib << 20)
}

fn seconds(given: &mut Options, name: &str) -> io::Result<Duration> {
    given.take(name).map(Duration::from_secs)
}

fn millis(given: &mut Options, name: &str) -> io::Result<Duration> {
    given.take_or(name, 0).map(Duration::from_millis)
}

fn print_free_port() -> io::Result<()> {
    println!("{}", free_port()?);
    Ok(())
}

/// A port that nobody listens on now. The 2.3.1 client cannot tell which port it has been given for 0.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
