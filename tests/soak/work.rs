//! The payloads: what each does, and how it must end.

use crate::wire;

/// What a payload does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Writes its mark and ends well.
    Quick,
    /// Ends well after so many milliseconds.
    Nap(u32),
    /// Takes and makes larger files, and directories.
    Bulky,
    /// Leaves children, orphans and daemons behind, and ends well.
    Family,
    /// Ends with this code.
    Code(i32),
    /// Is ended by this signal.
    Signal(i32),
    /// Runs until it is killed; heeds SIGTERM or not.
    Endless { is_stubborn: bool },
    /// Has no `run.sh`.
    NoScript,
    /// Has a `run.sh` for which there is no interpreter.
    NoInterpreter,
}

/// What a script ends with that could not write its files.
pub const NO_SPACE: i32 = 28;

/// The bytes that a bulky payload makes.
pub const BULK: usize = 100_000;

impl Kind {
    /// One by chance, out of a hundred.
    pub fn random() -> Self {
        match fastrand::u32(0..100) {
            0..36 => Self::Quick,
            36..52 => Self::Nap(fastrand::u32(1..300)),
            52..60 => Self::Bulky,
            60..67 => Self::Family,
            67..80 => {
                let code = fastrand::i32(1..=255);
                Self::Code(if code == NO_SPACE { 1 } else { code })
            }
            80..87 => Self::Signal(*fastrand::choice(&[1, 2, 3, 6, 9, 11, 13, 15]).unwrap()),
            87..92 => Self::Endless { is_stubborn: false },
            92 => Self::Endless { is_stubborn: true },
            93..97 => Self::NoScript,
            _ => Self::NoInterpreter,
        }
    }

    pub fn ends_well(self) -> bool {
        matches!(self, Self::Quick | Self::Nap(_) | Self::Bulky | Self::Family)
    }

    /// The multipart body. `token` names the payload: it is in a file of its own, and what the script writes as its mark.
    pub fn form(self, token: u64) -> Vec<u8> {
        let body = match self {
            Self::Quick => "exit 0".to_owned(),
            Self::Nap(ms) => format!("sleep {}.{:03}", ms / 1000, ms % 1000),
            Self::Bulky => format!(
                "mkdir -p a/b/empty && head -c {BULK} /dev/zero > a/b/zeros && cmp -s -n {BULK} input a/b/zeros || exit {NO_SPACE}"
            ),
            Self::Family => "sleep 1000 &\nsetsid sleep 1000 &\n(setsid sh -c 'sleep 1000 & sleep 1000' &)\n\
                             env -i setsid /bin/sleep 1000 &\nexit 0"
                .to_owned(),
            Self::Code(code) => format!("exit {code}"),
            Self::Signal(signal) => format!("kill -{signal} $$; sleep 1000"),
            Self::Endless { is_stubborn } => {
                let trap = if is_stubborn { "trap '' TERM\n" } else { "" };
                format!("{trap}while :; do sleep 0.05; done")
            }
            Self::NoScript | Self::NoInterpreter => String::new(),
        };
        let script = match self {
            Self::NoInterpreter => "#!/no/such/interpreter\n".to_owned(),
            _ => format!("#!/bin/sh\necho {token} > mark || exit {NO_SPACE}\n{body}\n"),
        };
        let token = token.to_string();
        let zeros = vec![0; BULK];
        let mut files: Vec<(&str, &[u8])> = vec![("token", token.as_bytes())];
        if self != Self::NoScript {
            files.push(("run.sh", script.as_bytes()));
        }
        if self == Self::Bulky {
            files.push(("input", &zeros));
        }
        wire::form(&files)
    }
}
