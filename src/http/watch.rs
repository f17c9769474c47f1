//! Wakes coroutines that wait for something else: when their time is over, or when their caller has hung up.
//!
//! One thread, asleep in epoll_wait(2) until the earliest of the times. A time goes with what it times: nothing is left of a wait
//! that is over, and none that ends before its time costs a wake-up.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use may::sync::Blocker;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{self, RecvFlags};

/// What the bell is known by; waits have the numbers after it.
const BELL: u64 = 0;

/// Callers that hung up, taken at a time.
const EVENTS: usize = 64;

/// epoll_wait(2) of old kernels takes some weeks at the most.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// The thread that wakes; cheap to clone.
#[derive(Clone)]
pub struct Watch {
    shared: Arc<Shared>,
}

struct Shared {
    epoll: OwnedFd,
    /// Ends the sleep of the thread, for a time that is earlier than it knows of.
    bell: OwnedFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    by_time: BTreeMap<(Instant, u64), Arc<Blocker>>,
    by_caller: HashMap<u64, Arc<Blocker>>,
    last_number: u64,
    /// Until when the thread sleeps; `None`: until it is told.
    asleep_until: Option<Instant>,
}

impl Watch {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN)?;
        let shared = Arc::new(Shared { epoll, bell, state: Mutex::default() });
        let this = Self { shared: Arc::clone(&shared) };
        thread::Builder::new().name("watch".to_owned()).spawn(move || shared.wake())?;
        Ok(this)
    }

    /// Wakes `blocker` at `deadline`, unless what is given has been dropped by then.
    pub(super) fn at(&self, deadline: Instant, blocker: &Arc<Blocker>) -> Alarm<'_> {
        let mut state = self.shared.lock();
        state.last_number += 1;
        let number = state.last_number;
        state.by_time.insert((deadline, number), Arc::clone(blocker));
        let is_earlier = state.asleep_until.is_none_or(|until| deadline < until);
        if is_earlier {
            // Told once: others that come before the thread is awake need not ring again.
            state.asleep_until = Some(deadline);
        }
        drop(state);
        if is_earlier {
            self.shared.ring();
        }
        Alarm { shared: &self.shared, deadline, number, caller: None }
    }
}

/// A wake-up to come.
pub(super) struct Alarm<'w> {
    shared: &'w Shared,
    deadline: Instant,
    number: u64,
    caller: Option<BorrowedFd<'w>>,
}

impl<'w> Alarm<'w> {
    /// Wakes also when the peer of this socket sends no more: it has hung up, or closed its side, which nobody can tell apart.
    pub(super) fn or_hang_up(mut self, caller: BorrowedFd<'w>, blocker: &Arc<Blocker>) -> Self {
        self.shared.lock().by_caller.insert(self.number, Arc::clone(blocker));
        let added = epoll::add(
            &self.shared.epoll,
            caller,
            EventData::new_u64(self.number),
            EventFlags::RDHUP | EventFlags::ONESHOT,
        );
        // Where the kernel has no memory for it, the time is all that wakes.
        self.caller = added.is_ok().then_some(caller);
        self
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if let Some(caller) = self.caller {
            // It was added, and is open.
            let _ = epoll::delete(&self.shared.epoll, caller);
        }
        let mut state = self.shared.lock();
        state.by_time.remove(&(self.deadline, self.number));
        state.by_caller.remove(&self.number);
    }
}

impl Shared {
    /// Held for a few instructions only, never while waiting.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        // Full means that it rings already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    fn wake(&self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let now = Instant::now();
            let sleep = self.wake_those_due(now).map(|until| until.saturating_duration_since(now));
            let sleep = sleep.map(|sleep| sleep.min(LONGEST_SLEEP));
            let timeout = sleep.and_then(|sleep| Timespec::try_from(sleep).ok());
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                // It has no other error for a descriptor that is an epoll's; none may make this thread spin.
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
            for event in &events {
                self.take(event);
            }
        }
    }

    /// Gives when the next one is due.
    fn wake_those_due(&self, now: Instant) -> Option<Instant> {
        let mut state = self.lock();
        while let Some(first) = state.by_time.first_entry() {
            if first.key().0 > now {
                break;
            }
            first.remove().unpark();
        }
        state.asleep_until = state.by_time.first_key_value().map(|(key, _)| key.0);
        state.asleep_until
    }

    fn take(&self, event: &Event) {
        let data = event.data;
        if data.u64() == BELL {
            let _ = rustix::io::read(self.bell.as_fd(), &mut [0_u8; 8]);
        } else if let Some(blocker) = self.lock().by_caller.remove(&data.u64()) {
            blocker.unpark();
        }
    }
}

/// Who asked, and waits as well.
pub struct Caller<'c> {
    watch: &'c Watch,
    socket: Option<BorrowedFd<'c>>,
}

impl<'c> Caller<'c> {
    pub(super) fn new(watch: &'c Watch, socket: Option<BorrowedFd<'c>>) -> Self {
        Self { watch, socket }
    }

    /// Waits until `blocker` is woken by somebody, for `most` at the most, and no longer than the caller is there.
    pub(super) fn wait(&self, most: Duration, blocker: &Arc<Blocker>) {
        let alarm = self.watch.at(Instant::now() + most, blocker);
        let _alarm = match self.socket {
            Some(socket) => alarm.or_hang_up(socket, blocker),
            None => alarm,
        };
        // Without a time-out of its own, and coroutines are never cancelled here: there is no error to come.
        let _ = blocker.park(None);
    }

    /// Does nothing for so long, unless the caller hangs up.
    pub fn rest(&self, time: Duration) {
        self.wait(time, &Blocker::current());
    }

    /// Whether the peer sends no more: it has hung up, or closed its side, which nobody can tell apart.
    pub(super) fn has_hung_up(&self) -> bool {
        let Some(socket) = self.socket else { return false };
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut socket = [PollFd::from_borrowed_fd(socket, PollFlags::RDHUP)];
        // Errors and the end of both sides are told unasked (poll(2)).
        poll(&mut socket, Some(&at_once)).is_ok_and(|count| count > 0)
    }
}

/// How long one request may wait for what is not its caller's: its time runs while it waits, and anew when something moves.
pub(super) struct Patience<'w> {
    watch: &'w Watch,
    /// The connection of whoever waits as well.
    caller: Option<BorrowedFd<'w>>,
    whole: Duration,
    left: Duration,
}

impl<'w> Patience<'w> {
    pub(super) fn new(watch: &'w Watch, whole: Duration) -> Self {
        Self { watch, caller: None, whole, left: whole }
    }

    /// The same, as long as the peer of this socket is there, which is looked at with each sign of life.
    pub(super) fn with(self, caller: BorrowedFd<'w>) -> Self {
        Self { caller: Some(caller), ..self }
    }

    /// Waits until `blocker` is woken by somebody; `TimedOut` if no time is left. Whoever waits looks again in any case.
    pub(super) fn wait(&mut self, blocker: &Arc<Blocker>) -> io::Result<()> {
        if self.left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let begun = Instant::now();
        let alarm = self.watch.at(begun + self.left, blocker);
        // Without a time-out of its own, and coroutines are never cancelled here: there is no error to come.
        let _ = blocker.park(None);
        drop(alarm);
        self.left = self.left.saturating_sub(begun.elapsed());
        Ok(())
    }

    /// Something has moved.
    pub(super) fn renew(&mut self) {
        self.left = self.whole;
    }

    /// Nothing has moved, but it is being worked on. `ConnectionAborted` if the caller has hung up: work that takes minutes is not
    /// done for nobody.
    pub(super) fn sign_of_life(&mut self) -> io::Result<()> {
        self.renew();
        let is_there = self.caller.is_none_or(|caller| {
            let looked = net::recv(caller, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
            !matches!(looked, Ok((_, 0))) && matches!(looked, Ok(_) | Err(Errno::AGAIN | Errno::INTR))
        });
        if is_there { Ok(()) } else { Err(io::ErrorKind::ConnectionAborted.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Shutdown, TcpListener, TcpStream};

    const LONG: Duration = Duration::from_secs(60);

    fn is_empty(watch: &Watch) -> bool {
        let state = watch.shared.lock();
        state.by_time.is_empty() && state.by_caller.is_empty()
    }

    #[test]
    fn each_is_woken_at_its_time_and_nothing_is_left() {
        let watch = Watch::start().expect("a thread");
        let begun = Instant::now();
        let waits: Vec<_> = [300, 100, 200]
            .map(|ms| {
                let watch = watch.clone();
                thread::spawn(move || {
                    let blocker = Blocker::current();
                    let _alarm = watch.at(begun + Duration::from_millis(ms), &blocker);
                    blocker.park(None).expect("woken");
                    assert!(begun.elapsed() >= Duration::from_millis(ms));
                })
            })
            .into();
        for wait in waits {
            wait.join().expect("no panic");
        }
        assert!(is_empty(&watch));
        drop(watch.at(begun + LONG, &Blocker::current()));
        assert!(is_empty(&watch));
    }

    #[test]
    fn a_caller_that_sends_no_more_wakes_and_one_that_sends_does_not() {
        let watch = Watch::start().expect("a thread");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
        let (socket, _) = listener.accept().expect("a connection");
        let blocker = Blocker::current();
        let begun = Instant::now();
        let soon = begun + Duration::from_millis(200);
        io::Write::write_all(&mut peer, b"more").expect("an open socket");
        let alarm = watch.at(soon, &blocker).or_hang_up(socket.as_fd(), &blocker);
        blocker.park(None).expect("woken");
        assert!(Instant::now() >= soon);
        drop(alarm);
        let alarm = watch.at(begun + LONG, &blocker).or_hang_up(socket.as_fd(), &blocker);
        peer.shutdown(Shutdown::Write).expect("an open socket");
        blocker.park(None).expect("woken");
        drop(alarm);
        assert!(begun.elapsed() < LONG);
        assert!(is_empty(&watch));
    }

    #[test]
    fn patience_ends_after_its_time_in_all_and_begins_anew_when_something_moves() {
        let watch = Watch::start().expect("a thread");
        let most = Duration::from_millis(200);
        let mut patience = Patience::new(&watch, most);
        for _ in 0..2 {
            let begun = Instant::now();
            let blocker = Blocker::current();
            let waker = Arc::clone(&blocker);
            thread::spawn(move || {
                thread::sleep(most / 2);
                waker.unpark();
            });
            while patience.wait(&blocker).is_ok() {}
            assert!(begun.elapsed() >= most);
            assert!(patience.wait(&blocker).is_err());
            patience.renew();
        }
    }
}
