//! Those who use the client: each does one thing after the other, by chance, and takes every answer to the book.

use std::io::{self, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::book::{Book, Trouble};
use crate::client::processes_of;
use crate::life::{Life, Place};
use crate::payloads::Kind;
use crate::processes::of_payloads;
use crate::wire::{self, Answer};

/// How many payloads may be without an end.
const MOST_OPEN: usize = 24;

/// What callers and faults share.
pub struct World {
    pub place: Place,
    book: Mutex<Book>,
    /// The number of the present life of the client.
    life: AtomicU32,
    /// Its process, where it is there to be ended.
    pid: Mutex<Option<Pid>>,
    /// How many fetch a result at once.
    pub crowd: AtomicUsize,
    /// Whether callers end the client when a kill is answered.
    pub is_crashed_by_kills: AtomicBool,
    is_over: AtomicBool,
}

/// How an answer is read: a pause after so many bytes.
#[derive(Clone, Copy)]
struct Pace {
    bytes: usize,
    pause: Duration,
}

const AT_ONCE: Pace = Pace { bytes: usize::MAX, pause: Duration::ZERO };

impl World {
    pub fn new(place: Place, book: Book) -> Self {
        Self {
            place,
            book: Mutex::new(book),
            life: AtomicU32::new(0),
            pid: Mutex::new(None),
            crowd: AtomicUsize::new(2),
            is_crashed_by_kills: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        }
    }

    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    pub fn into_parts(self) -> (Place, Book) {
        (self.place, self.book.into_inner().unwrap())
    }

    pub fn life(&self) -> u32 {
        self.life.load(Ordering::SeqCst)
    }

    /// The number of the next life. From now on, answers may be of it.
    pub fn next_life(&self) -> u32 {
        self.life.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub fn is_up(&self, life: &Life) {
        *self.pid.lock().unwrap() = Some(life.pid());
        self.book().end(Trouble::Down);
    }

    /// From now on, nobody else ends the client. Gives whether it is still to be ended.
    pub fn take_down(&self) -> bool {
        let mut pid = self.pid.lock().unwrap();
        if pid.is_some() {
            self.book().begin(Trouble::Down);
        }
        pid.take().is_some()
    }

    /// Whether the client has been ended by a caller.
    pub fn is_down(&self) -> bool {
        self.pid.lock().unwrap().is_none()
    }

    /// Ends the client without a word, where it is there.
    pub fn crash(&self) {
        let mut pid = self.pid.lock().unwrap();
        if let Some(pid) = pid.take() {
            let mut book = self.book();
            book.begin(Trouble::Down);
            book.crashes += 1;
            book.count("ends of the client without a word");
            kill_process(pid, Signal::KILL).unwrap();
        }
    }

    pub fn over(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    // --- what a caller does

    /// One thing after the other, until all is over.
    pub fn call_all(&self, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        while !self.is_over() {
            self.call_one(&mut rng);
            thread::sleep(Duration::from_millis(rng.u64(0..15)));
        }
    }

    fn call_one(&self, rng: &mut fastrand::Rng) {
        let act = rng.u32(0..100);
        if act < 34 {
            if self.open().len() < MOST_OPEN {
                self.submit(Kind::random(rng), rng.u64(..));
            }
            return;
        }
        let Some(index) = self.choose(rng) else { return };
        match act {
            34..56 => self.retrieve(index, "", AT_ONCE),
            56..64 => {
                let wait = rng.u32(1..4);
                self.retrieve(index, &format!("?wait={wait}"), AT_ONCE);
            }
            64..66 => self.hang_up(index, "?wait=30", 0),
            66..72 => {
                let pace =
                    Pace { bytes: rng.usize(2_000..200_000), pause: Duration::from_millis(rng.u64(1..300)) };
                self.retrieve(index, "", pace);
            }
            72..76 => self.hang_up(index, "", rng.usize(0..300_000)),
            76..80 => at_once(rng.usize(2..=self.crowd.load(Ordering::Relaxed)), || {
                self.retrieve(index, "", AT_ONCE);
            }),
            80..88 => self.retrieve_partially(index),
            88..97 => {
                let index = self.endless().unwrap_or(index);
                let number = if rng.bool() { 1 } else { rng.usize(2..4) };
                let crashes =
                    number > 1 && self.is_crashed_by_kills.load(Ordering::Relaxed) && rng.u32(0..4) == 0;
                at_once(number, || {
                    if self.kill(index) && crashes {
                        self.crash();
                    }
                });
            }
            _ => self.look_around(rng),
        }
    }

    /// The payloads without an end.
    pub fn open(&self) -> Vec<usize> {
        let book = self.book();
        let all = book.entries.iter().enumerate();
        all.filter(|(_, entry)| !entry.has_ended()).map(|(index, _)| index).collect()
    }

    /// One that ends by a kill only, and has run for a while.
    fn endless(&self) -> Option<usize> {
        let book = self.book();
        let is_old = |at: Instant| at.elapsed() > Duration::from_millis(700);
        book.entries.iter().position(|entry| {
            matches!(entry.kind, Kind::Endless { .. })
                && !entry.has_ended()
                && entry.kill.is_none()
                && is_old(entry.submitted)
        })
    }

    /// Most often one without an end.
    fn choose(&self, rng: &mut fastrand::Rng) -> Option<usize> {
        let open = self.open();
        let number = self.book().entries.len();
        if !open.is_empty() && rng.u32(0..10) < 7 {
            return Some(open[rng.usize(0..open.len())]);
        }
        (number > 0).then(|| rng.usize(0..number))
    }

    pub fn submit(&self, kind: Kind, token: u64) -> bool {
        let body = kind.form(token, &self.place.witness);
        let request = [wire::submit_head(body.len()).as_bytes(), &body].concat();
        let asked = Instant::now();
        let answer = wire::try_send(self.place.address, request);
        self.book().submitted((kind, token), asked, answer)
    }

    fn retrieve(&self, index: usize, query: &str, pace: Pace) {
        let id = self.book().entries[index].id;
        let asked = Instant::now();
        let answer = self.ask("GET", &format!("/retrieve/{id}{query}"), pace);
        // What belongs to an end that was just told must be gone by now.
        let is_first = matches!(&answer, Ok(answer) if answer.status == 200 && answer.json("finished_at").as_deref() != Some("null"))
            && !self.book().entries[index].has_ended();
        let left = if is_first { self.left_of(id) } else { Vec::new() };
        let life = self.life();
        let mut book = self.book();
        book.retrieved(index, asked, life, answer);
        if !left.is_empty() {
            book.violation(format!("payload {id} has ended and left processes: {left:?}"));
        }
    }

    /// An outcome, for those who look for it.
    pub fn look(&self, index: usize) {
        self.retrieve(index, "", AT_ONCE);
    }

    /// The processes of a payload.
    fn left_of(&self, id: u32) -> Vec<String> {
        let marked = processes_of(&id.to_string());
        if marked.is_empty() {
            return marked;
        }
        // Other clients may have given this id, too.
        let own = of_payloads(&self.place.data);
        own.into_iter().map(|process| process.pid).filter(|pid| marked.contains(pid)).collect()
    }

    pub fn retrieve_partially(&self, index: usize) {
        let id = self.book().entries[index].id;
        let asked = Instant::now();
        let answer = self.ask("GET", &format!("/retrieve_partial/{id}"), AT_ONCE);
        self.book().partially_retrieved(index, asked, &answer);
    }

    /// Gives whether the answer was 200.
    pub fn kill(&self, index: usize) -> bool {
        let id = {
            let entry = &mut self.book().entries[index];
            entry.kill_asked = true;
            entry.id
        };
        let asked = Instant::now();
        let answer = self.ask("POST", &format!("/kill/{id}"), AT_ONCE);
        let is_taken = answer.as_ref().is_ok_and(|answer| answer.status == 200);
        let life = self.life();
        self.book().killed(index, asked, life, answer);
        is_taken
    }

    /// Goes away after so many bytes of the answer.
    fn hang_up(&self, index: usize, query: &str, bytes: usize) {
        let id = self.book().entries[index].id;
        if let Ok(mut stream) = self.connect("GET", &format!("/retrieve/{id}{query}")) {
            let _ = io::copy(&mut (&mut stream).take(bytes as u64), &mut io::sink());
        }
    }

    /// What says how the client is. `/health` is 503 where it would have to be started anew.
    fn look_around(&self, rng: &mut fastrand::Rng) {
        let path = ["/", "/health", "/ready", "/load"][rng.usize(0..4)];
        let asked = Instant::now();
        let answer = self.ask("GET", path, AT_ONCE);
        let mut book = self.book();
        let is_explained = book.may_refuse(asked);
        match answer {
            Ok(answer) if answer.status == 200 => {}
            Ok(answer) if answer.status == 503 && is_explained => {}
            Err(_) if is_explained => {}
            Ok(answer) => book.violation(format!("{path} was answered {} {}", answer.status, answer.text())),
            Err(error) => book.violation(format!("{path} broke off without a reason: {error}")),
        }
    }

    pub fn get(&self, path: &str) -> io::Result<Answer> {
        self.ask("GET", path, AT_ONCE)
    }

    fn ask(&self, method: &str, path: &str, pace: Pace) -> io::Result<Answer> {
        let stream = self.connect(method, path)?;
        wire::try_read_answer(&mut BufReader::new(Slow { stream, pace, read: 0 }), false)
    }

    fn connect(&self, method: &str, path: &str) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.place.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        Ok(stream)
    }
}

fn at_once(number: usize, act: impl Fn() + Sync) {
    thread::scope(|scope| {
        for _ in 0..number {
            scope.spawn(&act);
        }
    });
}

/// A reader that pauses.
struct Slow {
    stream: TcpStream,
    pace: Pace,
    /// Bytes since the last pause.
    read: usize,
}

impl Read for Slow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read >= self.pace.bytes {
            thread::sleep(self.pace.pause);
            self.read = 0;
        }
        let number = self.stream.read(buffer)?;
        self.read += number;
        Ok(number)
    }
}
