//! The environment of a payload: the client's own, without its secrets and settings, and with what a script needs.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use crate::payload::PayloadId;
use crate::settings;

/// The variable that tells a payload its number, and marks its processes as its own.
pub(super) const PAYLOAD_ID: &str = "PAYLOAD_ID";

/// The variable that tells a payload its directory, by which its processes are known when the client that started them is
/// gone.
pub(super) const PAYLOAD_DIR: &str = "PAYLOAD_DIR";

/// Where programs are looked for if the client itself was started without a `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables that the service manager gives to the client alone (systemd.exec(5), sd_notify(3), sd_listen_fds(3)),
/// and those of a shell that would be wrong in another directory.
const NOT_FOR_PAYLOADS: &[&str] = &[
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "MAINPID",
    "CREDENTIALS_DIRECTORY",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "SYSTEMD_EXEC_PID",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
    PAYLOAD_ID,
    PAYLOAD_DIR,
    "HOME",
];

/// A variable with one of these in its name is taken for a secret.
const SECRET_PARTS: &[&str] = &[
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "CREDENTIAL",
    "APIKEY",
    "API_KEY",
    "ACCESS_KEY",
    "PRIVATE_KEY",
    "AUTHORIZATION",
];

/// The part of the environment that is the same for all payloads, made once.
pub(super) struct Environment {
    shared: Vec<CString>,
}

impl Environment {
    /// From the environment of this process.
    pub(super) fn new() -> Self {
        Self::from_variables(std::env::vars_os())
    }

    fn from_variables(variables: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let mut shared: Vec<CString> = Vec::new();
        let mut has_path = false;
        for (name, value) in variables {
            if is_for_payloads(&name) {
                has_path |= name == "PATH" && !value.is_empty();
                shared.extend(variable(&name, &value));
            }
        }
        if !has_path {
            shared.extend(variable(OsStr::new("PATH"), OsStr::new(DEFAULT_PATH)));
        }
        Self { shared }
    }

    /// The variables of one payload alone.
    pub(super) fn own(id: PayloadId, directory: &Path) -> Vec<CString> {
        let id = id.to_string();
        let directory = directory.as_os_str();
        let own = [
            (PAYLOAD_ID, OsStr::new(&id)),
            (PAYLOAD_DIR, directory),
            ("HOME", directory),
            ("PWD", directory),
        ];
        own.into_iter().filter_map(|(name, value)| variable(OsStr::new(name), value)).collect()
    }

    /// Where payloads look for programs.
    pub(super) fn path(&self) -> &OsStr {
        let path = self.shared.iter().find_map(|variable| variable.to_bytes().strip_prefix(b"PATH="));
        OsStr::from_bytes(path.unwrap_or_default())
    }

    /// The variables of all payloads.
    pub(super) fn shared(&self) -> &[CString] {
        &self.shared
    }
}

/// `None` if there is a NUL in it, which no environment can carry.
fn variable(name: &OsStr, value: &OsStr) -> Option<CString> {
    let mut bytes = name.to_os_string().into_vec();
    bytes.push(b'=');
    bytes.extend_from_slice(value.as_bytes());
    CString::new(bytes).ok()
}

fn is_for_payloads(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_uppercase();
    let is_setting = settings::ALL.iter().any(|setting| setting.name == name);
    let is_secret = SECRET_PARTS.iter().any(|part| name.contains(part))
        || name.ends_with("_KEY")
        || name.ends_with("_AUTH");
    !is_setting && !is_secret && !NOT_FOR_PAYLOADS.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(variables: &[(&str, &str)]) -> Vec<String> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        let environment = Environment::from_variables(variables);
        environment.shared().iter().map(|v| v.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn secrets_and_settings_of_the_client_stay_with_the_client() {
        for name in [
            "DB_PASSWORD",
            "github_token",
            "AWS_SECRET_ACCESS_KEY",
            "TLS_KEY",
            "NOTIFY_SOCKET",
            "LISTEN_FDS",
            "PORT",
        ] {
            assert_eq!(shared(&[("PATH", "/bin"), (name, "x")]), ["PATH=/bin"], "{name}");
        }
    }

    #[test]
    fn the_rest_is_passed_on_and_a_path_is_always_there() {
        assert_eq!(
            shared(&[("LANG", "C.UTF-8"), ("OMP_NUM_THREADS", "2"), ("PATH", "/x")]),
            ["LANG=C.UTF-8", "OMP_NUM_THREADS=2", "PATH=/x"]
        );
        assert_eq!(shared(&[]), [format!("PATH={DEFAULT_PATH}")]);
        assert_eq!(shared(&[("PATH", "")])[1], format!("PATH={DEFAULT_PATH}"));
    }
}
