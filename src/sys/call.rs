//! What a child does between its session and its program, step by step. Each step is data that its parent has made, with all
//! that it needs: the child runs on its parent's memory, and only makes system calls.

use std::borrow::Cow;
use std::cell::Cell;
use std::ffi::CStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{Resource, Rlimit};

use super::{landlock, system_call};

/// Text for the kernel: a constant, or made for one payload.
pub type Text = Cow<'static, CStr>;

/// One step. They are made in the order in which they are given; the first that fails ends the child, and is told.
#[derive(Clone, Debug)]
pub enum Call {
    /// The bits that new files do not get (umask(2)).
    Umask(Mode),
    /// A limit of the process (setrlimit(2)).
    Limit(Resource, Rlimit),
    /// No program gives rights that its caller has not: PR_SET_NO_NEW_PRIVS (Linux 3.5).
    NoNewPrivileges,
    /// Writes to a file that is there, such as `cgroup.procs`, by one write(2).
    Write {
        /// Its path.
        path: Text,
        /// What is written.
        bytes: Cow<'static, [u8]>,
    },
    /// New namespaces, by the flags of unshare(2).
    Unshare(libc::c_int),
    /// mount(2).
    Mount {
        /// What is mounted; its meaning depends on `kind`.
        source: Option<Text>,
        /// Where.
        target: Text,
        /// The kind of file system.
        kind: Option<Text>,
        /// MS_ flags.
        flags: libc::c_ulong,
        /// Options of the file system.
        data: Option<Text>,
    },
    /// Takes hold of what is at a path, and of all that is mounted below it, as a tree of its own (open_tree(2), Linux 5.2), under a
    /// number from 0 for [`Call::MoveMount`].
    OpenTree {
        /// The path.
        path: Text,
        /// The number.
        tree: usize,
    },
    /// Puts a tree where it is to be seen (move_mount(2), Linux 5.2).
    MoveMount {
        /// Its number.
        tree: usize,
        /// Where.
        target: Text,
    },
    /// Sets attributes of the mount at a path (mount_setattr(2), Linux 5.12).
    SetMountAttributes {
        /// The path.
        path: Text,
        /// MOUNT_ATTR_ flags.
        set: u64,
        /// Of all that is mounted below it, too.
        is_recursive: bool,
    },
    /// Makes a directory. One that is there is as good.
    MakeDirectory {
        /// Its path.
        path: Text,
        /// Its mode.
        mode: Mode,
    },
    /// Makes an empty file. One that is there is as good.
    MakeFile {
        /// Its path.
        path: Text,
        /// Its mode.
        mode: Mode,
    },
    /// The supplementary groups (setgroups(2)).
    Groups(Vec<u32>),
    /// Real, effective and saved group (setresgid(2)).
    Group(u32),
    /// Real, effective and saved user (setresuid(2)). From root to another one, capabilities go with it.
    User(u32),
    /// No program of this process can have a capability again: all leave the bounding set (capabilities(7)). Before
    /// [`Call::User`].
    DropBoundingSet,
    /// The capabilities of this process itself go.
    ClearCapabilities,
    /// Adds to a ruleset of Landlock what may be done at a path, as it is by then.
    LandlockRule {
        /// The ruleset.
        rules: Arc<OwnedFd>,
        /// The path.
        path: Text,
        /// LANDLOCK_ACCESS_FS_ bits.
        rights: u64,
    },
    /// Landlock's rules of this ruleset hold (landlock_restrict_self(2), Linux 5.13).
    Landlock(Arc<OwnedFd>),
    /// The loopback device of a new network namespace comes up (netdevice(7)).
    Loopback,
    /// A filter of system calls holds (seccomp(2)).
    Filter(Arc<[libc::sock_filter]>),
    /// The CPUs that may be used (sched_setaffinity(2)), a bit each, from the lowest bit of the first word.
    Affinity(Arc<[libc::c_ulong]>),
}

/// Far more than any kernel has: the first that is not known ends the walk.
const CAPABILITIES: usize = 64;

// The same numbers on all machines.
const OPEN_TREE: libc::c_long = 428;
const MOVE_MOUNT: libc::c_long = 429;
const MOUNT_SETATTR: libc::c_long = 442;
const LANDLOCK_RESTRICT_SELF: libc::c_long = 446;

// Those with 32 bits for users and groups.
#[cfg(target_arch = "arm")]
const SET_USERS: (libc::c_long, libc::c_long, libc::c_long) =
    (libc::SYS_setgroups32, libc::SYS_setresgid32, libc::SYS_setresuid32);
#[cfg(not(target_arch = "arm"))]
const SET_USERS: (libc::c_long, libc::c_long, libc::c_long) =
    (libc::SYS_setgroups, libc::SYS_setresgid, libc::SYS_setresuid);

/// SECCOMP_FILTER_FLAG_SPEC_ALLOW.
const SPEC_ALLOW: usize = 4;
const OPEN_TREE_CLONE: usize = 1;
const MOVE_MOUNT_F_EMPTY_PATH: usize = 4;
const AT_RECURSIVE: usize = 0x8000;
const AT_FDCWD: usize = libc::AT_FDCWD.cast_unsigned() as usize;

/// The kernel's `struct mount_attr`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// The kernel's `struct ifreq`, of which it reads 40 bytes, or 32 where addresses have 32 bits.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: libc::c_short,
    rest: [u8; 22],
}

const LOOPBACK: &[u8] = b"lo";
const SIOCSIFFLAGS: usize = 0x8914;

/// The kernel's header and data of capset(2), version 3.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// The numbers by which the trees of a child are known to it.
pub(super) struct Trees(Vec<Cell<usize>>);

impl Trees {
    /// Room for those of `calls`.
    pub(super) fn of(calls: &[Call]) -> Self {
        let last = calls.iter().filter_map(|call| match call {
            Call::OpenTree { tree, .. } => Some(*tree + 1),
            _ => None,
        });
        Self(vec![Cell::new(usize::MAX); last.max().unwrap_or(0)])
    }
}

impl Call {
    /// Makes it in this process.
    pub fn make_here(&self) -> io::Result<()> {
        Ok(self.make(&Trees(Vec::new()))?)
    }

    /// Makes it. Allocates nothing.
    pub(super) fn make(&self, trees: &Trees) -> Result<(), Errno> {
        match self {
            Self::Umask(mode) => {
                rustix::process::umask(*mode);
                Ok(())
            }
            Self::Limit(resource, limit) => rustix::process::setrlimit(*resource, *limit),
            Self::NoNewPrivileges => rustix::thread::set_no_new_privs(true),
            Self::Write { path, bytes } => write(path, bytes),
            Self::Unshare(flags) => done(system_call(libc::SYS_unshare, [number(*flags), 0, 0, 0, 0])),
            Self::Mount { source, target, kind, flags, data } => {
                let flags = usize::try_from(*flags).map_err(|_| Errno::INVAL)?;
                let arguments = [
                    optional(source.as_ref()),
                    text(target),
                    optional(kind.as_ref()),
                    flags,
                    optional(data.as_ref()),
                ];
                done(system_call(libc::SYS_mount, arguments))
            }
            Self::OpenTree { path, tree } => {
                let flags = OPEN_TREE_CLONE | AT_RECURSIVE | number(libc::O_CLOEXEC);
                let opened = system_call(OPEN_TREE, [AT_FDCWD, text(path), flags, 0, 0])?;
                trees.0.get(*tree).ok_or(Errno::INVAL)?.set(opened);
                Ok(())
            }
            Self::MoveMount { tree, target } => {
                let tree = trees.0.get(*tree).ok_or(Errno::INVAL)?.get();
                let arguments = [tree, text(c""), AT_FDCWD, text(target), MOVE_MOUNT_F_EMPTY_PATH];
                done(system_call(MOVE_MOUNT, arguments))
            }
            Self::SetMountAttributes { path, set, is_recursive } => {
                let attributes = MountAttributes { set: *set, clear: 0, propagation: 0, user_namespace: 0 };
                let flags = if *is_recursive { AT_RECURSIVE } else { 0 };
                let attributes = (address(&raw const attributes), size_of::<MountAttributes>());
                done(system_call(MOUNT_SETATTR, [AT_FDCWD, text(path), flags, attributes.0, attributes.1]))
            }
            Self::MakeDirectory { path, mode } => match rustix::fs::mkdir(&**path, *mode) {
                Err(Errno::EXIST) => Ok(()),
                made => made,
            },
            Self::MakeFile { path, mode } => {
                let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                match rustix::fs::open(&**path, flags, *mode) {
                    Err(Errno::EXIST) => Ok(()),
                    made => made.map(drop),
                }
            }
            Self::Groups(groups) => {
                done(system_call(SET_USERS.0, [groups.len(), address(groups.as_ptr()), 0, 0, 0]))
            }
            Self::Group(id) => done(system_call(SET_USERS.1, [*id as usize; 5])),
            Self::User(id) => done(system_call(SET_USERS.2, [*id as usize; 5])),
            Self::DropBoundingSet => drop_bounding_set(),
            Self::ClearCapabilities => clear_capabilities(),
            Self::LandlockRule { rules, path, rights } => {
                let place = rustix::fs::open(&**path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
                landlock::allow(rules.as_fd(), place.as_fd(), *rights)
            }
            Self::Landlock(rules) => {
                done(system_call(LANDLOCK_RESTRICT_SELF, [number(rules.as_raw_fd()), 0, 0, 0, 0]))
            }
            Self::Loopback => bring_loopback_up(),
            Self::Filter(filter) => {
                let len = u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?;
                let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
                let mode = libc::SECCOMP_SET_MODE_FILTER as usize;
                let set = |flags| {
                    done(system_call(libc::SYS_seccomp, [mode, flags, address(&raw const program), 0, 0]))
                };
                // Before Linux 5.16 a filter slows its process down by guards against Spectre, unless it says no; it can since 4.17.
                match set(SPEC_ALLOW) {
                    Err(Errno::INVAL) => set(0),
                    other => other,
                }
            }
            Self::Affinity(cpus) => {
                let arguments = [0, size_of_val(&**cpus), address(cpus.as_ptr()), 0, 0];
                done(system_call(libc::SYS_sched_setaffinity, arguments))
            }
        }
    }
}

/// As the error names it.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Umask(_) => f.write_str("umask"),
            Self::Limit(resource, _) => write!(f, "setrlimit {resource:?}"),
            Self::NoNewPrivileges => f.write_str("no_new_privs"),
            Self::Write { path, .. } => write!(f, "write {}", path.to_string_lossy()),
            Self::Unshare(flags) => write!(f, "unshare {flags:#x}"),
            Self::Mount { target, .. } => write!(f, "mount {}", target.to_string_lossy()),
            Self::OpenTree { path, .. } => write!(f, "open_tree {}", path.to_string_lossy()),
            Self::MoveMount { target, .. } => write!(f, "move_mount {}", target.to_string_lossy()),
            Self::SetMountAttributes { path, .. } => write!(f, "mount_setattr {}", path.to_string_lossy()),
            Self::MakeDirectory { path, .. } => write!(f, "mkdir {}", path.to_string_lossy()),
            Self::MakeFile { path, .. } => write!(f, "make {}", path.to_string_lossy()),
            Self::Groups(_) => f.write_str("setgroups"),
            Self::Group(id) => write!(f, "setresgid {id}"),
            Self::User(id) => write!(f, "setresuid {id}"),
            Self::DropBoundingSet => f.write_str("dropping the bounding set"),
            Self::ClearCapabilities => f.write_str("capset"),
            Self::LandlockRule { path, .. } => write!(f, "landlock_add_rule {}", path.to_string_lossy()),
            Self::Landlock(_) => f.write_str("landlock_restrict_self"),
            Self::Loopback => f.write_str("bringing loopback up"),
            Self::Filter(_) => f.write_str("seccomp"),
            Self::Affinity(_) => f.write_str("sched_setaffinity"),
        }
    }
}

fn write(path: &CStr, bytes: &[u8]) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    let written = rustix::io::write(&file, bytes)?;
    if written == bytes.len() { Ok(()) } else { Err(Errno::IO) }
}

fn bring_loopback_up() -> Result<(), Errno> {
    let mut request = InterfaceRequest { name: [0; 16], flags: 0, rest: [0; 22] };
    request.name[..LOOPBACK.len()].copy_from_slice(LOOPBACK);
    request.flags = libc::c_short::try_from(libc::IFF_UP).unwrap_or_default();
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let arguments = [number(socket.as_raw_fd()), SIOCSIFFLAGS, address(&raw const request), 0, 0];
    done(system_call(libc::SYS_ioctl, arguments))
}

fn drop_bounding_set() -> Result<(), Errno> {
    for capability in 0..CAPABILITIES {
        let arguments = [number(libc::PR_CAPBSET_DROP), capability, 0, 0, 0];
        match system_call(libc::SYS_prctl, arguments) {
            // Beyond the last one that this kernel knows.
            Err(Errno::INVAL) if capability > 0 => return Ok(()),
            other => done(other)?,
        }
    }
    Ok(())
}

fn clear_capabilities() -> Result<(), Errno> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    // Effective, permitted and inheritable, in two halves.
    let none = [0_u32; 6];
    done(system_call(libc::SYS_capset, [address(&raw const header), address(&raw const none), 0, 0, 0]))
}

fn done(result: Result<usize, Errno>) -> Result<(), Errno> {
    result.map(|_| ())
}

pub(super) fn number(value: libc::c_int) -> usize {
    value.cast_unsigned() as usize
}

fn text(text: &CStr) -> usize {
    address(text.as_ptr())
}

fn optional(given: Option<&Text>) -> usize {
    given.map_or(0, |given| text(given))
}

pub(super) fn address<T>(pointer: *const T) -> usize {
    pointer.expose_provenance()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capability_and_mount_structures_have_the_sizes_of_the_kernel() {
        assert_eq!((size_of::<MountAttributes>(), size_of::<CapabilityHeader>()), (32, 8));
        assert_eq!(size_of::<InterfaceRequest>(), 40);
    }

    #[test]
    fn room_is_made_for_all_trees() {
        let open = |tree| Call::OpenTree { path: Cow::Borrowed(c"/"), tree };
        assert_eq!(Trees::of(&[open(2), Call::NoNewPrivileges, open(0)]).0.len(), 3);
        assert_eq!(Trees::of(&[]).0.len(), 0);
    }
}
