//! The system calls that neither std nor rustix offers safely: signals, `clone`, `waitid` and `wait4`.
//! The only file with `unsafe`, each block one call wide. Nothing here knows what a payload is.

#[path = "sys/call.rs"] // for `fuzz/`, too, which compiles this file from elsewhere
mod call;
pub mod landlock;

use std::ffi::CStr;
use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd as _, OwnedFd, RawFd};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Signal;

use call::Trees;

pub use call::{Call, Text};

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
    /// Namespaces that the child is made in (setns(2)), in this order. It is this process's child all the same.
    pub namespaces: &'a [BorrowedFd<'a>],
    /// What it does before it enters its directory and executes the program, in this order.
    pub calls: &'a [Call],
}

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The system gives no process.
    #[error("no process: {0}")]
    Process(#[source] io::Error),
    /// A namespace cannot be entered, or nothing be started in it.
    #[error("namespace: {0}")]
    Namespace(#[source] io::Error),
    /// One of the calls has failed.
    #[error("{call}: {error}")]
    Call {
        /// Which, in words.
        call: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The working directory cannot be entered.
    #[error("working directory: {0}")]
    Directory(#[source] io::Error),
    /// The program cannot be executed.
    #[error("program: {0}")]
    Program(#[source] io::Error),
}

/// What a child tells its parent of.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Told {
    /// The number of the process that is to execute the program, where another one has made it.
    Process,
    /// The error number of what has failed.
    Preparation,
    Namespace,
    Directory,
    Program,
    /// The error number of the first call; those of the others follow.
    Call,
}

/// What is told: of what, and its number, 4 bytes each.
const TOLD_BYTES: usize = 8;

/// The child makes plain system calls only. In units of 16 bytes, by which all machines align their stacks.
const CHILD_STACK_UNITS: usize = 1024;

/// Of it, for the child of a child.
const INNER_STACK_UNITS: usize = 512;

/// Starts a program: in a session of its own, with an empty signal mask and default signal handlers. SIGXFSZ is ignored where
/// it was when this process was started.
///
/// By clone(2) as vfork(2) does it: the child runs on this process's memory until the exec, while this thread waits, so the cost
/// does not grow with this process. A failure comes through a pipe, since an emulator may give the child memory of its own.
///
/// Where namespaces are given, a first child enters them and makes the second one, in them, by CLONE_PARENT: a process cannot enter
/// a PID namespace itself (pid_namespaces(7)), and one that has entered a user namespace has lost its own rights.
pub fn spawn(command: &Command<'_>) -> Result<u32, SpawnError> {
    let (mut failure, told) = io::pipe().map_err(SpawnError::Process)?;
    let arguments = null_terminated(command.arguments);
    let environment = null_terminated(command.environment);
    let child = Child {
        command,
        arguments: arguments.as_ptr(),
        environment: environment.as_ptr(),
        signals: signals_to_reset(),
        no_signals: empty_signal_set(),
        trees: Trees::of(command.calls),
        told: told.as_fd(),
    };
    let first = child.start().map_err(SpawnError::Process)?;
    // Another end of the pipe is the child's, which closes it by its exec.
    drop(told);
    let is_in_namespaces = !command.namespaces.is_empty();
    if is_in_namespaces {
        await_end(first);
    }
    let mut pid = (!is_in_namespaces).then_some(first);
    let mut failed = None;
    while let Some((of, number)) = next_told(&mut failure) {
        if of == Told::Process as i32 {
            pid = Some(number);
        } else {
            failed = Some((of, number));
        }
    }
    let Some((of, number)) = failed else {
        let pid = pid.and_then(|pid| u32::try_from(pid).ok());
        return pid.ok_or_else(|| SpawnError::Process(io::Error::other("the child has told nothing")));
    };
    // The child has told its failure and ends at once.
    pid.filter(|_| of != Told::Namespace as i32).into_iter().for_each(await_end);
    let error = io::Error::from_raw_os_error(number);
    let call = usize::try_from(of - Told::Call as i32).ok().and_then(|index| command.calls.get(index));
    if let Some(call) = call {
        return Err(SpawnError::Call { call: call.to_string(), error });
    }
    Err(match of {
        of if of == Told::Namespace as i32 => SpawnError::Namespace(error),
        of if of == Told::Directory as i32 => SpawnError::Directory(error),
        of if of == Told::Program as i32 => SpawnError::Program(error),
        _ => SpawnError::Process(error),
    })
}

/// Whether the system gives a process now: one is made, and ends at once.
pub fn try_process() -> io::Result<()> {
    let mut stack = [MaybeUninit::uninit(); CHILD_STACK_UNITS];
    await_end(clone(end_at_once, &mut stack, 0, ptr::null_mut())?);
    Ok(())
}

/// Waits for the end of a child that ends at once, and reaps it.
pub fn await_child(pid: u32) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        await_end(pid);
    }
}

/// Makes a copy of this process as another child of its parent (clone(2), CLONE_PARENT). `None` in the copy. For a process that has
/// one thread.
pub fn copy_beside() -> io::Result<Option<u32>> {
    // SAFETY: no memory is shared, and no stack is given: the copy goes on on its copy of this one, as after fork(2).
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT | libc::SIGCHLD, 0, 0, 0, 0) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(u32::try_from(pid).ok()),
    }
}

/// Sends a signal to all processes that this one may signal but itself and the first one of its PID namespace (kill(2)).
pub fn signal_all(signal: Signal) {
    // SAFETY: touches no memory. No process is nothing to signal.
    unsafe { libc::kill(-1, signal.as_raw()) };
}

/// Whether this process has any child, ended or not (waitid(2)).
pub fn has_children() -> bool {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: a null info is allowed on Linux.
    unsafe { libc::waitid(libc::P_ALL, 0, ptr::null_mut(), options) == 0 }
}

/// For a child that is about to end.
fn await_end(pid: libc::pid_t) {
    // SAFETY: a null status is allowed.
    unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
}

/// `None` once the program is executed, or the child gone.
fn next_told(pipe: &mut io::PipeReader) -> Option<(i32, i32)> {
    let mut told = [0; TOLD_BYTES];
    pipe.read_exact(&mut told).ok()?;
    let (of, number) = told.split_at(TOLD_BYTES / 2);
    let int = |bytes: &[u8]| bytes.try_into().map_or(0, i32::from_ne_bytes);
    Some((int(of), int(number)))
}

/// The memory of `function` is this process's, and this thread waits until it has ended or executed a program.
fn clone(
    function: extern "C" fn(*mut libc::c_void) -> libc::c_int,
    stack: &mut [MaybeUninit<u128>],
    more_flags: libc::c_int,
    argument: *mut libc::c_void,
) -> io::Result<libc::pid_t> {
    // Stacks grow downwards on all machines that this is built for.
    let top = stack.as_mut_ptr_range().end.cast();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD | more_flags;
    // SAFETY: `stack` and what `argument` points to outlive the child's use of them: this call returns after it. The child makes
    // async-signal-safe calls only and does not return into this function.
    let pid = unsafe { libc::clone(function, top, flags, argument) };
    check(pid)?;
    Ok(pid)
}

extern "C" fn end_at_once(_: *mut libc::c_void) -> libc::c_int {
    // SAFETY: ends the child alone, without any clean-up of this process.
    unsafe { libc::_exit(0) }
}

/// What a child needs, made before: it must not allocate.
struct Child<'a> {
    command: &'a Command<'a>,
    arguments: *const *const libc::c_char,
    environment: *const *const libc::c_char,
    signals: &'a [libc::c_int],
    no_signals: libc::sigset_t,
    trees: Trees,
    told: BorrowedFd<'a>,
}

impl Child<'_> {
    fn start(&self) -> io::Result<libc::pid_t> {
        let mut stack = [MaybeUninit::uninit(); CHILD_STACK_UNITS];
        // No handler of this process may run in the child.
        let all = full_signal_set();
        let mut before = empty_signal_set();
        // SAFETY: both sets are initialised.
        check_code(unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) })?;
        let main = if self.command.namespaces.is_empty() { Self::main } else { Self::enter };
        let pid = clone(main, &mut stack, 0, ptr::from_ref(self).cast_mut().cast());
        // SAFETY: the set is initialised; a null old set is allowed.
        check_code(unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) })?;
        pid
    }

    /// The whole life of one that only makes another, in the namespaces.
    extern "C" fn enter(this: *mut libc::c_void) -> libc::c_int {
        // SAFETY: it is the `self` of `start`, which waits meanwhile.
        let this = unsafe { &*this.cast::<Child<'_>>() };
        let entered = this.command.namespaces.iter().try_for_each(|namespace| {
            let number = namespace.as_raw_fd().cast_unsigned() as usize;
            // A filter that lets in some kinds only (RestrictNamespaces= of systemd) has to see which one it is.
            let kind = system_call(libc::SYS_ioctl, [number, NS_GET_NSTYPE, 0, 0, 0]).unwrap_or(0);
            system_call(libc::SYS_setns, [number, kind, 0, 0, 0]).map(|_| ())
        });
        let mut stack = [MaybeUninit::uninit(); INNER_STACK_UNITS];
        let made = entered.and_then(|()| {
            let argument = ptr::from_ref(this).cast_mut().cast();
            clone(Self::main, &mut stack, libc::CLONE_PARENT, argument).map_err(|_| last_errno())
        });
        match made {
            Ok(pid) => this.tell(Told::Process as i32, pid),
            Err(errno) => this.tell(Told::Namespace as i32, errno.raw_os_error()),
        }
        end_at_once(ptr::null_mut())
    }

    /// The child's whole life, should its exec fail.
    extern "C" fn main(this: *mut libc::c_void) -> libc::c_int {
        // SAFETY: it is the `self` of `start`, which waits meanwhile.
        let this = unsafe { &*this.cast::<Child<'_>>() };
        let (step, error) = this.run();
        this.tell(step, error.raw_os_error());
        end_at_once(ptr::null_mut())
    }

    /// Who started this child waits for it.
    fn tell(&self, of: i32, number: i32) {
        let mut told = [0; TOLD_BYTES];
        let (first, second) = told.split_at_mut(TOLD_BYTES / 2);
        first.copy_from_slice(&of.to_ne_bytes());
        second.copy_from_slice(&number.to_ne_bytes());
        let _ = rustix::io::write(self.told, &told);
    }

    /// Comes back only with a failure.
    fn run(&self) -> (i32, Errno) {
        if let Err(errno) = self.prepare() {
            return (Told::Preparation as i32, errno);
        }
        for (of, call) in (Told::Call as i32..).zip(self.command.calls) {
            if let Err(errno) = call.make(&self.trees) {
                return (of, errno);
            }
        }
        if let Err(errno) = rustix::process::chdir(self.command.directory) {
            return (Told::Directory as i32, errno);
        }
        // SAFETY: program and both null-terminated arrays outlive the call, which comes back only when it fails.
        unsafe { libc::execve(self.command.program.as_ptr(), self.arguments, self.environment) };
        (Told::Program as i32, last_errno())
    }

    fn prepare(&self) -> Result<(), Errno> {
        for signal in self.signals {
            // SAFETY: SIG_DFL is no function of ours; handlers are the child's own, it shares memory alone.
            if unsafe { libc::signal(*signal, libc::SIG_DFL) } == libc::SIG_ERR {
                return Err(last_errno());
            }
        }
        rustix::process::setsid()?;
        for (target, source) in (0..).zip(self.command.stdio) {
            // SAFETY: touches no memory; the source is open, and the child's descriptors are its own.
            if unsafe { libc::dup2(source.as_raw_fd(), target) } == -1 {
                return Err(last_errno());
            }
        }
        // SAFETY: the set is initialised; a null old set is allowed.
        match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.no_signals, ptr::null_mut()) }
        {
            0 => Ok(()),
            code => Err(Errno::from_raw_os_error(code)),
        }
    }
}

/// A descriptor that a system call has given.
fn owned(descriptor: usize) -> OwnedFd {
    let descriptor = RawFd::try_from(descriptor).unwrap_or(-1);
    // SAFETY: new, open, and nobody else's.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// A system call that writes to no memory of this process: an address among its arguments is of what the kernel reads.
fn system_call(number: libc::c_long, arguments: [usize; 5]) -> Result<usize, Errno> {
    let [first, second, third, fourth, fifth] = arguments;
    // SAFETY: the kernel checks what it reads, and writes nothing.
    let result = unsafe { libc::syscall(number, first, second, third, fourth, fifth) };
    usize::try_from(result).map_err(|_| last_errno())
}

/// Of which kind a namespace is (ioctl_nsfs(2), Linux 4.11).
const NS_GET_NSTYPE: usize = 0xb703;

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn null_terminated(strings: &[&CStr]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// Whether SIGXFSZ was ignored when this process was started.
static FILE_SIZE_WAS_IGNORED: AtomicBool = AtomicBool::new(false);

/// Ignores SIGXFSZ: a write beyond the limit of file sizes (`ulimit -f`) fails then, and does not end this process (setrlimit(2)).
pub fn ignore_file_size_signal() {
    // SAFETY: SIG_IGN is no function of ours.
    let before = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    FILE_SIZE_WAS_IGNORED.store(before == libc::SIG_IGN, Ordering::Relaxed);
}

/// The signals that are not at their default in this process, and have to be in a child. Looked for once: a system call for each
/// of 64 takes longer than all else of a start. Handlers are installed before the first child.
fn signals_to_reset() -> &'static [libc::c_int] {
    static SIGNALS: OnceLock<Vec<libc::c_int>> = OnceLock::new();
    SIGNALS.get_or_init(|| {
        let keeps = |signal| signal == libc::SIGXFSZ && FILE_SIZE_WAS_IGNORED.load(Ordering::Relaxed);
        (1..=LAST_SIGNAL).filter(|signal| !keeps(*signal) && !is_at_default(*signal)).collect()
    })
}

/// The number of the last real-time signal (signal(7)).
const LAST_SIGNAL: libc::c_int = 64;

fn is_at_default(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action asks for the present one, for which there is room. The C library refuses its own signals.
    let code = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroed before the call, which is a valid value.
    let action = unsafe { action.assume_init() };
    code == -1 || action.sa_sigaction == libc::SIG_DFL
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

/// A descriptor that this process was started with, such as a socket of the service manager (sd_listen_fds(3)). `None` if it is not
/// open. To be called before this process opens any of its own, and once for each.
pub fn inherited(number: i32) -> Option<OwnedFd> {
    // SAFETY: F_GETFD takes no argument and touches no memory.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return None;
    }
    // SAFETY: it is open, and nothing in this process has opened it: its owner is who asks.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
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

/// A descriptor as what it is, for types that can only be made of its number.
pub fn adopt<T: FromRawFd>(descriptor: OwnedFd) -> T {
    // SAFETY: it is open, and owned by nobody else from here on.
    unsafe { T::from_raw_fd(descriptor.into_raw_fd()) }
}

/// Has all threads share one heap (`mallopt(3)`), before any is started: glibc reserves 64 MiB of the address space for the heap
/// of each, which a limited one has not. musl has one in any case.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes two numbers, and no other thread runs.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

/// For calls that return -1 and set `errno`.
fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// For calls that return the error number itself.
fn check_code(code: libc::c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}
