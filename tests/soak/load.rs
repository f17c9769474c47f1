//! Those who use the client, well or badly: senders, askers, killers, and senders of broken uploads. Each goes on whatever
//! happens to the client, as its callers do.

use std::collections::VecDeque;
use std::io::{BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::ledger::{Entry, Ledger, now};
use crate::wire::{self, Answer};
use crate::work::Kind;

const PAUSE: Duration = Duration::from_millis(10);

/// What all of them share.
pub struct Load {
    pub address: SocketAddr,
    ledger: Mutex<Ledger>,
    /// How many payloads may have been accepted by now; the senders rest when that is reached.
    goal: AtomicUsize,
    accepted: AtomicUsize,
    /// Senders that may have a payload under way which has been claimed of the goal and not yet been accepted.
    sending: AtomicUsize,
    /// Payloads without an outcome, each with the time of the next look.
    pending: Mutex<VecDeque<(Instant, usize)>>,
    to_kill: Mutex<Vec<(Instant, usize)>>,
    is_over: AtomicBool,
    breaks: AtomicBool,
}

impl Load {
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            ledger: Mutex::default(),
            goal: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            sending: AtomicUsize::new(0),
            pending: Mutex::default(),
            to_kill: Mutex::default(),
            is_over: AtomicBool::new(false),
            breaks: AtomicBool::new(false),
        }
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Lets the senders go on until so many payloads have been accepted in all.
    pub fn set_goal(&self, goal: usize) {
        self.goal.store(goal, Ordering::Relaxed);
    }

    /// Whether broken uploads are sent.
    pub fn set_breaking(&self, breaks: bool) {
        self.breaks.store(breaks, Ordering::Relaxed);
    }

    /// Whether no payload is on its way to the client.
    pub fn is_sent(&self) -> bool {
        self.sending.load(Ordering::SeqCst) == 0
    }

    /// Payloads that have no outcome yet.
    pub fn pending(&self) -> Vec<u32> {
        let ledger = self.ledger();
        ledger.entries.iter().filter(|entry| entry.seen.is_none()).map(|entry| entry.id).collect()
    }

    /// Ends all that [`Load::start`] has started, also where the main thread fails.
    pub fn over(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    pub fn start<'scope>(&'scope self, scope: &'scope thread::Scope<'scope, '_>) {
        for _ in 0..4 {
            scope.spawn(|| self.send_all());
        }
        for _ in 0..3 {
            scope.spawn(|| self.ask_all());
        }
        scope.spawn(|| self.kill_all());
        for _ in 0..2 {
            scope.spawn(|| self.break_all());
        }
    }

    fn send_all(&self) {
        while !self.is_over() {
            self.sending.fetch_add(1, Ordering::SeqCst);
            let is_wanted = self.accepted.fetch_add(1, Ordering::SeqCst) < self.goal.load(Ordering::SeqCst);
            if is_wanted {
                while !self.is_over() && !self.send(Kind::random(), fastrand::u64(..)) {
                    thread::sleep(PAUSE);
                }
            } else {
                self.accepted.fetch_sub(1, Ordering::SeqCst);
            }
            self.sending.fetch_sub(1, Ordering::SeqCst);
            if !is_wanted {
                thread::sleep(PAUSE);
            }
        }
    }

    /// Sends one payload. Gives whether it was accepted.
    fn send(&self, kind: Kind, token: u64) -> bool {
        let body = kind.form(token);
        let submitted = now();
        let answer = wire::try_send(self.address, [wire::submit_head(body.len()).as_bytes(), &body].concat());
        let mut ledger = self.ledger();
        ledger.count("submits");
        let (was_down, was_full) = (ledger.was_down(submitted, now()), ledger.was_full(submitted, now()));
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                if error.kind() != std::io::ErrorKind::ConnectionRefused {
                    ledger.unanswered.insert(token);
                    ledger.count("submits cut off");
                }
                if !was_down {
                    ledger.violation(format!("a submit broke off with the client up: {error}"));
                }
                return false;
            }
        };
        let code = answer.json("error").unwrap_or_default();
        match (answer.status, code.as_str()) {
            (200, _) => {}
            (507, _) | (503, "disk_low") if was_full => {
                ledger.count("submits answered 507");
                return false;
            }
            (503, "stopping") if was_down => {
                ledger.count("submits answered 503");
                return false;
            }
            (503, "queue_full") => {
                ledger.count("submits answered 503");
                return false;
            }
            (status, _) => {
                ledger.violation(format!("a submit of {kind:?} was answered {status}: {}", answer.text()));
                return false;
            }
        }
        let Some(id) = answer.json("id").and_then(|id| id.parse().ok()) else {
            ledger.violation(format!("a submit was answered without an id: {}", answer.text()));
            return false;
        };
        let entry = Entry { id, token, kind, submitted, kill_asked: None, kill_answered: None, seen: None };
        let index = ledger.enter(entry);
        drop(ledger);
        self.pending.lock().unwrap().push_back((Instant::now(), index));
        let longest_ms = match kind {
            Kind::Endless { .. } => 500,
            Kind::Nap(_) if fastrand::u32(0..4) == 0 => 300,
            _ if fastrand::u32(0..20) == 0 => 30,
            _ => return true,
        };
        let due = Instant::now() + Duration::from_millis(fastrand::u64(0..longest_ms));
        self.to_kill.lock().unwrap().push((due, index));
        true
    }

    /// Asks for the outcomes of all payloads, the oldest first, until each has one.
    fn ask_all(&self) {
        while !self.is_over() {
            let next = self.pending.lock().unwrap().pop_front();
            let Some((due, index)) = next else {
                thread::sleep(PAUSE);
                continue;
            };
            thread::sleep(due.saturating_duration_since(Instant::now()).min(PAUSE));
            // Only an answer sets the next time: one that is looked at before its time keeps it, or it would never come.
            let next_due = if Instant::now() < due {
                Some(due)
            } else {
                (!self.ask(index)).then(|| Instant::now() + PAUSE * 3)
            };
            self.pending.lock().unwrap().extend(next_due.map(|due| (due, index)));
        }
    }

    fn ask(&self, index: usize) -> bool {
        let id = self.ledger().entries[index].id;
        // Some readers leave in the middle.
        if fastrand::u32(0..50) == 0 {
            self.leave_in_the_middle(id);
        }
        match self.call("GET", &format!("/retrieve/{id}")) {
            Some(answer) => self.ledger().look(index, &answer),
            None => false,
        }
    }

    fn leave_in_the_middle(&self, id: u32) {
        if let Ok(mut stream) = TcpStream::connect(self.address) {
            let _ = write!(stream, "GET /retrieve/{id} HTTP/1.1\r\nHost: test\r\n\r\n");
            let _ = std::io::Read::read(&mut stream, &mut [0; 20]);
        }
    }

    /// A request without a body; `None` where the client is down, which is a violation at any other time.
    pub fn call(&self, method: &str, path: &str) -> Option<Answer> {
        let from = now();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        match wire::try_send(self.address, head) {
            Ok(answer) => Some(answer),
            Err(error) => {
                let mut ledger = self.ledger();
                // An archive that fails is cut off.
                if !ledger.was_down(from, now()) && !ledger.was_full(from, now()) {
                    ledger.violation(format!("{method} {path} broke off with the client up: {error}"));
                }
                None
            }
        }
    }

    fn kill_all(&self) {
        while !self.is_over() {
            let due: Vec<(Instant, usize)> = {
                let mut to_kill = self.to_kill.lock().unwrap();
                to_kill.extract_if(.., |(due, _)| *due <= Instant::now()).collect()
            };
            for (_, index) in due {
                if !self.kill(index) {
                    self.to_kill.lock().unwrap().push((Instant::now() + PAUSE, index));
                }
            }
            thread::sleep(PAUSE / 2);
        }
    }

    /// Gives whether that is done.
    fn kill(&self, index: usize) -> bool {
        let (id, asked) = {
            let entry = &mut self.ledger().entries[index];
            if entry.seen.is_some() {
                return true;
            }
            (entry.id, *entry.kill_asked.get_or_insert_with(now))
        };
        let Some(answer) = self.call("POST", &format!("/kill/{id}")) else { return false };
        let mut ledger = self.ledger();
        match answer.status {
            200 => {
                ledger.count("kills");
                ledger.entries[index].kill_answered = Some(now());
                true
            }
            500 if ledger.was_full(asked, now()) => false,
            status => {
                ledger.violation(format!("kill of {id} was answered {status}: {}", answer.text()));
                true
            }
        }
    }

    fn break_all(&self) {
        while !self.is_over() {
            if self.breaks.load(Ordering::Relaxed) {
                let from = now();
                let (how, answer) = break_one(self.address);
                let mut ledger = self.ledger();
                match answer.map(|answer| answer.status) {
                    None | Some(400 | 408 | 503) => ledger.count("broken uploads"),
                    Some(507) if ledger.was_full(from, now()) => ledger.count("broken uploads"),
                    Some(status) => ledger.violation(format!("{how} was answered {status}")),
                }
            }
            thread::sleep(PAUSE * fastrand::u32(1..4));
        }
    }
}

/// An upload that must come to nothing. Gives how, and the answer, where there was one.
fn break_one(address: SocketAddr) -> (&'static str, Option<Answer>) {
    let good = Kind::Bulky.form(0);
    let head = wire::submit_head(good.len());
    let all = [head.as_bytes(), &good].concat();
    let in_head = &all[..fastrand::usize(1..head.len())];
    let in_body = &all[..fastrand::usize(head.len()..all.len() - 1)];
    let whole =
        |body: &[u8]| wire::try_send(address, [wire::submit_head(body.len()).as_bytes(), body].concat()).ok();
    let named = |name: &str| wire::form(&[("run.sh", b"exit 0"), (name, b"x")]);
    match fastrand::u32(0..9) {
        0 => ("an upload cut off in the head", cut(address, in_head, 0)),
        1 => ("an upload cut off in the body", cut(address, in_body, 0)),
        2 => ("an upload that stands still and is cut off", cut(address, in_body, fastrand::u64(0..800))),
        3 => ("an upload half-closed in the head", half_close(address, in_head)),
        4 => ("an upload half-closed in the body", half_close(address, in_body)),
        5 => ("an upload without its last line", whole(&good[..good.len() - 8])),
        6 => (
            "an upload of another boundary",
            whole(String::from_utf8_lossy(&good).replace("7MA4", "7MA5").as_bytes()),
        ),
        7 => ("an upload to a place above", whole(&named("../x"))),
        _ => ("an upload of a name given twice", whole(&named("run.sh"))),
    }
}

fn cut(address: SocketAddr, bytes: &[u8], pause_ms: u64) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    let _ = stream.write_all(bytes);
    thread::sleep(Duration::from_millis(pause_ms));
    None
}

fn half_close(address: SocketAddr, bytes: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    stream.write_all(bytes).ok()?;
    stream.shutdown(Shutdown::Write).ok()?;
    wire::try_read_answer(&mut BufReader::new(stream), false).ok()
}
