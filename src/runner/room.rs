//! Rooms, as the runner has them: made where none is free, lent to a payload, and taken back at its end if they are still there.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use rustix::process::Signal;

use super::guard::OWN_PROGRAM;
use super::keeper::{answer, order};
use super::processes;
use crate::sys::{self, Call, Command};

/// Making one takes milliseconds.
const MAKING_WAIT: Duration = Duration::from_secs(10);

/// A reason fits in it.
const ANSWER_BYTES: usize = 512;

/// What a keeper has told.
enum Heard {
    Nothing,
    /// Nothing lives in the room, in this turn.
    Empty,
    /// The room comes to its end.
    End,
}

/// The PID namespace of a slot, with the user namespace that it is in where that is another one, and its keeper.
pub(super) struct Room {
    keeper: u32,
    namespaces: Vec<OwnedFd>,
    socket: OwnedFd,
    is_gone: bool,
    /// How often it was lent: what is told of an earlier payload is not taken for news.
    turn: u8,
    /// Its keeper was told to end all in this turn, and has not answered since: it may do so late.
    is_signalled: Cell<bool>,
}

impl Room {
    /// Makes one. Its keeper rings this bell.
    pub(super) fn make(bell: BorrowedFd<'_>) -> io::Result<Self> {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let nowhere = OpenOptions::new().write(true).open("/dev/null")?;
        let maker = sys::spawn(&Command {
            program: OWN_PROGRAM,
            arguments: &[c"job-orchestrator", c"keeper"],
            environment: &[],
            directory: c"/",
            stdio: [theirs.as_fd(), bell, nowhere.as_fd()],
            namespaces: &[],
            calls: &[],
        })
        .map_err(io::Error::other)?;
        drop(theirs);
        let told = await_answer(&socket);
        if told.is_err() {
            processes::signal_one(maker, Signal::KILL);
        }
        sys::await_child(maker);
        let told = told?;
        let (keeper, has_user) = match &told[..] {
            [answer::MADE, a, b, c, d, has_user] => (u32::from_ne_bytes([*a, *b, *c, *d]), *has_user == 1),
            [answer::FAILED, reason @ ..] => {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    String::from_utf8_lossy(reason).into_owned(),
                ));
            }
            _ => return Err(io::Error::other("its keeper has told nothing")),
        };
        let mut room = Self {
            keeper,
            namespaces: Vec::new(),
            socket,
            is_gone: false,
            turn: 0,
            is_signalled: Cell::new(false),
        };
        let kinds = if has_user { &["user", "pid"][..] } else { &["pid"] };
        for kind in kinds {
            room.namespaces.push(File::open(format!("/proc/{keeper}/ns/{kind}"))?.into());
        }
        room.order(order::CLOSE);
        Ok(room)
    }

    /// Makes these calls in it, and executes a program.
    fn try_calls(&self, calls: &[Call]) -> io::Result<()> {
        let nowhere = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        let tried = sys::spawn(&Command {
            program: OWN_PROGRAM,
            arguments: &[c"job-orchestrator", c"--version"],
            environment: &[],
            directory: c"/",
            stdio: [nowhere.as_fd(); 3],
            namespaces: &self.namespaces(),
            calls,
        });
        let pid = tried.map_err(io::Error::other)?;
        sys::await_child(pid);
        Ok(())
    }

    /// The pid of its keeper.
    pub(super) fn keeper(&self) -> u32 {
        self.keeper
    }

    /// What a payload is started in.
    pub(super) fn namespaces(&self) -> Vec<BorrowedFd<'_>> {
        self.namespaces.iter().map(OwnedFd::as_fd).collect()
    }

    /// Sends a signal to all that lives in it. SIGKILL is the end of the room itself, which nothing in it escapes.
    pub(super) fn signal(&self, signal: Signal) {
        match signal {
            Signal::KILL if !self.is_gone => processes::signal_one(self.keeper, Signal::KILL),
            Signal::TERM => {
                self.is_signalled.set(true);
                self.order(order::TERMINATE);
            }
            _ => {}
        }
    }

    /// It was made for the payload that it is lent to.
    pub(super) fn is_new(&self) -> bool {
        self.turn <= 1
    }

    /// Notes that its keeper has ended and is reaped: nothing lives in it, nor ever will.
    pub(super) fn note_end(&mut self) {
        self.is_gone = true;
    }

    /// Whether anything lives in it but its keeper, once `run.sh` has ended. If so, its keeper rings when that has changed.
    pub(super) fn is_occupied(&self) -> bool {
        if self.is_gone {
            return false;
        }
        match self.hear() {
            Heard::Empty => {
                self.is_signalled.set(false);
                return false;
            }
            // All that lives there is being ended, and the keeper is reaped after the last of them.
            Heard::End => return true,
            Heard::Nothing => {}
        }
        // All that is left are its keeper's children, and theirs (proc_tid_children(5)). None is none, at that moment and for good.
        // But a signal that its keeper has yet to send would reach the next payload: orders are obeyed one after the other.
        if !self.is_signalled.get() {
            let children = fs::read(format!("/proc/{0}/task/{0}/children", self.keeper));
            if children.is_ok_and(|list| list.is_empty()) {
                return false;
            }
        }
        self.order(order::WATCH);
        true
    }

    fn hear(&self) -> Heard {
        let mut told = [0; 2];
        loop {
            match recv(&self.socket, &mut told, RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return Heard::End,
                Ok(_) if told == [answer::EMPTY, self.turn] => return Heard::Empty,
                // Of an earlier payload.
                Ok(_) => {}
                Err(_) => return Heard::Nothing,
            }
        }
    }

    /// A keeper that is gone is told of by its end.
    fn order(&self, order: u8) {
        let _ = send(&self.socket, &[order, self.turn], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }
}

/// The rooms that are there, and where a payload comes from when one has to be made.
pub struct RoomPool {
    idle: Vec<Room>,
    /// Rung by all keepers.
    bell: OwnedFd,
}

impl RoomPool {
    /// Makes a first room, and tries there what every payload does in one: `trial`. The error is for people, with what would help.
    pub fn open(trial: &[Call]) -> Result<Self, String> {
        Self::try_open(trial).map_err(|error| {
            format!(
                "this host gives payloads no namespaces ({error}): permit user namespaces (the seccomp profile of a container, \
                 kernel.apparmor_restrict_unprivileged_userns=0, kernel.unprivileged_userns_clone=1, user.max_user_namespaces), on \
                 Linux 5.12 or later"
            )
        })
    }

    fn try_open(trial: &[Call]) -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let room = Room::make(bell.as_fd())?;
        room.try_calls(trial)?;
        Ok(Self { idle: vec![room], bell })
    }

    /// Readable when something has been told by a keeper.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Whether it has rung since the last call.
    pub(super) fn has_rung(&self) -> bool {
        rustix::io::read(&self.bell, &mut [0; 8]).is_ok()
    }

    /// A room for a payload.
    pub(super) fn lend(&mut self) -> io::Result<Room> {
        // One that is coming to its end is told of soon.
        let free = self.idle.iter().rposition(|room| !matches!(room.hear(), Heard::End));
        let mut room = match free {
            Some(index) => self.idle.swap_remove(index),
            None => Room::make(self.bell.as_fd())?,
        };
        room.turn = room.turn.wrapping_add(1);
        Ok(room)
    }

    /// Takes a room back in which nothing lives any more.
    pub(super) fn take_back(&mut self, room: Room) {
        if !room.is_gone {
            self.idle.push(room);
        }
    }

    /// Forgets the room of this keeper, which has ended. Gives whether there was one.
    pub(super) fn forget(&mut self, keeper: u32) -> bool {
        let before = self.idle.len();
        self.idle.retain(|room| room.keeper != keeper);
        self.idle.len() < before
    }

    /// The keepers of those that are not lent.
    pub(super) fn keepers(&self) -> impl Iterator<Item = u32> {
        self.idle.iter().map(|room| room.keeper)
    }
}

fn await_answer(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let wait = Timespec::try_from(MAKING_WAIT).ok();
    let mut bells = [PollFd::new(socket, PollFlags::IN)];
    while let Err(errno) = poll(&mut bells, wait.as_ref()) {
        if errno != Errno::INTR {
            return Err(errno.into());
        }
    }
    let mut told = vec![0; ANSWER_BYTES];
    let (length, _) = recv(socket, &mut told[..], RecvFlags::DONTWAIT)?;
    told.truncate(length);
    Ok(told)
}
