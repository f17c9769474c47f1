//! As whom payloads run where the client is root: each slot by a user id of its own, so that any kernel keeps them apart from
//! the client and from each other. Nothing here changes the user of this process.

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::CapabilitySet;

use crate::settings::RunAs;
use crate::sys::Call;

/// Where no ids are given, the first that are free of these. No system gives them away: they are above those of people and
/// of systemd-homed, below those of DynamicUser= (systemd, UIDS-GIDS.md), outside of 64000 to 64999, of which Debian gives some
/// to packages, and within the 65,536 that a container without root has.
const SMALL: RangeInclusive<u32> = 60_700..=61_183;
/// For more slots than that: below what useradd(8) gives away as subordinate ids.
const LARGE: RangeInclusive<u32> = 70_000..=99_999;

/// Whether a process that has changed its user may be looked into (`proc_sys_fs(5)`).
const SUID_DUMPABLE: &str = "/proc/sys/fs/suid_dumpable";

/// What it takes to start a process as another user, to end it, and to give and take files (capabilities(7)).
const NEEDED: [(CapabilitySet, &str); 6] = [
    (CapabilitySet::CHOWN, "CAP_CHOWN"),
    (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
    (CapabilitySet::FOWNER, "CAP_FOWNER"),
    (CapabilitySet::KILL, "CAP_KILL"),
    (CapabilitySet::SETGID, "CAP_SETGID"),
    (CapabilitySet::SETUID, "CAP_SETUID"),
];

/// How long ids are waited for that are given and taken: somewhat longer than a guard ends what is left of its client.
const CLAIM_WAIT: Duration = Duration::from_secs(12);
const CLAIM_PAUSE: Duration = Duration::from_millis(5);

/// A user id for each slot, and as long as this lives no other client's.
#[derive(Debug)]
pub struct Users {
    first: u32,
    claims: Vec<Claim>,
    /// Whether the bounding set of capabilities can be made smaller (CAP_SETPCAP).
    can_drop: bool,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub enum NoUsers {
    /// This process is not root.
    #[error(
        "the client is not root, so payloads run as its own user; start it as root, or do not set RUN_AS"
    )]
    NotRoot,
    /// It was asked for.
    #[error("RUN_AS=root says so")]
    AsRoot,
    /// The kernel gives the client's memory away while it starts another user's process.
    #[error("fs.suid_dumpable is 1, by which payloads could read the client's memory; set it to 0 or 2")]
    Dumpable,
    /// Root, but not with all that it takes.
    #[error("the client is root without {0}; give it that (--cap-add, AmbientCapabilities=)")]
    Capability(&'static str),
    /// Fewer ids than slots.
    #[error("there are {ids} user ids and MAX_JOBS is {slots}; give one for each, or lower MAX_JOBS")]
    TooFew {
        /// How many were given.
        ids: u64,
        /// How many are needed.
        slots: usize,
    },
    /// Some client has it.
    #[error("user id {0} is used by another client; give each client ids of its own")]
    Taken(u32),
    /// All that could be chosen are in use.
    #[error("no {0} user ids in a row are free here; name some that nobody has, such as RUN_AS=10100-10115")]
    NoneFree(usize),
    /// The ids cannot be claimed.
    #[error("user ids cannot be claimed: {0}")]
    Claim(#[source] io::Error),
}

/// An abstract socket with the number of the id in its name (unix(7)): the kernel gives it to one process, and frees it with that.
/// Nothing listens there.
#[derive(Debug)]
struct Claim {
    _socket: UnixDatagram,
}

impl Claim {
    fn of(id: u32) -> io::Result<Self> {
        let address = SocketAddr::from_abstract_name(format!("job-orchestrator/user-id/{id}"))?;
        Ok(Self { _socket: UnixDatagram::bind_addr(&address)? })
    }
}

impl Users {
    /// One for each of `slots`: of those that are given, the first ones, else of a range that is nobody's.
    pub fn choose(given: Option<&RunAs>, slots: usize) -> Result<Self, NoUsers> {
        if !rustix::process::geteuid().is_root() {
            return Err(NoUsers::NotRoot);
        }
        if given == Some(&RunAs::Root) {
            return Err(NoUsers::AsRoot);
        }
        // Who changes its user gets that (commit_creds of the kernel), and a child that does so before its exec has our memory.
        if fs::read(SUID_DUMPABLE).is_ok_and(|value| value.starts_with(b"1")) {
            return Err(NoUsers::Dumpable);
        }
        let own = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
        if let Some((_, name)) = NEEDED.iter().find(|(capability, _)| !own.contains(*capability)) {
            return Err(NoUsers::Capability(name));
        }
        let can_drop = own.contains(CapabilitySet::SETPCAP);
        if let Some(RunAs::Ids(ids)) = given {
            return Ok(Self { can_drop, ..Self::first_of(ids, slots, CLAIM_WAIT)? });
        }
        let known = known_ids();
        for range in [SMALL, LARGE] {
            if let Some(users) = Self::free_in(&range, slots, &known)? {
                return Ok(Self { can_drop, ..users });
            }
        }
        Err(NoUsers::NoneFree(slots))
    }

    /// What the process of a payload does to become the user of its slot.
    pub fn calls(&self, slot: usize) -> Vec<Call> {
        let id = self.of_slot(slot);
        // Without the right to it that would fail; and nothing in that set can be had with no_new_privs (capabilities(7)).
        let drop = self.can_drop.then_some(Call::DropBoundingSet);
        let become_user =
            [Call::Groups(Vec::new()), Call::Group(id), Call::User(id), Call::ClearCapabilities];
        drop.into_iter().chain(become_user).collect()
    }

    /// Claims all of these, if nobody has one of them now.
    pub fn claim(ids: &RangeInclusive<u32>) -> Result<Self, NoUsers> {
        Self::first_of(ids, ids.clone().count(), Duration::ZERO)
    }

    /// Claims the first so many, which the guard of the life before may hold for a moment.
    fn first_of(ids: &RangeInclusive<u32>, slots: usize, wait: Duration) -> Result<Self, NoUsers> {
        let number = u64::from(ids.end() - ids.start()) + 1;
        let deadline = Instant::now() + wait;
        let claim = |id| loop {
            match Claim::of(id) {
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(NoUsers::Claim(error)),
                Err(_) if Instant::now() >= deadline => return Err(NoUsers::Taken(id)),
                Err(_) => thread::sleep(CLAIM_PAUSE),
                Ok(claim) => return Ok(claim),
            }
        };
        let claims = ids.clone().take(slots).map(claim).collect::<Result<Vec<Claim>, NoUsers>>()?;
        if claims.len() < slots {
            return Err(NoUsers::TooFew { ids: number, slots });
        }
        Ok(Self { first: *ids.start(), claims, can_drop: false })
    }

    /// The first so many in a row that no account and no other client has. `None` if there are not so many.
    fn free_in(range: &RangeInclusive<u32>, slots: usize, known: &[u32]) -> Result<Option<Self>, NoUsers> {
        let mut found = Self { first: *range.start(), claims: Vec::new(), can_drop: false };
        for id in range.clone() {
            if found.claims.len() == slots {
                break;
            }
            let claim =
                if known.contains(&id) { Err(io::ErrorKind::AddrInUse.into()) } else { Claim::of(id) };
            match claim {
                Ok(claim) => found.claims.push(claim),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    found = Self { first: id + 1, claims: Vec::new(), can_drop: false };
                }
                Err(error) => return Err(NoUsers::Claim(error)),
            }
        }
        Ok((found.claims.len() == slots).then_some(found))
    }

    /// The user of a slot, counted from 0, whose group has the same number.
    pub fn of_slot(&self, slot: usize) -> u32 {
        // There are as many as slots, and none is beyond the largest number.
        self.first.saturating_add(u32::try_from(slot).unwrap_or(u32::MAX))
    }

    /// All of them.
    pub fn ids(&self) -> RangeInclusive<u32> {
        self.first..=self.of_slot(self.claims.len().saturating_sub(1))
    }
}

/// The ids of users and groups that this system's files know, and of what they are the first: those of a directory service are
/// not asked for.
fn known_ids() -> Vec<u32> {
    let files = ["/etc/passwd", "/etc/group"].map(|file| fs::read(file).unwrap_or_default());
    files.iter().flat_map(|file| ids_in(file)).collect()
}

/// The third field of each line (passwd(5), group(5)).
fn ids_in(file: &[u8]) -> impl Iterator<Item = u32> {
    file.split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line.split(|byte| *byte == b':').nth(2)?).ok()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody else's, and not those that tests of the whole client use.
    const FIRST: u32 = 3_000_000_000;

    #[test]
    fn ids_are_one_client_s_until_it_is_gone() {
        let range = FIRST..=FIRST + 3;
        let first = Users::first_of(&range, 2, Duration::ZERO).expect("free");
        assert_eq!((first.ids(), first.of_slot(1)), (FIRST..=FIRST + 1, FIRST + 1));
        assert!(matches!(Users::first_of(&range, 1, Duration::ZERO), Err(NoUsers::Taken(FIRST))));
        let second = Users::free_in(&range, 2, &[]).expect("claimed").expect("two are left");
        assert_eq!(second.ids(), FIRST + 2..=FIRST + 3);
        assert!(Users::free_in(&range, 1, &[]).expect("claimed").is_none());
        drop(first);
        assert!(Users::first_of(&range, 2, Duration::ZERO).is_ok());
    }

    #[test]
    fn ids_that_an_account_has_are_not_chosen_and_too_few_are_told() {
        let range = FIRST + 10..=FIRST + 15;
        let users = Users::free_in(&range, 2, &[FIRST + 11, FIRST + 12]).expect("claimed").expect("free");
        assert_eq!(users.ids(), FIRST + 13..=FIRST + 14);
        assert!(Users::free_in(&range, 4, &[FIRST + 12]).expect("claimed").is_none());
        let error =
            Users::first_of(&(FIRST + 20..=FIRST + 21), 3, Duration::ZERO).expect_err("too few").to_string();
        assert!(error.contains("2 user ids") && error.contains("MAX_JOBS is 3"), "{error}");
    }

    #[test]
    fn ids_are_read_from_the_files_of_users_and_groups() {
        let file =
            b"root:x:0:0:root:/root:/bin/sh\n# comment\n\n+::::::\nx:x:60700:1::/:\nbad:x:many:1\ng:x:7:a,b";
        assert_eq!(ids_in(file).collect::<Vec<_>>(), [0, 60_700, 7]);
    }
}
