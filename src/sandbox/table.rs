//! The table: place, what a payload may do there, why. Rules (Landlock) and rooms (mounts) are both made from it, so that they cannot
//! differ. The deepest row above a path decides on it. Nothing here asks the kernel to enforce anything.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What a payload may do at a place and below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Nothing.
    Nothing,
    /// The payload's TMPDIR is there, by a mount of its own; what the host has there it does not see.
    Private,
    /// Open devices for reading and writing, and command them (ioctl(2)).
    Device,
    /// Read and execute.
    Read,
    /// Read, and write to files that are there: what /proc has for a process of itself.
    Processes,
    /// All but make devices.
    Write,
}

/// Where programs put temporary files that do not heed TMPDIR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temporary {
    /// /tmp, /var/tmp and /dev/shm are the payload's own TMPDIR, by mounts.
    Private,
    /// They are those of the host, and what a payload leaves there is removed by its own user at its end.
    Removed,
    /// They are those of the host, and closed: what one payload leaves there would be the next one's.
    Closed,
}

/// A row as it is written: a place, which may have a `*` in its last component.
struct Row {
    place: &'static str,
    access: Rule,
    /// For the reader, and for `docs/security.md`.
    #[cfg(test)]
    why: &'static str,
}

/// What a row says.
#[derive(Clone, Copy)]
enum Rule {
    Is(Access),
    /// As [`Temporary`] has it.
    Temporary,
}
use Access::{Device, Nothing, Private, Processes, Read, Write};

macro_rules! rows {
    ($($place:literal $access:ident $why:literal,)*) => {
        &[$(Row {
            place: $place,
            access: rows!(@ $access),
            #[cfg(test)]
            why: $why,
        }),*]
    };
    (@ Temporary) => { Rule::Temporary };
    (@ $access:ident) => { Rule::Is($access) };
}

/// The table.
#[rustfmt::skip]
const ROWS: &[Row] = rows![
    "/"                                      Read      "the system, and what is installed: applications live in many places",
    "/proc"                                  Processes "programs read it, and name themselves there; what is not theirs is closed by the kernel",
    "/home"                                  Nothing   "keys, histories, mail",
    "/root"                                  Nothing   "the same of the administrator",
    "/run"                                   Nothing   "sockets and secrets of services",
    "/boot"                                  Nothing   "Wi-Fi passwords of a first start on a Raspberry Pi",
    "/var/mail"                              Nothing   "mail",
    "/var/spool"                             Nothing   "mail, prints and jobs that wait",
    "/var/crash"                             Nothing   "memory of programs that crashed",
    "/var/lib/systemd/coredump"              Nothing   "the same",
    "/tmp"                                   Temporary "programs that do not heed TMPDIR",
    "/var/tmp"                               Temporary "the same",
    "/dev"                                   Nothing   "devices are given by name: ALLOW_WRITE",
    "/dev/shm"                               Temporary "shared memory and semaphores of the C library",
    "/dev/null"                              Device    "the usual devices",
    "/dev/zero"                              Device    "the usual devices",
    "/dev/full"                              Device    "the usual devices",
    "/dev/random"                            Device    "the usual devices",
    "/dev/urandom"                           Device    "the usual devices",
    "/dev/tty"                               Device    "the usual devices",
    "/dev/ptmx"                              Device    "terminals of its own: script, ssh, expect",
    "/dev/pts"                               Device    "terminals of its own: script, ssh, expect",
    // Keys among the files of /etc, most of which every program reads.
    "/etc/shadow"                            Nothing   "passwords",
    "/etc/shadow-"                           Nothing   "passwords",
    "/etc/gshadow"                           Nothing   "passwords",
    "/etc/gshadow-"                          Nothing   "passwords",
    "/etc/sudoers"                           Nothing   "who may become whom",
    "/etc/sudoers.d"                         Nothing   "who may become whom",
    "/etc/security/opasswd"                  Nothing   "passwords",
    "/etc/ssh/ssh_host_*"                    Nothing   "keys of this host",
    "/etc/ssl/private"                       Nothing   "keys of this host",
    "/etc/pki/tls/private"                   Nothing   "keys of this host",
    "/etc/letsencrypt"                       Nothing   "keys of this host",
    "/etc/krb5.keytab"                       Nothing   "keys of this host",
    "/etc/credstore"                         Nothing   "secrets of services",
    "/etc/credstore.encrypted"               Nothing   "secrets of services",
    "/etc/wpa_supplicant"                    Nothing   "Wi-Fi passwords",
    "/etc/NetworkManager/system-connections" Nothing   "Wi-Fi passwords",
    "/etc/netplan"                           Nothing   "Wi-Fi passwords",
    "/etc/network/interfaces"                Nothing   "Wi-Fi passwords",
    "/etc/network/interfaces.d"              Nothing   "Wi-Fi passwords",
    "/etc/hostapd"                           Nothing   "Wi-Fi passwords",
    "/etc/wireguard"                         Nothing   "keys of networks",
    "/etc/openvpn"                           Nothing   "keys of networks",
    "/etc/ipsec.d"                           Nothing   "keys of networks",
    "/etc/ipsec.secrets"                     Nothing   "keys of networks",
    "/etc/ppp"                               Nothing   "passwords of providers",
    "/etc/samba"                             Nothing   "passwords of shares",
    "/etc/docker"                            Nothing   "keys of clusters",
    "/etc/kubernetes"                        Nothing   "keys of clusters",
    "/etc/rancher"                           Nothing   "keys of clusters",
    "/etc/job-orchestrator-client.env"       Nothing   "the client's own settings, TOKEN among them",
];

/// Read by whoever looks up a name; it often leads into /run, and is put there anew by a rename.
const RESOLVER: &str = "/etc/resolv.conf";

/// Who a payload runs as, as far as the modes of files are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its user id.
    pub uid: u32,
    /// Its groups.
    pub gids: Vec<u32>,
}

impl User {
    /// Whether the mode of a file keeps it from this user in any case.
    fn is_kept_out_of(&self, file: &Metadata) -> bool {
        let (mode, is_member) = (file.mode(), self.gids.contains(&file.gid()));
        let (of_group, of_others) = (mode & 0o070, mode & 0o007);
        let is_closed = of_others == 0 && (of_group == 0 || !is_member);
        self.uid != 0 && self.uid != file.uid() && is_closed
    }
}

/// What the table must know of this host and this client.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Where the payload directories are; closed, but for the payload's own.
    pub data_path: PathBuf,
    /// The client's own files: a TOKEN_FILE.
    pub own_files: Vec<PathBuf>,
    /// ALLOW_READ.
    pub allow_read: Vec<PathBuf>,
    /// ALLOW_WRITE.
    pub allow_write: Vec<PathBuf>,
    /// Who payloads run as.
    pub user: User,
    /// What becomes of the places for temporary files.
    pub temporary: Temporary,
}

/// A row as it applies here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Absolute, without links, and there.
    pub place: PathBuf,
    /// What a payload may do there and below it, unless a deeper entry says otherwise.
    pub access: Access,
}

/// The table as it applies here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Each place once; a place before what is below it.
    entries: Vec<Entry>,
    /// Given by ALLOW_READ or ALLOW_WRITE, and not there.
    absent: Vec<PathBuf>,
}

impl Table {
    /// The rows that apply here: what is not there has none.
    pub fn new(facts: &Facts) -> Self {
        let mut this = Self { entries: Vec::new(), absent: Vec::new() };
        for row in ROWS {
            let access = match (row.access, facts.temporary) {
                // To root, the kernel closes nothing there: its settings are there too.
                (Rule::Is(Processes), _) if facts.user.uid == 0 => Read,
                (Rule::Is(access), _) => access,
                (Rule::Temporary, Temporary::Closed) => Nothing,
                (Rule::Temporary, Temporary::Private) => Private,
                (Rule::Temporary, Temporary::Removed) => Write,
            };
            for place in places(row.place) {
                this.set_unless_moot(&place, access, &facts.user);
            }
        }
        this.open_resolver();
        for (places, access) in [(&facts.allow_read, Read), (&facts.allow_write, Write)] {
            for place in places {
                match place.canonicalize() {
                    Ok(place) => this.set(place, access),
                    Err(_) => this.absent.push(place.clone()),
                }
            }
        }
        for place in [&facts.data_path].into_iter().chain(&facts.own_files) {
            this.set(place.canonicalize().unwrap_or_else(|_| place.clone()), Nothing);
        }
        this
    }

    /// All rows: each place once, and a place before what is below it.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What ALLOW_READ and ALLOW_WRITE give that is not there.
    pub fn absent(&self) -> &[PathBuf] {
        &self.absent
    }

    /// What a payload may do at a path, which is absolute and without links.
    pub fn access(&self, path: &Path) -> Access {
        let above = self.entries.iter().rev().find(|entry| path.starts_with(&entry.place));
        above.map_or(Nothing, |entry| entry.access)
    }

    /// What may be opened, in a form for rules that can only add: what is given at a place is given below it too. So a place with
    /// something in it that is given less is taken apart: all that `list` finds in it is given, but for that.
    pub fn openings(&self, list: &mut dyn FnMut(&Path) -> Vec<PathBuf>) -> Vec<Entry> {
        let mut openings = Vec::new();
        for Entry { place, access } in &self.entries {
            self.open(place, *access, list, &mut openings);
        }
        openings
    }

    fn open(
        &self,
        place: &Path,
        access: Access,
        list: &mut dyn FnMut(&Path) -> Vec<PathBuf>,
        openings: &mut Vec<Entry>,
    ) {
        // What is private is opened as the payload's own, wherever it is mounted.
        if matches!(access, Nothing | Private) {
            return;
        }
        let is_below = |entry: &&Entry| entry.place != place && entry.place.starts_with(place);
        if !self.entries.iter().filter(is_below).any(|entry| entry.access < access) {
            openings.push(Entry { place: place.to_owned(), access });
            return;
        }
        for within in list(place) {
            // What has a row of its own is opened by that.
            if !self.entries.iter().any(|entry| entry.place == within) {
                self.open(&within, access, list, openings);
            }
        }
    }

    /// A later row takes the place of an earlier one.
    fn set(&mut self, place: PathBuf, access: Access) {
        match self.entries.binary_search_by(|entry| entry.place.cmp(&place)) {
            Ok(at) => self.entries[at].access = access,
            Err(at) => self.entries.insert(at, Entry { place, access }),
        }
    }

    /// A file that the payload's user cannot open anyway needs no row; each costs something at every start.
    fn set_unless_moot(&mut self, place: &Path, access: Access, user: &User) {
        let Ok(found) = place.metadata() else { return };
        let Ok(place) = place.canonicalize() else { return };
        let is_moot = access == Nothing && place.starts_with("/etc") && user.is_kept_out_of(&found);
        if !is_moot {
            self.set(place, access);
        }
    }

    fn open_resolver(&mut self) {
        let Ok(file) = Path::new(RESOLVER).canonicalize() else { return };
        if self.access(&file) == Nothing {
            let directory =
                file.parent().filter(|directory| !self.entries.iter().any(|e| e.place == *directory));
            self.set(directory.unwrap_or(&file).to_owned(), Read);
        }
    }
}

/// The places that a row is about.
fn places(place: &'static str) -> Vec<PathBuf> {
    let Some((before, after)) = place.split_once('*') else { return vec![place.into()] };
    let (directory, start) = before.rsplit_once('/').unwrap_or(("", before));
    let is_meant = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(start) && name.ends_with(after)
    };
    list(Path::new(directory)).unwrap_or_default().into_iter().filter(is_meant).collect()
}

/// What is in a directory, without links: what they lead to has its own place.
pub fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in directory.read_dir()? {
        let entry = entry?;
        if entry.file_type().is_ok_and(|kind| !kind.is_symlink()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(&str, Access)]) -> Table {
        let mut table = Table { entries: Vec::new(), absent: Vec::new() };
        for (place, access) in entries {
            table.set(place.into(), *access);
        }
        table
    }

    /// The openings of a table on a file system that has these paths.
    fn openings(table: &Table, tree: &[&str]) -> Vec<(String, Access)> {
        let mut list = |directory: &Path| {
            let is_in = |path: &&&str| Path::new(path).parent() == Some(directory);
            tree.iter().filter(is_in).map(PathBuf::from).collect()
        };
        let openings = table.openings(&mut list);
        openings.into_iter().map(|entry| (entry.place.display().to_string(), entry.access)).collect()
    }

    fn own(found: &[(&str, Access)]) -> Vec<(String, Access)> {
        found.iter().map(|(place, access)| ((*place).to_owned(), *access)).collect()
    }

    #[test]
    fn the_deepest_row_decides() {
        let table = table(&[("/", Read), ("/opt/data", Nothing), ("/opt/data/shared", Write)]);
        for (path, access) in [
            ("/usr/bin/sh", Read),
            ("/opt", Read),
            ("/opt/data", Nothing),
            ("/opt/data/x", Nothing),
            ("/opt/database", Read),
            ("/opt/data/shared/y", Write),
        ] {
            assert_eq!(table.access(Path::new(path)), access, "{path}");
        }
    }

    #[test]
    fn a_rule_for_opt_does_not_open_the_data_path_in_it() {
        let table = table(&[("/", Read), ("/opt/data", Nothing)]);
        let tree = ["/usr", "/opt", "/srv", "/opt/app", "/opt/data", "/opt/database"];
        assert_eq!(
            openings(&table, &tree),
            own(&[("/usr", Read), ("/opt/app", Read), ("/opt/database", Read), ("/srv", Read)])
        );
    }

    #[test]
    fn the_files_beside_a_key_are_opened_one_by_one_and_the_key_is_not() {
        let table = table(&[("/", Read), ("/etc/shadow", Nothing), ("/etc/ssl/private", Nothing)]);
        let tree = [
            "/etc",
            "/etc/passwd",
            "/etc/shadow",
            "/etc/ssl",
            "/etc/ssl/certs",
            "/etc/ssl/private",
            "/usr",
            "/usr/bin",
        ];
        assert_eq!(
            openings(&table, &tree),
            own(&[("/etc/passwd", Read), ("/etc/ssl/certs", Read), ("/usr", Read)])
        );
    }

    #[test]
    fn more_within_a_place_takes_nothing_apart() {
        let table = table(&[("/", Read), ("/srv/out", Write)]);
        assert_eq!(openings(&table, &["/srv", "/usr"]), own(&[("/", Read), ("/srv/out", Write)]));
    }

    #[test]
    fn less_within_what_may_be_written_does() {
        let table = table(&[("/srv", Write), ("/srv/out/keys", Nothing), ("/srv/set", Read)]);
        let tree = ["/srv/out", "/srv/out/keys", "/srv/out/a", "/srv/set", "/srv/b"];
        assert_eq!(
            openings(&table, &tree),
            own(&[("/srv/out/a", Write), ("/srv/b", Write), ("/srv/set", Read)])
        );
    }

    /// A table of a host that has these, and this user.
    fn facts(data_path: &Path) -> Facts {
        Facts {
            data_path: data_path.to_owned(),
            own_files: Vec::new(),
            allow_read: Vec::new(),
            allow_write: Vec::new(),
            user: User { uid: 0, gids: Vec::new() },
            temporary: Temporary::Closed,
        }
    }

    #[test]
    fn the_host_as_it_is() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let data_path = directory.path().canonicalize().expect("there");
        let table = Table::new(&facts(&data_path));
        for (path, access) in [
            ("/", Read),
            ("/usr/bin/env", Read),
            ("/proc/self/comm", Read),
            ("/dev/null", Device),
            ("/dev/sda", Nothing),
            ("/tmp/x", Nothing),
            ("/etc/passwd", Read),
            ("/etc/shadow", Nothing),
            ("/root/.ssh/id_ed25519", Nothing),
        ] {
            assert_eq!(table.access(Path::new(path)), access, "{path}");
        }
        assert_eq!(table.access(&data_path), Nothing);
        let mut listed = Vec::new();
        let found = table.openings(&mut |place| {
            listed.push(place.to_owned());
            list(place).unwrap_or_default()
        });
        assert!(listed.iter().any(|place| place == Path::new("/")), "{listed:?}");
        for closed in ["/", "/etc", "/etc/shadow", "/root", "/tmp", "/dev", "/dev/shm"] {
            assert!(!found.iter().any(|entry| entry.place == Path::new(closed)), "{closed}: {found:?}");
        }
        for opened in ["/usr", "/etc/passwd", "/proc", "/dev/null"] {
            assert!(found.iter().any(|entry| entry.place == Path::new(opened)), "{opened}: {found:?}");
        }
    }

    #[test]
    fn allowed_places_win_over_the_table_and_the_clients_own_over_those() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| {
            let path = directory.path().canonicalize().expect("there").join(name);
            std::fs::create_dir_all(&path).expect("made");
            path
        };
        let (data_path, set, out) = (at("data"), at("set"), at("out"));
        let token = set.join("token");
        std::fs::write(&token, "secret").expect("written");
        let table = Table::new(&Facts {
            allow_read: vec![set.clone(), "/not/there".into(), "/root".into()],
            allow_write: vec![out.clone(), data_path.clone()],
            own_files: vec![token.clone()],
            ..facts(&data_path)
        });
        for (path, access) in [
            (&*set.join("x"), Read),
            (&token, Nothing),
            (&out.join("x"), Write),
            (&data_path, Nothing),
            (&directory.path().canonicalize().expect("there").join("other"), Nothing),
            (Path::new("/root/x"), Read),
        ] {
            assert_eq!(table.access(path), access, "{}", path.display());
        }
        assert_eq!(table.absent(), [PathBuf::from("/not/there")]);
    }

    #[test]
    fn a_key_that_the_mode_of_its_file_keeps_from_the_user_needs_no_row() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let table = |uid| {
            let user = User { uid, gids: vec![uid] };
            Table::new(&Facts { user, ..facts(directory.path()) })
        };
        let has_row =
            |table: &Table| table.entries().iter().any(|entry| entry.place == Path::new("/etc/shadow"));
        assert!(has_row(&table(0)));
        assert!(!has_row(&table(64_999)));
        assert_eq!(table(64_999).access(Path::new("/proc/self/comm")), Processes);
    }

    #[test]
    fn places_for_temporary_files_are_closed_unless_they_are_private_or_cleaned() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (temporary, access) in
            [(Temporary::Private, Private), (Temporary::Removed, Write), (Temporary::Closed, Nothing)]
        {
            let table = Table::new(&Facts { temporary, ..facts(directory.path()) });
            assert_eq!(table.access(Path::new("/var/tmp/x")), access, "{temporary:?}");
        }
    }

    #[test]
    fn every_row_says_why_and_stands_once() {
        for (at, row) in ROWS.iter().enumerate() {
            assert!(row.place.starts_with('/') && !row.why.is_empty(), "{}", row.place);
            assert!(!ROWS[..at].iter().any(|before| before.place == row.place), "{}", row.place);
        }
    }
}
