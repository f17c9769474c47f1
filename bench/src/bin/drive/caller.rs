//! A caller of a client: submits payloads and waits for their ends, all on one connection.

use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use super::form::Form;
use super::http::{Answer, Connection};

/// How long a payload may take before its figure is given up.
const PATIENCE: Duration = Duration::from_mins(2);

/// How often a payload is tried that has only to be there. The 2.3.1 client takes one for lost at times, when it looks for
/// its process before it has noted it.
const TRIES: usize = 4;

/// How the end of a payload is waited for.
#[derive(Clone, Copy)]
pub enum Wait {
    /// By requests that are answered when the payload ends.
    LongPoll,
    /// By looking, with this pause between two looks.
    Poll(Duration),
}

impl FromStr for Wait {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word.parse() {
            Ok(pause_ms) => Ok(Self::Poll(Duration::from_millis(pause_ms))),
            Err(_) if word == "long-poll" => Ok(Self::LongPoll),
            Err(_) => Err("it is long-poll or a pause in ms"),
        }
    }
}

/// How a payload has ended.
pub enum Ended {
    Well(Zip),
    /// With this answer instead of a ZIP.
    Badly(Answer),
}

/// The result of a payload: read, checked to be whole, and let go.
pub struct Zip {
    pub bytes: u64,
    /// By the one request that brought it.
    pub took: Duration,
}

/// Runs a payload for a figure that wants one that has ended well.
pub fn retry(mut run: impl FnMut() -> io::Result<Ended>) -> io::Result<Zip> {
    let mut last = String::new();
    for _ in 0..TRIES {
        match run()? {
            Ended::Well(zip) => return Ok(zip),
            Ended::Badly(answer) => last = answer.text(),
        }
    }
    Err(io::Error::other(format!("{TRIES} payloads have ended badly, the last: {last}")))
}

pub struct Caller {
    connection: Connection,
    wait: Wait,
}

impl Caller {
    pub fn new(at: SocketAddr, wait: Wait) -> io::Result<Self> {
        Ok(Self { connection: Connection::open(at)?, wait })
    }

    /// Gives the id of the payload.
    pub fn submit(&mut self, form: &Form) -> io::Result<String> {
        form.submit(&mut self.connection)
    }

    /// Waits for the end of a payload, and reads its result.
    pub fn end_of(&mut self, id: &str) -> io::Result<Ended> {
        let path = match self.wait {
            Wait::LongPoll => format!("/retrieve/{id}?wait=30"),
            Wait::Poll(_) => format!("/retrieve/{id}"),
        };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let begun = Instant::now();
            let answer = self.connection.get(&path)?;
            if answer.is_zip() {
                return Ok(Ended::Well(Zip { bytes: answer.body_bytes, took: begun.elapsed() }));
            }
            // The 2.3.1 client answers 200 while a payload waits and runs, this one 202; the word is the same.
            if !matches!(answer.json("status").as_deref(), Some("Prepared" | "Running")) {
                return Ok(Ended::Badly(answer));
            }
            if let Wait::Poll(pause) = self.wait {
                thread::sleep(pause);
            }
        }
        Err(io::Error::other(format!("payload {id} has not ended in {} s", PATIENCE.as_secs())))
    }

    /// Waits until a payload runs.
    pub fn start_of(&mut self, id: &str) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let answer = self.connection.get(&format!("/retrieve/{id}"))?;
            match answer.json("status").as_deref() {
                Some("Running") => return Ok(()),
                Some("Prepared") => thread::sleep(Duration::from_millis(5)),
                _ => return Err(io::Error::other(format!("a payload does not run: {}", answer.text()))),
            }
        }
        Err(io::Error::other(format!("payload {id} has not started in {} s", PATIENCE.as_secs())))
    }
}
