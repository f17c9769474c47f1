//! Big files and many files: what they cost in time and memory.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use bench::result;
use bench::sample::Sample;

use super::caller::{Caller, Ended, Wait, Zip, retry};
use super::form::{Form, Noise, Script};
use super::http::Connection;
use super::process::Client;

/// Between two looks for a payload that has not ended. Looks and not long polls, so that the request that brings a ZIP has
/// not waited for it.
const LOOK: Wait = Wait::Poll(Duration::from_millis(5));

/// Uploads bytes that do not compress, and retrieves them, one after the other.
pub fn measure(client: Client, script: Script, bytes: usize) -> io::Result<()> {
    let form = Form::with_file(client.at, &script.small(), bytes);
    let mut caller = Caller::new(client.at, LOOK)?;
    client.process.forget_peak()?;
    let begun = Instant::now();
    let id = caller.submit(&form)?;
    result!("upload_mib_per_s", mib_per_s(bytes, begun.elapsed()));
    let zip = match caller.end_of(&id)? {
        Ended::Well(zip) => zip,
        Ended::Badly(answer) => return Err(io::Error::other(format!("it ended badly: {}", answer.text()))),
    };
    result!("retrieve_mib_per_s", mib_per_s(bytes, zip.took));
    result!("transfer_peak_rss_mib", client.process.peak_rss_mib()?);
    match zip.bytes {
        short if short < bytes as u64 => Err(io::Error::other(format!("the ZIP has only {short} bytes"))),
        _ => Ok(()),
    }
}

/// The same with a web server: PUT, then GET.
pub fn with_web_server(at: SocketAddr, bytes: usize) -> io::Result<()> {
    const PATH: &str = "/data.bin";
    let noise = Noise::new(bytes);
    let mut connection = Connection::open(at)?;
    let head = format!("PUT {PATH} HTTP/1.1\r\nHost: {at}\r\nContent-Length: {bytes}\r\n\r\n");
    let begun = Instant::now();
    connection.send(head.as_bytes())?;
    noise.write_to(connection.writer())?;
    let answer = connection.answer()?;
    result!("upload_mib_per_s", mib_per_s(bytes, begun.elapsed()));
    if answer.status != 201 {
        return Err(io::Error::other(format!("PUT was answered {}", answer.text())));
    }
    let begun = Instant::now();
    let answer = connection.get(PATH)?;
    result!("retrieve_mib_per_s", mib_per_s(bytes, begun.elapsed()));
    match answer {
        answer if answer.status == 200 && answer.body_bytes == bytes as u64 => Ok(()),
        answer => Err(io::Error::other(format!(
            "GET was answered {} with {} bytes",
            answer.status, answer.body_bytes
        ))),
    }
}

fn mib_per_s(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / f64::from(1 << 20) / took.as_secs_f64()
}

pub struct Retrieve {
    pub client: Client,
    /// What the results are called.
    pub name: String,
    pub script: Script,
    /// What the payload does to have something that is retrieved.
    pub makes: String,
    /// Payloads; the time is the median of theirs.
    pub times: usize,
    /// Retrievals of each at once; its time is that of the slowest.
    pub at_once: usize,
}

/// Retrieves what payloads have made, each for the first time: the 2.3.1 client keeps the ZIP for the next.
pub fn retrieve(plan: &Retrieve) -> io::Result<()> {
    plan.client.process.forget_peak()?;
    let zips = (0..plan.times).map(|_| one(plan)).collect::<io::Result<Vec<_>>>()?;
    let times: Vec<_> = zips.iter().map(|zip| zip.took).collect();
    let sample = Sample::of_times(&times).ok_or_else(|| io::Error::other("no retrievals were asked for"))?;
    let name = &plan.name;
    result!(format!("{name}_ms"), sample.median());
    result!(format!("{name}_zip_mib"), zips[0].bytes as f64 / f64::from(1 << 20));
    result!(format!("{name}_peak_rss_mib"), plan.client.process.peak_rss_mib()?);
    Ok(())
}

/// The slowest of those at once.
fn one(plan: &Retrieve) -> io::Result<Zip> {
    let at = plan.client.at;
    let form = Form::new(at, &plan.script.that_does(&plan.makes));
    retry(|| {
        let id = Caller::new(at, LOOK)?.submit(&form)?;
        let ends = thread::scope(|scope| {
            let callers: Vec<_> =
                (0..plan.at_once).map(|_| scope.spawn(|| Caller::new(at, LOOK)?.end_of(&id))).collect();
            let ends = callers.into_iter().map(|caller| caller.join().expect("a retrieval does not panic"));
            ends.collect::<io::Result<Vec<_>>>()
        })?;
        let slower = |one: Ended, other: Ended| match (one, other) {
            (Ended::Well(one), Ended::Well(other)) => {
                Ended::Well(if one.took > other.took { one } else { other })
            }
            (bad @ Ended::Badly(_), _) | (_, bad) => bad,
        };
        ends.into_iter().reduce(slower).ok_or_else(|| io::Error::other("no retrieval was asked for"))
    })
}
