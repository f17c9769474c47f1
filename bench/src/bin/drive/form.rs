//! The uploads: a small script, alone or behind one big file of bytes that do not compress.

use std::io;
use std::net::SocketAddr;
use std::str::FromStr;

use super::http::{Answer, Connection};

const BOUNDARY: &str = "8f3c5d1e-bench";

/// What `run.sh` has in it.
#[derive(Clone, Copy)]
pub enum Script {
    /// Two lines.
    Plain,
    /// One line more, without which the 2.3.1 client refuses a script.
    Trap,
}

impl FromStr for Script {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "plain" => Ok(Self::Plain),
            "trap" => Ok(Self::Trap),
            _ => Err("it is plain or trap"),
        }
    }
}

impl Script {
    fn text(self) -> &'static str {
        match self {
            Self::Plain => "#!/bin/sh\necho done\n",
            Self::Trap => "#!/bin/sh\ntrap 'echo $? > .orchestrator.exit' EXIT\necho done\n",
        }
    }
}

/// One request to `/submit`, ready to be sent many times.
pub struct Form {
    head: Vec<u8>,
    /// The big file, if there is one. It is made beforehand and in whole: made while it is sent it would take part in the
    /// time of the upload, and repeated it would mislead a client that takes samples of it to see if compression pays.
    file: Vec<u8>,
    tail: Vec<u8>,
}

impl Form {
    /// A payload of the script alone.
    pub fn small(at: SocketAddr, script: Script) -> Self {
        Self::with_file(at, script, 0)
    }

    /// A payload with a file of so many bytes, too.
    pub fn with_file(at: SocketAddr, script: Script, file_bytes: usize) -> Self {
        let file = noise(file_bytes);
        let part = |name| {
            format!(
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{name}\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\n"
            )
        };
        let before = if file_bytes == 0 { String::new() } else { part("data.bin") };
        let between = if file_bytes == 0 { "" } else { "\r\n" };
        let tail = format!("{between}{}{}\r\n--{BOUNDARY}--\r\n", part("run.sh"), script.text());
        let length = before.len() + file.len() + tail.len();
        let head = format!(
            "POST /submit HTTP/1.1\r\nHost: {at}\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n\
             Content-Length: {length}\r\n\r\n{before}"
        );
        Self { head: head.into_bytes(), file, tail: tail.into_bytes() }
    }

    /// Sends it on a connection of its own, and gives the id of the payload.
    pub fn submit(&self, at: SocketAddr) -> io::Result<String> {
        let answer = self.send(at)?;
        match answer.json("id") {
            Some(id) if answer.status == 200 => Ok(id),
            _ => Err(io::Error::other(format!("an upload was answered {}", answer.text()))),
        }
    }

    fn send(&self, at: SocketAddr) -> io::Result<Answer> {
        let mut connection = Connection::open(at)?;
        if self.file.is_empty() {
            connection.send(&[&self.head[..], &self.tail].concat())?;
        } else {
            [&self.head, &self.file, &self.tail].into_iter().try_for_each(|piece| connection.send(piece))?;
        }
        connection.answer()
    }
}

/// Bytes without a pattern (xorshift64).
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = Vec::with_capacity(bytes + size_of::<u64>());
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}
