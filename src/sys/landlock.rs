//! The system calls of Landlock (landlock(7), Linux 5.13), which have the same numbers on all machines.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::call::{address, number};
use super::{owned, system_call};

const CREATE_RULESET: libc::c_long = 444;
const ADD_RULE: libc::c_long = 445;

const CREATE_RULESET_VERSION: usize = 1;
const RULE_PATH_BENEATH: usize = 1;

/// What a ruleset decides on (`struct landlock_ruleset_attr`): all that is named here and allowed by no rule is denied. An older
/// kernel takes it as long as what it does not know is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Handled {
    /// LANDLOCK_ACCESS_FS_ bits.
    pub files: u64,
    /// LANDLOCK_ACCESS_NET_ bits (ABI 4).
    pub network: u64,
    /// LANDLOCK_SCOPE_ bits (ABI 6).
    pub scopes: u64,
}

/// `struct landlock_path_beneath_attr`, which has no padding.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

/// The version of Landlock that this kernel has. ENOSYS: it was built without; EOPNOTSUPP: it was started without.
pub fn version() -> io::Result<u32> {
    let version = system_call(CREATE_RULESET, [0, 0, CREATE_RULESET_VERSION, 0, 0])?;
    u32::try_from(version).map_err(io::Error::other)
}

/// A new ruleset, which allows nothing yet.
pub fn create(handled: &Handled) -> io::Result<OwnedFd> {
    Ok(owned(system_call(CREATE_RULESET, [address(handled), size_of::<Handled>(), 0, 0, 0])?))
}

/// Allows `rights`, LANDLOCK_ACCESS_FS_ bits, at what `place` is open at (O_PATH will do), and below it.
pub fn allow(ruleset: BorrowedFd<'_>, place: BorrowedFd<'_>, rights: u64) -> Result<(), Errno> {
    let rule = PathBeneath { allowed: rights, parent: place.as_raw_fd() };
    let ruleset = number(ruleset.as_raw_fd());
    system_call(ADD_RULE, [ruleset, RULE_PATH_BENEATH, address(&raw const rule), 0, 0]).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_sizes_of_the_kernel() {
        assert_eq!((size_of::<Handled>(), size_of::<PathBeneath>()), (24, 12));
    }
}
