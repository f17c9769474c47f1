//! Uploads: a small script, alone or behind one big file of bytes that do not compress.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::str::FromStr;

use super::http::Connection;

const BOUNDARY: &str = "8f3c5d1e-bench";

/// What is repeated in a big file: so long that no compressor finds it again, and what a client takes samples of is noise.
const NOISE_BYTES: usize = 64 << 20;

/// How `run.sh` has to be written for a client.
#[derive(Clone, Copy)]
pub enum Script {
    /// As one would.
    Plain,
    /// With one line more, without which the 2.3.1 client refuses a script.
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
    /// A script that does what `body` says.
    pub fn that_does(self, body: &str) -> String {
        match self {
            Self::Plain => format!("#!/bin/sh\n{body}\n"),
            Self::Trap => format!("#!/bin/sh\ntrap 'echo $? > .orchestrator.exit' EXIT\n{body}\n"),
        }
    }

    /// Two lines, where that is enough.
    pub fn small(self) -> String {
        self.that_does("echo done")
    }

    /// A script that is `program`, with nothing between the client and it where the client takes that.
    pub fn that_is(self, program: &str) -> String {
        match self {
            Self::Plain => format!("#!{program}\n"),
            Self::Trap => self.that_does(program),
        }
    }
}

/// One request to `/submit`, ready to be sent many times.
pub struct Form {
    head: Vec<u8>,
    file: Noise,
    tail: Vec<u8>,
}

impl Form {
    /// A payload of the script alone.
    pub fn new(at: SocketAddr, script: &str) -> Self {
        Self::with_file(at, script, 0)
    }

    /// A payload with a file of so many bytes, too.
    pub fn with_file(at: SocketAddr, script: &str, file_bytes: usize) -> Self {
        let part = |name| {
            format!(
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{name}\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\n"
            )
        };
        let before = if file_bytes == 0 { String::new() } else { part("data.bin") };
        let between = if file_bytes == 0 { "" } else { "\r\n" };
        let tail = format!("{between}{}{script}\r\n--{BOUNDARY}--\r\n", part("run.sh"));
        let length = before.len() + file_bytes + tail.len();
        let head = format!(
            "POST /submit HTTP/1.1\r\nHost: {at}\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n\
             Content-Length: {length}\r\n\r\n{before}"
        );
        Self { head: head.into_bytes(), file: Noise::new(file_bytes), tail: tail.into_bytes() }
    }

    /// Gives the id of the payload.
    pub fn submit(&self, connection: &mut Connection) -> io::Result<String> {
        if self.file.bytes == 0 {
            connection.send(&[&self.head[..], &self.tail].concat())?;
        } else {
            connection.send(&self.head)?;
            self.file.write_to(connection.writer())?;
            connection.send(&self.tail)?;
        }
        let answer = connection.answer()?;
        match answer.json("id") {
            Some(id) if answer.status == 200 => Ok(id),
            _ => Err(io::Error::other(format!("an upload was answered {}", answer.text()))),
        }
    }
}

/// Bytes that do not compress. Made beforehand: made while they are sent they would take part in the time of the upload.
pub struct Noise {
    block: Vec<u8>,
    bytes: usize,
}

impl Noise {
    /// By xorshift64.
    pub fn new(bytes: usize) -> Self {
        let length = bytes.min(NOISE_BYTES);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut block = Vec::with_capacity(length + size_of::<u64>());
        while block.len() < length {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block.extend_from_slice(&state.to_le_bytes());
        }
        block.truncate(length);
        Self { block, bytes }
    }

    /// All of it.
    pub fn write_to(&self, to: &mut impl Write) -> io::Result<()> {
        let mut left = self.bytes;
        while left > 0 {
            let here = left.min(self.block.len());
            to.write_all(&self.block[..here])?;
            left -= here;
        }
        Ok(())
    }
}
