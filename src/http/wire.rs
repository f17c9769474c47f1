//! One socket: buffered, paced and timed. What is a request and what is an answer is not known here.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{set_socket_keepalive, set_socket_linger, set_tcp_keepidle, set_tcp_keepintvl};

use super::home::Stream;
use super::pace::{Pace, Turn};
use crate::{metrics, sys};

/// The read buffer of a waiting connection is on its stack and this small: most heads fit, and thousands of idle
/// connections cost one stack page each.
const FIRST_READ_BYTES: usize = 512;

/// A client that is sent away and has nothing to say for so long has said all.
const LINGER_SILENCE: Duration = Duration::from_secs(5);

/// One that goes on is read away in such pieces.
const LINGER_BYTES: usize = 16 * 1024;

/// The silence before the first probe of a peer that is sent nothing.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Timers are kept by their length: rounding keeps the number of different ones small.
const TIMER_STEP_MS: u128 = 100;

pub(super) struct Wire {
    stream: Stream,
    /// That a body or an answer may stand still.
    stall_timeout: Duration,
    /// Bytes that came with the head or the line before and belong to what follows.
    input: Vec<u8>,
    /// How much of `input` is used up.
    used: usize,
    read_timeout: Option<Duration>,
    /// Of the body that is being read.
    reading: Pace,
    /// Of all that is written.
    writing: Pace,
    /// Bytes that the kernel had taken and the peer had not, where that is known of the start of a wait for room.
    unsent: Option<u64>,
    /// The disk thread of the transfer under way.
    turn: Option<Turn>,
}

impl Wire {
    pub(super) fn new(stream: Stream, stall_timeout: Duration) -> Self {
        Self {
            stream,
            stall_timeout,
            input: Vec::new(),
            used: 0,
            read_timeout: None,
            reading: Pace::default(),
            writing: Pace::default(),
            unsent: None,
            turn: None,
        }
    }

    pub(super) fn prepare(&mut self) -> io::Result<()> {
        // Half, for a look in between at what the peer takes: see `write`.
        self.stream.set_write_timeout(Some(self.stall_timeout / 2))
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// The transfer under way holds this disk thread, or none.
    pub(super) fn holds(&mut self, turn: Option<Turn>) {
        self.turn = turn;
    }

    /// Whether the transfer under way has got its disk thread.
    pub(super) fn is_served(&self) -> bool {
        self.turn.as_ref().is_some_and(Turn::has_begun)
    }

    // --- reading

    /// What has come and is not used up.
    pub(super) fn unread(&self) -> &[u8] {
        &self.input[self.used..]
    }

    /// Reads once, to the end of what is unread; `TimedOut` if nothing comes in that time.
    pub(super) fn read_within(&mut self, time: Duration) -> io::Result<usize> {
        let time = rounded(time).ok_or(io::ErrorKind::TimedOut)?;
        self.set_read_timeout(time)?;
        self.read_more()
    }

    /// Reads once, to the end of `input`. Nothing is allocated while it waits.
    #[inline(never)]
    fn read_more(&mut self) -> io::Result<usize> {
        let mut first = [0; FIRST_READ_BYTES];
        let count = self.stream.read(&mut first)?;
        metrics::RECEIVED.add(count as u64);
        // Where no read ever ends with a request or a chunk, nothing else would let go of what is used up.
        self.input.drain(..self.used);
        self.used = 0;
        self.input.extend_from_slice(&first[..count]);
        Ok(count)
    }

    fn set_read_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        if self.read_timeout != Some(timeout) {
            self.stream.set_read_timeout(Some(timeout))?;
            self.read_timeout = Some(timeout);
        }
        Ok(())
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.used += count;
        if self.used == self.input.len() {
            // Given back, not kept: an idle connection has no buffer.
            self.input = Vec::new();
            self.used = 0;
        }
    }

    /// Reads some bytes of a body: those that are here already, else from the socket.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let input = self.unread();
        if input.is_empty() {
            let count = self.read_paced(|wire| wire.stream.read(buffer))?;
            metrics::RECEIVED.add(count as u64);
            return Ok(count);
        }
        let count = input.len().min(buffer.len());
        buffer[..count].copy_from_slice(&input[..count]);
        self.consume(count);
        Ok(count)
    }

    /// Reads up to and with the next line feed, `most` bytes at the most.
    pub(super) fn read_line(&mut self, most: usize) -> io::Result<Vec<u8>> {
        loop {
            let input = self.unread();
            if let Some(end) = input.iter().position(|byte| *byte == b'\n') {
                let line = input[..=end].to_vec();
                self.consume(line.len());
                return Ok(line);
            }
            if input.len() > most {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a line of the chunked body is too long",
                ));
            }
            if self.read_paced(Self::read_more)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// A body begins, whose pace is not that of the one before.
    pub(super) fn begin_body(&mut self) {
        self.reading = Pace::default();
    }

    /// One read of a body from the socket; `TimedOut` where the body stands still or as good as still.
    fn read_paced(&mut self, read: impl FnOnce(&mut Self) -> io::Result<usize>) -> io::Result<usize> {
        let window = self.stall_timeout;
        self.set_read_timeout(window)?;
        let begun = Instant::now();
        let count = read(self)?;
        self.reading.add(begun.elapsed(), count as u64);
        if count > 0 {
            self.reading.judge_if_due(window, self.turn.as_mut())?;
        }
        Ok(count)
    }

    // --- writing

    /// Writes all, unless the peer takes next to nothing of it. What it takes is seen by its acknowledgements: the kernel
    /// says that there is room again only when a third of its buffer is free, and on a slow link that takes minutes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let window = self.stall_timeout;
        let mut left = bytes;
        let mut wait = Pace::default();
        while !left.is_empty() {
            let begun = Instant::now();
            match self.stream.write(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    metrics::SENT.add(count as u64);
                    left = &left[count..];
                    // In part means that the buffer is full, and the next wait begins now.
                    self.unsent = if left.is_empty() { None } else { Some(self.unsent_bytes()?) };
                    wait = Pace::default();
                    self.writing.add(begun.elapsed(), count as u64);
                    self.writing.judge_if_due(window, self.turn.as_mut())?;
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    let unsent = self.unsent_bytes()?;
                    let before = self.unsent.replace(unsent).unwrap_or(unsent);
                    wait.add(begun.elapsed(), before.saturating_sub(unsent));
                    wait.judge_if_due(window, self.turn.as_mut())?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn unsent_bytes(&self) -> io::Result<u64> {
        sys::unsent_bytes(self.socket())
    }

    /// Closes in a way that lets the client read the last response: no more is sent, what still comes is thrown away, for as long as
    /// it comes, and for `most` at the most.
    pub(super) fn linger(&mut self, most: Duration) {
        let deadline = Instant::now() + most;
        let mut first = [0; FIRST_READ_BYTES];
        let mut more = Vec::new();
        if self.stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).min(LINGER_SILENCE);
            let Some(left) = rounded(left) else { return };
            let buffer = if more.is_empty() { &mut first[..] } else { &mut more[..] };
            match self.set_read_timeout(left).and_then(|()| self.stream.read(buffer)) {
                Ok(0) | Err(_) => return,
                Ok(FIRST_READ_BYTES) => more.resize(LINGER_BYTES, 0),
                Ok(_) => {}
            }
        }
    }

    /// Has the kernel find out that the peer's host is gone, where nothing may be sent for hours: by probes after a minute of
    /// silence (SO_KEEPALIVE, tcp(7)).
    pub(super) fn notice_vanished_peer(&self) {
        // Where it cannot be set, the end of the body comes in any case.
        let _ = set_socket_keepalive(self.socket(), true);
        let _ = set_tcp_keepidle(self.socket(), KEEPALIVE);
        let _ = set_tcp_keepintvl(self.socket(), KEEPALIVE / 4);
    }

    /// Lets the connection end by a reset, which no reader takes for an end (SO_LINGER, socket(7)).
    pub(super) fn reset(&self) {
        // An error is that of a connection that is gone.
        let _ = set_socket_linger(self.socket(), Some(Duration::ZERO));
    }
}

/// Up to the next timer step; `None` if no time is left.
fn rounded(left: Duration) -> Option<Duration> {
    let steps = left.as_millis().div_ceil(TIMER_STEP_MS);
    let ms = u64::try_from(steps * TIMER_STEP_MS).ok()?;
    (ms > 0).then_some(Duration::from_millis(ms))
}
