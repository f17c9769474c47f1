//! HTTP/1.1 as the real server speaks it: no `Connection` header, and a connection that the caller closes once it has its
//! answer, or keeps for the next request.

use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Nothing takes longer but a client that hangs: its figure is then given up.
const PATIENCE: Duration = Duration::from_mins(2);

/// Bodies above this are read and counted, not kept.
const KEPT_BYTES: usize = 64 * 1024;

/// One answer, read to its end.
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    /// The first bytes of the body, as many as are kept.
    pub body: Vec<u8>,
    pub body_bytes: u64,
}

impl Answer {
    pub fn is_zip(&self) -> bool {
        self.status == 200 && self.content_type == "application/zip" && self.body.starts_with(b"PK")
    }

    /// What stands behind `"name":` in a flat JSON object, without quotes.
    pub fn json(&self, name: &str) -> Option<String> {
        let text = String::from_utf8_lossy(&self.body);
        let (_, rest) = text.split_once(&format!("\"{name}\":"))?;
        let value = rest.split([',', '}']).next()?;
        Some(value.trim().trim_matches('"').to_owned())
    }

    pub fn text(&self) -> String {
        format!("{} {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

/// A connection that can be used again and again.
pub struct Connection {
    stream: BufReader<TcpStream>,
    at: SocketAddr,
}

impl Connection {
    pub fn open(at: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(at)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::with_capacity(KEPT_BYTES, stream), at })
    }

    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: */*\r\n\r\n", self.at);
        self.send(head.as_bytes())?;
        self.answer()
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer().write_all(bytes)
    }

    pub fn writer(&mut self) -> &mut TcpStream {
        self.stream.get_mut()
    }

    pub fn answer(&mut self) -> io::Result<Answer> {
        let start = self.line()?;
        let status = start.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("not HTTP: {start}")))?;
        let mut answer = Answer { status, content_type: String::new(), body: Vec::new(), body_bytes: 0 };
        let (mut length, mut is_chunked) = (0, false);
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            match (name.to_ascii_lowercase().as_str(), value.trim()) {
                ("content-type", value) => value.clone_into(&mut answer.content_type),
                ("content-length", value) => length = value.parse().map_err(io::Error::other)?,
                ("transfer-encoding", value) => is_chunked = value == "chunked",
                _ => {}
            }
        }
        if is_chunked {
            self.chunks(&mut answer)?;
        } else {
            self.piece(&mut answer, length)?;
        }
        Ok(answer)
    }

    fn chunks(&mut self, answer: &mut Answer) -> io::Result<()> {
        loop {
            let line = self.line()?;
            let length = u64::from_str_radix(&line, 16).map_err(io::Error::other)?;
            self.piece(answer, length)?;
            // The line end behind a chunk, or the empty trailer behind the last.
            self.line()?;
            if length == 0 {
                return Ok(());
            }
        }
    }

    fn piece(&mut self, answer: &mut Answer, length: u64) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let here = match self.stream.fill_buf() {
                // As all of std but this does.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                here => here?,
            };
            if here.is_empty() {
                return Err(io::Error::other(format!("the answer breaks off, {left} bytes before its end")));
            }
            let used = here.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let kept = used.min(KEPT_BYTES - answer.body.len());
            answer.body.extend_from_slice(&here[..kept]);
            self.stream.consume(used);
            left -= used as u64;
        }
        answer.body_bytes += length;
        Ok(())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        let longest = KEPT_BYTES as u64;
        (&mut self.stream).take(longest).read_line(&mut line)?;
        let Some(text) = line.strip_suffix("\r\n") else {
            return Err(io::Error::other(format!("the answer breaks off in a line: {line:?}")));
        };
        Ok(text.to_owned())
    }
}

/// One request on a connection of its own.
pub fn get(at: SocketAddr, path: &str) -> io::Result<Answer> {
    Connection::open(at)?.get(path)
}

/// Returns when `/health` is good.
pub fn wait_until_ready(at: SocketAddr, longest: Duration) -> io::Result<()> {
    let deadline = Instant::now() + longest;
    // Refused connections cost microseconds; the pause only leaves the core to the program that starts.
    while !get(at, "/health").is_ok_and(|answer| answer.status == 200) {
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("{at} is not well after {} s", longest.as_secs())));
        }
        thread::sleep(Duration::from_micros(50));
    }
    Ok(())
}
