//! What a payload may do, how that is enforced on this host, and what it got. Data and decisions: the system calls are made by the
//! child of [`crate::sys::spawn`], from the plan that is made here.

pub mod always;
mod filter;
mod probe;
mod receipt;
pub mod rooms;
mod rules;
mod table;
pub mod users;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libc::sock_filter;

use crate::event;
use crate::payload::Isolation;
use crate::settings::SandboxMode;
use crate::sys::Call;
use filter::Around;
use receipt::Layers;
use rooms::Rooms;
use rules::Rules;
use table::{Access, Facts, Table, Temporary, User};
use users::Users;

/// What the client was told of containment.
#[derive(Clone, Debug)]
pub struct Config {
    /// SANDBOX.
    pub mode: SandboxMode,
    /// ALLOW_READ.
    pub allow_read: Vec<PathBuf>,
    /// ALLOW_WRITE.
    pub allow_write: Vec<PathBuf>,
    /// NETWORK.
    pub has_network: bool,
    /// Where the payload directories are.
    pub data_path: PathBuf,
    /// Files of the client that payloads may not read, such as TOKEN_FILE.
    pub own_files: Vec<PathBuf>,
    /// As whom payloads run; `None` for the client's own user.
    pub users: Option<Arc<Users>>,
}

/// How payloads are contained here; cheap to clone.
#[derive(Clone)]
pub struct Sandbox(Arc<Inner>);

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("layers", &self.0.layers).finish_non_exhaustive()
    }
}

struct Inner {
    is_off: bool,
    has_network: bool,
    layers: Layers,
    users: Option<Arc<Users>>,
    table: Option<Table>,
    rooms: Option<Rooms>,
    rules: Option<Rules>,
    /// Programs for payloads with the network, and without.
    filters: Option<[Arc<[sock_filter]>; 2]>,
}

/// What one payload is started with.
pub struct Plan {
    /// In the order in which the child makes them. What takes more rights than it is to have comes first.
    pub calls: Vec<Call>,
    /// What they enforce.
    pub isolation: Isolation,
    /// Where the payload finds its directory for temporary files.
    pub temporary: PathBuf,
}

impl Sandbox {
    /// Tries what the host gives; `rooms` have been tried before. Fails where SANDBOX=strict asks for more, with what is missing and what would give it.
    pub fn prepare(config: Config, rooms: Result<(), String>) -> Result<Self, String> {
        if config.mode == SandboxMode::Off {
            return Ok(Self::off(config.users));
        }
        // Without a room of its own, only a payload of root can be put in one.
        let no_network = match &rooms {
            Err(why) if !rustix::process::geteuid().is_root() => Err(why.clone()),
            _ => probe::no_network(),
        };
        let mut layers = Layers { rules: probe::rules(), rooms, no_network, ..Layers::none("") };
        let are_others_apart = layers.rooms.is_ok() || config.users.is_some();
        let filters = [true, false].map(|has_network| {
            let around = Around {
                others_are_untraceable: layers.rules.is_ok() || are_others_apart,
                others_are_unchangeable: are_others_apart,
                has_network: has_network || layers.no_network.is_ok(),
            };
            Arc::<[sock_filter]>::from(filter::program(around))
        });
        layers.filter = probe::filter(Arc::clone(&filters[0]));
        let table = Table::new(&Facts {
            data_path: config.data_path,
            own_files: config.own_files,
            allow_read: config.allow_read,
            allow_write: config.allow_write,
            user: user_of(config.users.as_deref()),
            temporary: match (&layers.rooms, &config.users) {
                (Ok(()), _) => Temporary::Private,
                (Err(_), Some(_)) => Temporary::Removed,
                (Err(_), None) => Temporary::Closed,
            },
        });
        for place in table.absent() {
            event!(
                Warn,
                "a place of ALLOW_READ or ALLOW_WRITE is not there, and not given",
                place = place.display()
            );
        }
        let rules = layers.rules.as_ref().ok().map(|version| Rules::new(*version, table.clone()));
        let rooms = layers.rooms.is_ok().then(|| Rooms::new(&table));
        let filters = layers.filter.is_ok().then_some(filters);
        let (has_network, users) = (config.has_network, config.users);
        let this = Self(Arc::new(Inner {
            is_off: false,
            has_network,
            layers,
            users,
            table: Some(table),
            rooms,
            rules,
            filters,
        }));
        let missing = this.isolation().missing;
        if config.mode == SandboxMode::Strict && !missing.is_empty() {
            let missing = missing.join("; ");
            return Err(format!("SANDBOX=strict asks for more than can be enforced here: {missing}"));
        }
        Ok(this)
    }

    /// With nothing but what always holds.
    pub fn off(users: Option<Arc<Users>>) -> Self {
        let layers = Layers::none("SANDBOX=off");
        Self(Arc::new(Inner {
            is_off: true,
            has_network: true,
            layers,
            users,
            table: None,
            rooms: None,
            rules: None,
            filters: None,
        }))
    }

    /// What a payload of the usual kind gets here.
    pub fn isolation(&self) -> Isolation {
        let ids = self.0.users.as_ref().map(|users| users.ids());
        self.isolation_with(self.0.has_network, ids.map(|ids| format!("{}-{}", ids.start(), ids.end())))
    }

    fn isolation_with(&self, has_network: bool, own_user: Option<String>) -> Isolation {
        let is_root = own_user.is_none() && rustix::process::geteuid().is_root();
        let layers = Layers { own_user, is_root, ..self.0.layers.clone() };
        if self.0.is_off {
            receipt::off(&layers, has_network)
        } else {
            receipt::isolation(&layers, has_network)
        }
    }

    /// Whether payloads may not execute what is at `path`, where that is the table's doing.
    pub fn is_closed(&self, path: &Path) -> bool {
        let Some(table) = &self.0.table else { return false };
        path.canonicalize().is_ok_and(|path| table.access(&path) < Access::Read)
    }

    /// What the payload in `directory` is started with in a slot, which may do all there and in `temporary`. Without NETWORK it
    /// has none, whatever `has_network` says. Asks the disk.
    pub fn plan(
        &self,
        directory: &Path,
        temporary: &Path,
        slot: usize,
        has_network: bool,
    ) -> io::Result<Plan> {
        let has_network = self.0.has_network && has_network;
        let rooms = self.0.rooms.as_ref();
        let mut calls = rooms.map(|rooms| rooms.calls(directory, temporary)).unwrap_or_default();
        if !has_network && self.0.layers.no_network.is_ok() {
            calls.extend([Call::Unshare(libc::CLONE_NEWNET), Call::Loopback]);
        }
        // From there on it has no more rights than any user.
        calls.extend(self.0.users.iter().flat_map(|users| users.calls(slot)));
        if let Some(rules) = &self.0.rules {
            let has_network = has_network || self.0.layers.no_network.is_ok();
            let ruleset = Arc::new(rules.ruleset(&[directory, temporary], has_network)?);
            if rooms.is_some() {
                // It is another one than the host's, and made by then.
                let access =
                    self.0.table.as_ref().map_or(Access::Read, |table| table.access(Path::new("/proc")));
                let (rules, rights) = (Arc::clone(&ruleset), rules.rights(access));
                calls.push(Call::LandlockRule { rules, path: Cow::Borrowed(c"/proc"), rights });
            }
            calls.push(Call::Landlock(ruleset));
        }
        if let Some(filters) = &self.0.filters {
            // The last: it may deny what the others need.
            calls.push(Call::Filter(Arc::clone(&filters[usize::from(!has_network)])));
        }
        let user = self.0.users.as_ref().map(|users| users.of_slot(slot).to_string());
        let temporary = rooms.map_or(temporary, |rooms| rooms.temporary(temporary)).to_owned();
        Ok(Plan { calls, isolation: self.isolation_with(has_network, user), temporary })
    }
}

/// As whom payloads run. Users of their own are all alike to the files of the system.
fn user_of(users: Option<&Users>) -> User {
    if let Some(users) = users {
        return User { uid: *users.ids().start(), gids: Vec::new() };
    }
    let gids = rustix::process::getgroups().unwrap_or_default();
    let gids =
        gids.into_iter().chain([rustix::process::getegid()]).map(rustix::process::Gid::as_raw).collect();
    User { uid: rustix::process::geteuid().as_raw(), gids }
}
