//! The system calls that neither std nor rustix offers safely: signals, `posix_spawn`, `waitid` and `wait4`.
//! The only file with `unsafe`, each block one call wide. Nothing here knows what a payload is.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr;
use std::time::Duration;

/// SIGTERM and SIGINT: the client takes them by waiting for them, never by a handler.
pub struct StopSignals(libc::sigset_t);

impl StopSignals {
    /// Blocks them, and SIGCHLD too, in the calling thread and in all that it starts from now on (`pthread_sigmask(3)`), so
    /// that only [`StopSignals::wait`] and [`child_ends`] take them. Call before any thread is started.
    pub fn block() -> io::Result<Self> {
        // Who was started with SIGCHLD ignored would have its children reaped by the kernel, their ends unseen (wait4(2)).
        // SAFETY: SIG_DFL is no function of ours; no handler can run.
        if unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
        let blocked = signal_set(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT])?;
        // SAFETY: `blocked` is initialised; a null old set is allowed.
        let code = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const blocked, ptr::null_mut()) };
        check_code(code)?;
        Ok(Self(signal_set(&[libc::SIGTERM, libc::SIGINT])?))
    }

    /// Waits for the next one (`sigwaitinfo(2)`). Signals of one kind that arrive together may be told once.
    pub fn wait(&self) -> io::Result<()> {
        loop {
            // SAFETY: the set is initialised; a null info is allowed.
            if unsafe { libc::sigwaitinfo(&raw const self.0, ptr::null_mut()) } != -1 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Takes one if it has arrived (`sigtimedwait(2)`), and says whether.
    pub fn has_come(&self) -> bool {
        let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: set and time are initialised; a null info is allowed.
        unsafe { libc::sigtimedwait(&raw const self.0, ptr::null_mut(), &raw const at_once) != -1 }
    }
}

/// What is to be read of [`child_ends`] at a time: a `struct signalfd_siginfo` (signalfd(2)).
pub const CHILD_END_BYTES: usize = size_of::<libc::signalfd_siginfo>();

/// A descriptor that is readable when children have ended since it was last read (`signalfd(2)`, Linux 2.6.27). Reading does
/// not wait. SIGCHLD must be blocked.
pub fn child_ends() -> io::Result<OwnedFd> {
    let set = signal_set(&[libc::SIGCHLD])?;
    // SAFETY: the set is initialised; -1 asks for a new descriptor.
    let descriptor = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    check(descriptor)?;
    // SAFETY: new, open, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn signal_set(signals: &[libc::c_int]) -> io::Result<libc::sigset_t> {
    let mut set = empty_signal_set();
    for signal in signals {
        // SAFETY: `set` is an initialised signal set and outlives the call.
        check(unsafe { libc::sigaddset(&raw mut set, *signal) })?;
    }
    Ok(set)
}

fn empty_signal_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set it is given and cannot fail for a valid pointer.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: initialised by the call above.
    unsafe { set.assume_init() }
}

fn full_signal_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigfillset` initialises the set it is given and cannot fail for a valid pointer.
    unsafe { libc::sigfillset(set.as_mut_ptr()) };
    // SAFETY: initialised by the call above.
    unsafe { set.assume_init() }
}

/// A program to start.
pub struct Command<'a> {
    /// Path of the program, relative to `directory` or absolute.
    pub program: &'a CStr,
    /// All arguments, the name of the program first.
    pub arguments: &'a [&'a CStr],
    /// `NAME=value` strings: the whole environment.
    pub environment: &'a [&'a CStr],
    /// Working directory of the child.
    pub directory: &'a CStr,
    /// The child's descriptors 0, 1 and 2, in this order. It gets no other, as long as all are close-on-exec.
    pub stdio: [BorrowedFd<'a>; 3],
}

/// Starts a program with `posix_spawn(3)`: in a session of its own, with an empty signal mask and default handlers.
///
/// `posix_spawn` runs on the caller's memory until the exec, as vfork does, so its cost does not grow with this process,
/// and it reports a failed exec as an error instead of a child that ends at once.
/// Needs glibc 2.29 or musl 1.1.24 (`posix_spawn_file_actions_addchdir_np`).
pub fn spawn(command: &Command<'_>) -> io::Result<u32> {
    let mut actions = FileActions::new()?;
    actions.change_directory(command.directory)?;
    for (target, source) in (0..).zip(command.stdio) {
        actions.duplicate(source, target)?;
    }
    let attributes = Attributes::for_payload()?;
    let arguments = null_terminated(command.arguments);
    let environment = null_terminated(command.environment);
    let mut pid = 0;
    // SAFETY: program, actions, attributes and both null-terminated arrays are initialised and outlive the call.
    let code = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            command.program.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            arguments.as_ptr(),
            environment.as_ptr(),
        )
    };
    check_code(code)?;
    u32::try_from(pid).map_err(io::Error::other)
}

fn null_terminated(strings: &[&CStr]) -> Vec<*mut libc::c_char> {
    let pointers = strings.iter().map(|string| string.as_ptr().cast_mut());
    pointers.chain([ptr::null_mut()]).collect()
}

struct FileActions(libc::posix_spawn_file_actions_t);

impl FileActions {
    fn new() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the call initialises the object it is given.
        check_code(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: initialised by the successful call above.
        Ok(Self(unsafe { actions.assume_init() }))
    }

    fn change_directory(&mut self, directory: &CStr) -> io::Result<()> {
        // SAFETY: the object is initialised; the path is copied by the call.
        check_code(unsafe { libc::posix_spawn_file_actions_addchdir_np(&raw mut self.0, directory.as_ptr()) })
    }

    fn duplicate(&mut self, source: BorrowedFd<'_>, target: libc::c_int) -> io::Result<()> {
        // SAFETY: the object is initialised; the descriptor is open as long as it is borrowed.
        check_code(unsafe {
            libc::posix_spawn_file_actions_adddup2(&raw mut self.0, source.as_raw_fd(), target)
        })
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn for_payload() -> io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the call initialises the object it is given.
        check_code(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: initialised by the successful call above.
        let mut attributes = Self(unsafe { attributes.assume_init() });
        let object = &raw mut attributes.0;
        let flags = libc::POSIX_SPAWN_SETSID
            | libc::c_short::try_from(libc::POSIX_SPAWN_SETSIGMASK).map_err(io::Error::other)?
            | libc::c_short::try_from(libc::POSIX_SPAWN_SETSIGDEF).map_err(io::Error::other)?;
        // SAFETY: the object is initialised.
        check_code(unsafe { libc::posix_spawnattr_setflags(object, flags) })?;
        let (empty, full) = (empty_signal_set(), full_signal_set());
        // SAFETY: object and set are initialised; the set is copied.
        check_code(unsafe { libc::posix_spawnattr_setsigmask(object, &raw const empty) })?;
        // SAFETY: object and set are initialised; the set is copied.
        check_code(unsafe { libc::posix_spawnattr_setsigdefault(object, &raw const full) })?;
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `for_payload`, destroyed once.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

/// Marks every descriptor but 0, 1 and 2 as close-on-exec (`fcntl(2)`): what this process was started with is not for its
/// children. All that it opens itself is marked from the beginning.
pub fn keep_descriptors_from_children() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(descriptor) = number.filter(|number| *number > 2) {
            // SAFETY: F_SETFD takes an integer and touches no memory; a descriptor that is closed by now gives EBADF, which
            // is as good.
            unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// How a child ended, and what it used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exit {
    /// Exit code, or the number of the signal that ended it.
    pub result: ExitResult,
    /// User CPU time of the child and the descendants that it waited for.
    pub user: Duration,
    /// System CPU time of the same.
    pub system: Duration,
    /// Largest resident set of one of them, in bytes.
    pub max_rss_bytes: u64,
}

/// Exit code or signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitResult {
    /// It exited with this code, 0 to 255.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// The pid of a child that has ended and is not reaped yet, if there is one (`waitid(2)` with WNOWAIT).
/// As long as it is not reaped, its pid and process group cannot be given to a stranger.
pub fn ended_child() -> Option<u32> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is writable and large enough for what the kernel writes.
    let code = unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) };
    if code != 0 {
        return None;
    }
    // SAFETY: zeroed before the call, which is a valid siginfo_t, and filled in by it where a child has ended.
    let info = unsafe { info.assume_init() };
    // SAFETY: all zero, or filled in for SIGCHLD, where si_pid is the field in use.
    let pid = unsafe { info.si_pid() };
    u32::try_from(pid).ok().filter(|pid| *pid > 0)
}

/// The kernel's `struct rusage`: two times of seconds and microseconds, the largest resident set, 13 more counters, all as
/// `long` (include/uapi/linux/resource.h).
const RUSAGE_LONGS: usize = 18;

/// Reaps one ended child (`wait4(2)`). `None` if there is no such child, or it has not ended.
///
/// By its number, since musl's function for programs with 32-bit times, which is what the libc crate calls on ARM, leaves
/// the usage out (compat/time32/wait4_time32.c, musl 1.2).
pub fn reap(pid: u32) -> Option<Exit> {
    let pid = libc::pid_t::try_from(pid).ok()?;
    let mut status: libc::c_int = 0;
    let mut usage: [libc::c_long; RUSAGE_LONGS] = [0; RUSAGE_LONGS];
    // SAFETY: the arguments are those of wait4(2); both pointers are valid for what the kernel writes.
    let reaped =
        unsafe { libc::syscall(libc::SYS_wait4, pid, &raw mut status, libc::WNOHANG, usage.as_mut_ptr()) };
    if reaped != libc::c_long::from(pid) {
        return None;
    }
    let [user_s, user_rest_us, system_s, system_rest_us, max_rss_kib, ..] = usage;
    let result = if libc::WIFEXITED(status) {
        ExitResult::Code(libc::WEXITSTATUS(status))
    } else {
        ExitResult::Signal(libc::WTERMSIG(status))
    };
    Some(Exit {
        result,
        user: duration(user_s, user_rest_us),
        system: duration(system_s, system_rest_us),
        max_rss_bytes: u64::try_from(max_rss_kib).unwrap_or(0) * 1024,
    })
}

fn duration(seconds: libc::c_long, micros: libc::c_long) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
        + Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// How many bytes that were written to a TCP socket its peer has not acknowledged yet (SIOCOUTQ, tcp(7)).
pub fn unsent_bytes(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut count: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as it is borrowed, and the request writes one int.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) })?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// For calls that return -1 and set `errno`.
fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// For calls that return the error number itself.
fn check_code(code: libc::c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}
