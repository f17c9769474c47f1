//! Small payloads: how long one takes from its upload to its ZIP, and how many there are in a second.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use bench::result;
use bench::sample::Sample;

use super::form::{Form, Script};
use super::http;
use super::process::Client;

/// How long a payload may take before its figure is given up.
const PATIENCE: Duration = Duration::from_mins(2);

/// Between two looks for a payload that has not ended, where several are under way.
const LOOK: Duration = Duration::from_millis(2);

pub struct Latency {
    pub client: Client,
    pub script: Script,
    pub payloads: u32,
    /// Payloads before those that count.
    pub warm_up: u32,
    /// Between two polls; none for a client that answers in less than a pause.
    pub poll_pause: Duration,
    /// Over which the submits are spread evenly. A client that looks at its payloads at fixed times would otherwise be
    /// met at the same phase by every submit.
    pub spread: Duration,
}

/// One caller, one payload at a time: from before the upload's connection to the last byte of the ZIP.
pub fn latency(plan: &Latency) -> io::Result<()> {
    let form = Form::small(plan.client.at, plan.script);
    let (mut times, mut lost) = (Vec::new(), 0);
    for number in 0..plan.warm_up + plan.payloads {
        thread::sleep(plan.spread * number / (plan.warm_up + plan.payloads));
        let begun = Instant::now();
        let id = form.submit(plan.client.at)?;
        match wait_for_end(plan.client.at, &id, plan.poll_pause)? {
            Ended::Well(_) if number >= plan.warm_up => times.push(begun.elapsed()),
            Ended::Well(_) => {}
            Ended::Badly(answer) => {
                eprintln!("payload {id} ended badly: {answer}");
                lost += 1;
            }
        }
    }
    let sample = Sample::of_times(&times).ok_or_else(|| io::Error::other("no payload came to a ZIP"))?;
    result!("latency_p50_ms", sample.median());
    result!("latency_p99_ms", sample.permille(990));
    result!("latency_lost", f64::from(lost));
    Ok(())
}

pub struct Throughput {
    pub client: Client,
    pub script: Script,
    pub payloads: usize,
    pub submitters: usize,
    /// After the payloads, before memory and zombies are looked at.
    pub rest: Duration,
}

/// Several callers at once, each of which submits its share, then retrieves its ZIPs in the same order.
pub fn throughput(plan: &Throughput) -> io::Result<()> {
    let form = Form::small(plan.client.at, plan.script);
    let share = plan.payloads.div_ceil(plan.submitters);
    let begun = Instant::now();
    let lost = thread::scope(|scope| {
        let callers: Vec<_> =
            (0..plan.submitters).map(|_| scope.spawn(|| call(plan.client.at, &form, share))).collect();
        let lost = callers.into_iter().map(|caller| caller.join().expect("a caller does not panic"));
        lost.sum::<io::Result<usize>>()
    })?;
    let elapsed = begun.elapsed();
    result!("payloads_per_s", (share * plan.submitters - lost) as f64 / elapsed.as_secs_f64());
    result!("payloads_lost", lost as f64);
    thread::sleep(plan.rest);
    result!("rested_rss_mib", plan.client.process.rss_mib()?);
    result!("zombies", plan.client.process.zombies()? as f64);
    Ok(())
}

/// Gives the number of payloads that did not come to a ZIP.
fn call(at: SocketAddr, form: &Form, share: usize) -> io::Result<usize> {
    let ids = (0..share).map(|_| form.submit(at)).collect::<io::Result<Vec<_>>>()?;
    let mut lost = 0;
    for id in ids {
        if let Ended::Badly(answer) = wait_for_end(at, &id, LOOK)? {
            eprintln!("payload {id} ended badly: {answer}");
            lost += 1;
        }
    }
    Ok(lost)
}

/// How a payload has ended.
pub enum Ended {
    Well(Zip),
    /// With this answer instead of a ZIP.
    Badly(String),
}

/// The result of a payload: read, checked to be whole, and let go.
pub struct Zip {
    pub bytes: u64,
    /// By the one request that brought it.
    pub took: Duration,
}

impl Ended {
    /// For figures that want every payload to end well.
    pub fn zip(self) -> io::Result<Zip> {
        match self {
            Self::Well(zip) => Ok(zip),
            Self::Badly(answer) => Err(io::Error::other(format!("a payload ended badly: {answer}"))),
        }
    }
}

/// Polls until the payload has ended.
pub fn wait_for_end(at: SocketAddr, id: &str, pause: Duration) -> io::Result<Ended> {
    let (path, deadline) = (format!("/retrieve/{id}"), Instant::now() + PATIENCE);
    while Instant::now() < deadline {
        let begun = Instant::now();
        let answer = http::get(at, &path)?;
        if answer.is_zip() {
            return Ok(Ended::Well(Zip { bytes: answer.body_bytes, took: begun.elapsed() }));
        }
        // The 2.3.1 client answers 200 while a payload waits and runs, this one 202; the word is the same.
        if !matches!(answer.json("status").as_deref(), Some("Prepared" | "Running")) {
            return Ok(Ended::Badly(answer.text()));
        }
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
    Err(io::Error::other(format!("payload {id} has not ended in {} s", PATIENCE.as_secs())))
}
