//! What systemd and this program tell each other: READY, STOPPING and WATCHDOG, to the socket that NOTIFY_SOCKET names
//! (sd_notify(3)), and the sockets that LISTEN_FDS counts (sd_listen_fds(3)). Without these variables there is nothing to do.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use crate::{event, sys};

/// The service manager's socket, if there is one.
pub struct Notifier {
    target: Option<Target>,
}

struct Target {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Notifier {
    /// From NOTIFY_SOCKET. A socket that cannot be used is logged and left: the service manager will notice.
    pub fn from_environment() -> Self {
        let target = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()).and_then(|name| {
            Target::open(&name)
                .inspect_err(|error| event!(Warn, "cannot use NOTIFY_SOCKET", error = *error))
                .ok()
        });
        Self { target }
    }

    /// Tells that requests are served.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// Tells that the client is on its way out.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Starts to tell, twice in each period of WATCHDOG_USEC, that the client is well; silent while it is not, so that
    /// the service manager starts it anew.
    pub fn watch(&self, is_well: impl Fn() -> bool + Send + 'static) -> io::Result<()> {
        let (Some(period), Some(target)) = (watchdog_period(), &self.target) else { return Ok(()) };
        let target = Target { socket: target.socket.try_clone()?, address: target.address.clone() };
        let notifier = Self { target: Some(target) };
        thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            // READY is the first word: the first of these is due half a period after it.
            loop {
                thread::sleep(period / 2);
                if is_well() {
                    notifier.send("WATCHDOG=1");
                }
            }
        })?;
        Ok(())
    }

    fn send(&self, state: &str) {
        if let Some(target) = &self.target
            && let Err(error) = target.socket.send_to_addr(state.as_bytes(), &target.address)
        {
            event!(Warn, "cannot notify the service manager", state = state, error = error);
        }
    }
}

impl Target {
    /// A path, or a name in the abstract namespace where it begins with `@` (unix(7)).
    fn open(name: &OsString) -> io::Result<Self> {
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        Ok(Self { socket: UnixDatagram::unbound()?, address })
    }
}

/// Whether what is written to standard error goes to the journal of systemd: JOURNAL_STREAM has its device and inode
/// (systemd.exec(5)).
pub fn is_read_by_journal() -> bool {
    let Some(named) = std::env::var_os("JOURNAL_STREAM") else { return false };
    let stderr = rustix::fs::fstat(io::stderr());
    stderr.is_ok_and(|stderr| named.to_str() == Some(&format!("{}:{}", stderr.st_dev, stderr.st_ino)))
}

/// The first descriptor that LISTEN_FDS counts (SD_LISTEN_FDS_START).
const FIRST_SOCKET: i32 = 3;

/// More sockets than any unit has: a number beyond it is a mistake.
const MOST_SOCKETS: i32 = 64;

/// The sockets that the service manager has made for this process, in the order of their unit. To be called once, before this process
/// opens any descriptor. An error where LISTEN_FDS counts what is not there.
pub fn sockets() -> io::Result<Vec<OwnedFd>> {
    let number = |name| std::env::var(name).ok()?.parse::<i32>().ok();
    let is_for_us = number("LISTEN_PID").is_some_and(|pid| u32::try_from(pid) == Ok(std::process::id()));
    let count = number("LISTEN_FDS").filter(|count| is_for_us && (1..=MOST_SOCKETS).contains(count));
    let numbers = FIRST_SOCKET..FIRST_SOCKET + count.unwrap_or(0);
    numbers.map(|number| sys::inherited(number).ok_or_else(|| Errno::BADF.into())).collect()
}

/// The watchdog's period, if it is meant for this process (sd_watchdog_enabled(3)).
fn watchdog_period() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let is_for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let micros = number("WATCHDOG_USEC").filter(|micros| *micros > 0 && is_for_us)?;
    Some(Duration::from_micros(micros))
}
