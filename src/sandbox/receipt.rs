//! The receipt: what was enforced for a payload, and what of that which was asked for was not, with what would give it. What is
//! asked for is the same everywhere; which layer gives it is not.

use crate::payload::Isolation;

/// What each layer gives on this host, or why it does not.
#[derive(Clone, Debug)]
pub struct Layers {
    /// Landlock, in this version.
    pub rules: Result<u32, String>,
    /// seccomp.
    pub filter: Result<(), String>,
    /// Namespaces of processes, mounts and SysV memory.
    pub rooms: Result<(), String>,
    /// A network namespace, where the network is off.
    pub no_network: Result<(), String>,
    /// The user that this payload has to itself.
    pub own_user: Option<String>,
    /// It has none, and runs as root.
    pub is_root: bool,
}

impl Layers {
    /// No layer, for this reason.
    pub fn none(why: &str) -> Self {
        let none = || Err(why.to_owned());
        Self {
            rules: Err(why.to_owned()),
            filter: none(),
            rooms: none(),
            no_network: none(),
            own_user: None,
            is_root: false,
        }
    }
}

/// The receipt of a payload that was started with these layers.
pub fn isolation(layers: &Layers, has_network: bool) -> Isolation {
    let mut this = always(layers);
    if layers.rooms.is_ok() {
        for word in ["pid_namespace", "mount_namespace", "ipc_namespace", "private_tmp"] {
            this.enforce(word);
        }
    }
    match &layers.rules {
        Ok(version) => this.enforced.push(format!("landlock:{version}")),
        Err(why) => this.need("files", layers.rooms.is_ok(), why),
    }
    match &layers.filter {
        Ok(()) => this.enforce("seccomp"),
        Err(why) => this.need("system_calls", false, why),
    }
    if !has_network {
        match (&layers.no_network, &layers.filter) {
            (Ok(()), _) => this.enforce("netns"),
            // No socket of the Internet can be made.
            (Err(_), Ok(())) => this.enforce("no_network:seccomp"),
            (Err(why), Err(_)) => this.need("no_network", false, why),
        }
    }
    if let Err(why) = &layers.rooms {
        let is_alone = layers.own_user.is_some();
        this.need("private_tmp", is_alone, why);
        this.need("file_metadata", is_alone, why);
        let rules = layers.rules.as_ref().map_or(0, |version| *version);
        this.need("signals", is_alone || rules >= super::rules::SCOPES_SINCE, why);
        this.need("truncate", is_alone || rules >= super::rules::TRUNCATE_SINCE, why);
    }
    this
}

/// That of a payload that is started with SANDBOX=off.
pub fn off(layers: &Layers, has_network: bool) -> Isolation {
    let mut this = always(layers);
    if !has_network {
        this.missing.push("no_network: SANDBOX=off".to_owned());
    }
    this.missing.push("all else: SANDBOX=off".to_owned());
    this
}

/// What does not depend on SANDBOX.
fn always(layers: &Layers) -> Isolation {
    let mut this = Isolation::default();
    this.enforce("no_new_privs");
    this.enforced.extend(layers.own_user.iter().map(|user| format!("uid:{user}")));
    if layers.is_root {
        this.missing.push("user: payloads run as root; RUN_AS gives each slot a user of its own".to_owned());
    }
    this
}

impl Isolation {
    fn enforce(&mut self, what: &str) {
        self.enforced.push(what.to_owned());
    }

    /// Something that is asked for, and that a layer does not give.
    fn need(&mut self, what: &str, is_given_otherwise: bool, why: &str) {
        if !is_given_otherwise {
            self.missing.push(format!("{what}: {why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers() -> Layers {
        Layers { rules: Err("no Landlock".to_owned()), filter: Ok(()), ..Layers::none("no namespaces") }
    }

    fn missing(layers: &Layers, has_network: bool) -> Vec<String> {
        isolation(layers, has_network).missing
    }

    #[test]
    fn rooms_or_rules_with_a_user_of_its_own_leave_nothing_to_ask_for() {
        let of_rooms = Layers { rooms: Ok(()), ..layers() };
        assert_eq!(missing(&of_rooms, true), [""; 0]);
        let of_rules = Layers { rules: Ok(1), own_user: Some("10103".to_owned()), ..layers() };
        assert_eq!(missing(&of_rules, true), [""; 0]);
        assert!(isolation(&of_rules, true).enforced.contains(&"uid:10103".to_owned()));
    }

    #[test]
    fn rules_alone_leave_open_what_their_version_does_not_see() {
        let words = |version| {
            let missing = missing(&Layers { rules: Ok(version), ..layers() }, true);
            missing.iter().map(|what| what.split(':').next().expect("a word").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(words(7), ["private_tmp", "file_metadata"]);
        assert_eq!(words(4), ["private_tmp", "file_metadata", "signals"]);
        assert_eq!(words(2), ["private_tmp", "file_metadata", "signals", "truncate"]);
    }

    #[test]
    fn a_reason_stands_beside_what_is_missing() {
        let none = Layers { filter: Err("no seccomp".to_owned()), ..layers() };
        let missing = missing(&none, false);
        for told in ["files: no Landlock", "system_calls: no seccomp", "no_network: no namespaces"] {
            assert!(missing.contains(&told.to_owned()), "{missing:?}");
        }
        assert!(isolation(&layers(), false).enforced.contains(&"no_network:seccomp".to_owned()));
    }
}
