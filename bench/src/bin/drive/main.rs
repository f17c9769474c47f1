//! `drive FIGURE --name value ...`: measures one figure of a running client and prints it as lines of `name value`.
//! The client is known by its address (`--at 127.0.0.1:PORT`) and process id (`--pid`) alone. `bench/run` gives sizes
//! and counts; this file shows which there are.

mod busy;
mod caller;
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

use busy::Busy;
use payloads::{Latency, Throughput};
use process::{Client, Process};
use requests::Requests;
use transfer::Retrieve;

const FIGURES: &str = "free-port, ready, start, idle, connections, requests, latency, moments, throughput, rested, \
                       waiting, busy, transfer, web-server, retrieve";

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
            let (client, counts) = (client(given)?, given.take::<String>("counts")?);
            let counts = counts.split(',').map(str::parse).collect::<Result<Vec<_>, _>>();
            let counts = counts.map_err(io::Error::other)?;
            Box::new(move || idle::with_connections(client, &counts))
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
            let plan = latency(given)?;
            Box::new(move || payloads::latency(&plan))
        }
        "moments" => {
            let (plan, stamp) = (latency(given)?, given.take::<String>("stamp")?);
            Box::new(move || payloads::moments(&plan, &stamp))
        }
        "throughput" => {
            let plan = Throughput {
                client: client(given)?,
                name: given.take("as")?,
                script: given.take("script")?,
                wait: given.take("wait")?,
                payloads: given.take("payloads")?,
                submitters: given.take("submitters")?,
                ahead: given.take("ahead")?,
            };
            Box::new(move || payloads::throughput(&plan))
        }
        "rested" => {
            let (client, rest) = (client(given)?, seconds(given, "rest")?);
            Box::new(move || payloads::rested(client, rest))
        }
        "waiting" => {
            let (client, script, slots) = (client(given)?, given.take("script")?, given.take("slots")?);
            Box::new(move || payloads::print_waiting(client, script, slots))
        }
        "busy" => {
            let plan = Busy {
                client: client(given)?,
                name: given.take("as")?,
                script: given.take("script")?,
                uploads: given.take("uploads")?,
                bytes: mib(given)?,
                retrievals: given.take_or("retrievals", 0)?,
                slots: given.take_or("slots", 0)?,
                hold: given.take("hold")?,
            };
            Box::new(move || busy::measure(&plan))
        }
        "transfer" => {
            let (client, script, bytes) = (client(given)?, given.take("script")?, mib(given)?);
            Box::new(move || transfer::measure(client, script, bytes))
        }
        "web-server" => {
            let (client, bytes) = (client(given)?, mib(given)?);
            Box::new(move || transfer::with_web_server(client.at, bytes))
        }
        "retrieve" => {
            let plan = Retrieve {
                client: client(given)?,
                name: given.take("as")?,
                script: given.take("script")?,
                makes: given.take("makes")?,
                times: given.take_or("times", 1)?,
                at_once: given.take_or("at-once", 1)?,
            };
            Box::new(move || transfer::retrieve(&plan))
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

fn latency(given: &mut Options) -> io::Result<Latency> {
    Ok(Latency {
        client: client(given)?,
        script: given.take("script")?,
        wait: given.take("wait")?,
        payloads: given.take("payloads")?,
        warm_up: given.take("warm-up")?,
        spread: Duration::from_millis(given.take_or("spread-ms", 0)?),
    })
}

fn mib(given: &mut Options) -> io::Result<usize> {
    given.take("mib").map(|mib: usize| mib << 20)
}

fn seconds(given: &mut Options, name: &str) -> io::Result<Duration> {
    given.take(name).map(Duration::from_secs)
}

fn print_free_port() -> io::Result<()> {
    println!("{}", free_port()?);
    Ok(())
}

/// A port that nobody listens on now. The 2.3.1 client cannot tell which port it has been given for 0.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
