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

/// The variable that tells programs where to put temporary files (POSIX, Base Definitions 8.3).
const TMPDIR: &str = "TMPDIR";

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
    TMPDIR,
    "TMP",
    "TEMP",
    "TEMPDIR",
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
    "COOKIE",
    "JWT",
];

/// A variable whose name ends with one of these is, too.
const SECRET_ENDS: &[&str] = &["KEY", "PASS", "PWD", "_AUTH", "DSN", "DATABASE_URL"];

/// A variable that has one of these as a word of its name is, too.
const SECRET_WORDS: &[&str] = &["PAT", "CREDS", "KEYS", "BEARER", "SESSION"];

/// A parameter of a URL with one of these names signs it.
const SIGNATURES: &[&str] = &["SIG", "SIGNATURE"];

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
            if is_for_payloads(&name) && !has_secret(&value.to_string_lossy()) {
                has_path |= name == "PATH" && !value.is_empty();
                shared.extend(variable(&name, &value));
            }
        }
        if !has_path {
            shared.extend(variable(OsStr::new("PATH"), OsStr::new(DEFAULT_PATH)));
        }
        Self { shared }
    }

    /// The variables of one payload alone. `temporary`: where it puts temporary files.
    pub(super) fn own(id: PayloadId, directory: &Path, temporary: &Path) -> Vec<CString> {
        let id = id.to_string();
        let directory = directory.as_os_str();
        let own = [
            (PAYLOAD_ID, OsStr::new(&id)),
            (PAYLOAD_DIR, directory),
            ("HOME", directory),
            ("PWD", directory),
            (TMPDIR, temporary.as_os_str()),
        ];
        own.into_iter().filter_map(|(name, value)| variable(OsStr::new(name), value)).collect()
    }

    /// Where payloads look for programs.
    pub(super) fn path(&self) -> &OsStr {
        let path = self.shared.iter().find_map(|variable| variable.to_bytes().strip_prefix(b"PATH="));
        OsStr::from_bytes(path.unwrap_or_default())
    }

    /// Leaves directories out of `PATH`: a shell would find programs there that payloads may not execute, and look no further.
    pub(super) fn leave_out_of_path(&mut self, is_closed: impl Fn(&Path) -> bool) {
        let open = std::env::split_paths(self.path()).filter(|directory| !is_closed(directory));
        // What was one of several has no colon in it.
        let path = std::env::join_paths(open).ok().and_then(|path| variable(OsStr::new("PATH"), &path));
        let old = self.shared.iter_mut().find(|variable| variable.to_bytes().starts_with(b"PATH="));
        if let (Some(old), Some(path)) = (old, path) {
            *old = path;
        }
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
    !is_setting && !is_secret_name(&name) && !NOT_FOR_PAYLOADS.contains(&name.as_str())
}

/// `name` is in upper case.
fn is_secret_name(name: &str) -> bool {
    SECRET_PARTS.iter().any(|part| name.contains(part))
        || SECRET_ENDS.iter().any(|end| name.ends_with(end))
        || name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| SECRET_WORDS.contains(&word))
}

/// Whether `value` carries a password: in a URL, or as one without a scheme, or as a list of settings has it.
fn has_secret(value: &str) -> bool {
    has_url_with_secret(value) || is_login(value) || has_password_setting(value)
}

/// `user:password@host`. A port stands after the host, and the digest of an image after `name:tag@`.
fn is_login(value: &str) -> bool {
    let Some((login, host)) = value.rsplit_once('@') else { return false };
    let is_word = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
    login.split_once(':').is_some_and(|(user, password)| {
        is_word(user) && is_word(password) && !user.contains('/') && !password.starts_with("//")
    }) && is_word(host)
        && !host.starts_with("sha256:")
        && !login.starts_with("mailto:")
}

/// `Server=x;Password=y;` and `host=x password=y`, as drivers of databases have it.
fn has_password_setting(value: &str) -> bool {
    let pairs = value.split(|c: char| c == ';' || c.is_whitespace()).filter_map(|pair| pair.split_once('='));
    pairs
        .filter(|(_, secret)| !secret.is_empty())
        .any(|(name, _)| matches!(&*name.to_uppercase(), "PASSWORD" | "PASSWD" | "PWD"))
}

/// Whether a URL in `value` carries a password: before its host, or as one of its parameters.
fn has_url_with_secret(value: &str) -> bool {
    let words = value.split(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>'));
    words.flat_map(urls).any(|(scheme, rest)| has_user_secret(scheme, rest) || has_secret_parameter(rest))
}

/// The URLs in a word, of which there may be several (`http://a,http://b`): the scheme, and what comes after `://`.
fn urls(word: &str) -> impl Iterator<Item = (&str, &str)> {
    word.match_indices("://").map(move |(at, sign)| {
        let before = &word[..at];
        let start =
            before.rfind(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c)).map_or(0, |c| c + 1);
        (before.get(start..).unwrap_or_default(), &word[at + sign.len()..])
    })
}

/// `user:password@host`, and `token@host` as the web has it; `git@host` is a user alone.
fn has_user_secret(scheme: &str, rest: &str) -> bool {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((user, _)) => user.contains(':') || scheme.to_lowercase().starts_with("http"),
        // A password with a slash in it, as people write it: what stands in the place of the port is none.
        None => {
            authority.split_once(':').is_some_and(|(_, port)| {
                rest.contains('@')
                    && !port.starts_with(']')
                    && port.bytes().any(|byte| !byte.is_ascii_digit())
            }) && !authority.starts_with('[')
        }
    }
}

/// `?password=x`, `&token=x` and, as JDBC has it, `;password=x`.
fn has_secret_parameter(rest: &str) -> bool {
    let parameters = rest.split(['?', '&', ';', '#']).skip(1).filter_map(|pair| pair.split_once('='));
    parameters.filter(|(_, value)| !value.is_empty()).any(|(name, _)| {
        let name = name.to_uppercase().replace('-', "_");
        let last = name.rsplit('_').next().unwrap_or_default();
        is_secret_name(&name) || SIGNATURES.contains(&last)
    })
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
            "KEY",
            "SIGNINGKEY",
            "DB_PASS",
            "PGPASS",
            "MYSQL_PWD",
            "PAT",
            "GITHUB_PAT",
            "JWT",
            "SESSION_COOKIE",
            "SENTRY_DSN",
            "API_BEARER",
            "VAULT_SESSION",
            "DATABASE_URL",
            "PROXY_AUTH",
            "NOTIFY_SOCKET",
            "LISTEN_FDS",
            "PORT",
        ] {
            assert_eq!(shared(&[("PATH", "/bin"), (name, "x")]), ["PATH=/bin"], "{name}");
        }
    }

    #[test]
    fn a_url_with_a_password_in_it_stays_with_the_client_whatever_its_name() {
        for value in [
            "postgres://user:pass@host/db",
            "redis://:pass@host:6379/0",
            "amqp://u:p%40@[::1]:5672/",
            "http://a.example,http://u:p@b.example",
            "postgres://user:pa/ss@host/db",
            "https://ghp_token@github.example/repo",
            "https://host/path?a=b&access_token=x",
            "https://host/path?X-Amz-Signature=x",
            "https://host/path?sv=1&sig=x",
            "jdbc:postgresql://host/db?user=u&password=p",
            "jdbc:sqlserver://host:1433;user=u;password=p",
            "see \"mysql://u:p@host/db\" there",
            "user:pass@host",
            "user:pa/ss@host:5432/db",
            "Server=host;User Id=u;Password=p;",
            "host=h user=u password=p",
        ] {
            assert_eq!(shared(&[("PATH", "/bin"), ("WHERE", value)]), ["PATH=/bin"], "{value}");
        }
        for value in [
            "https://host:8443/a/b?c=d#e",
            "https://registry.example:8080/@scope/package",
            "http://[::1]:8080/a@b",
            "ssh://git@host/repo",
            "mailto:a@b",
            "https://host/path?password=&page=2",
            "key=value; token=x",
            "registry/image:1.2@sha256:0123",
            "image:1.2@sha256:0123",
            "user@host:22",
            "a: b@c",
            "password=",
        ] {
            assert_eq!(shared(&[("PATH", "/bin"), ("WHERE", value)])[1], format!("WHERE={value}"));
        }
    }

    #[test]
    fn the_rest_is_passed_on_and_a_path_is_always_there() {
        assert_eq!(
            shared(&[("LANG", "C.UTF-8"), ("LD_LIBRARY_PATH", "/l"), ("KEYBOARD", "de"), ("PATH", "/x")]),
            ["LANG=C.UTF-8", "LD_LIBRARY_PATH=/l", "KEYBOARD=de", "PATH=/x"]
        );
        assert_eq!(shared(&[]), [format!("PATH={DEFAULT_PATH}")]);
        assert_eq!(shared(&[("PATH", "")])[1], format!("PATH={DEFAULT_PATH}"));
    }
}
