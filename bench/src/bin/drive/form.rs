//! The uploads: a small script, alone or behind one big file of bytes that do not compress.

use std::io;
use std::net::SocketAddr;
use std::str::FromStr;

use super::http::{Answer, Connection};

const BOUNDARY: &str = "8f3c5d1e-bench";

/// Far longer than any compressor here looks back, so that repeating it does not make it compressible.
const BLOCK_BYTES: usize = 4 << 20;

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
    block: Vec<u8>,
    /// Of the big file; 0 for none.
    file_bytes: u64,
    tail: Vec<u8>,
}

impl Form {
    /// A payload of the script alone.
    pub fn small(at: SocketAddr, script: Script) -> Self {
        Self::with_file(at, script, 0)
    }

    /// A payload with a file of so many bytes, too.
    pub fn with_file(at: SocketAddr, script: Script, file_bytes: u64) -> Self {
        let part = |name| {
            format!(
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{name}\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\n"
            )
        };
        let before = if file_bytes == 0 { String::new() } else { part("data.bin") };
        let between = if file_bytes == 0 { "" } else { "\r\n" };
        let tail = format!("{between}{}{}\r\n--{BOUNDARY}--\r\n", part("run.sh"), script.text());
        let length = before.len() as u64 + file_bytes + tail.len() as u64;
        let head = format!(
            "POST /submit HTTP/1.1\r\nHost: {at}\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n\
             Content-Length: {length}\r\n\r\n{before}"
        );
        let block = if file_bytes == 0 { Vec::new() } else { noise() };
        Self { head: head.into_bytes(), block, file_bytes, tail: tail.into_bytes() }
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
        if self.file_bytes == 0 {
            connection.send(&[&self.head[..], &self.tail].concat())?;
            return connection.answer();
        }
        connection.send(&self.head)?;
        let mut left = self.file_bytes;
        while left > 0 {
            let piece = self.block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            connection.send(&self.block[..piece])?;
            left -= piece as u64;
        }
        connection.send(&self.tail)?;
        connection.answer()
    }
}

/// A block of bytes without a pattern (xorshift64).
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    while block.len() < BLOCK_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend_from_slice(&state.to_le_bytes());
    }
    block
}
