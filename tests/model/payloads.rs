//! The payloads: what each does, how it must end, and what must be in its result.
//!
//! Each tells a witness outside of DATA_PATH when it starts and when it is about to end. What it was given and what it makes
//! is known by its token, a number of its own.

use std::collections::BTreeMap;
use std::path::Path;

use crate::wire;

/// What a payload does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ends well, at once.
    Quick,
    /// Ends well after so many milliseconds.
    Nap(u32),
    /// Is given so many KiB that cannot be compressed, and copies them.
    Bulk(u32),
    /// Makes twenty directories, one in the other.
    Deep,
    /// Makes so many small files.
    Many(u32),
    /// Makes a link to a file, one to nowhere, and a pipe.
    Odd,
    /// Closes its directory to itself.
    Closed { is_wholly: bool },
    /// Leaves children, orphans and daemons behind, and ends well.
    Family,
    /// Ends with this code.
    Code(i32),
    /// Writes records of its own that say that all is well, and fails.
    Forger,
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

/// What one ends with that cannot write to the witness, which has room always.
pub const NO_WITNESS: i32 = 99;

/// What a forger ends with.
pub const FORGED: i32 = 3;

/// The id in a forged record.
pub const FORGED_ID: u32 = 777;

const DEPTH: usize = 20;

pub type Files = BTreeMap<String, Vec<u8>>;

impl Kind {
    /// One by chance, out of a hundred.
    pub fn random(rng: &mut fastrand::Rng) -> Self {
        match rng.u32(0..100) {
            0..24 => Self::Quick,
            24..40 => Self::Nap(rng.u32(1..600)),
            40..48 => Self::Bulk(rng.u32(1..3000)),
            48..52 => Self::Deep,
            52..56 => Self::Many(rng.u32(1..200)),
            56..60 => Self::Odd,
            60..64 => Self::Closed { is_wholly: rng.bool() },
            64..70 => Self::Family,
            70..78 => {
                let code = rng.i32(1..=255);
                Self::Code(if [NO_SPACE, NO_WITNESS].contains(&code) { 1 } else { code })
            }
            78..81 => Self::Forger,
            81..86 => Self::Signal([1, 2, 3, 6, 9, 11, 13, 15][rng.usize(0..8)]),
            86..93 => Self::Endless { is_stubborn: rng.u32(0..6) == 0 },
            93..97 => Self::NoScript,
            _ => Self::NoInterpreter,
        }
    }

    pub fn ends_well(self) -> bool {
        !matches!(
            self,
            Self::Code(_)
                | Self::Forger
                | Self::Signal(_)
                | Self::Endless { .. }
                | Self::NoScript
                | Self::NoInterpreter
        )
    }

    /// The exit code that it gives itself.
    pub fn code(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            Self::Forger => Some(FORGED),
            _ => None,
        }
    }

    /// The shell's commands between the two words to the witness, and those after the second.
    fn commands(self) -> (String, String) {
        let before = match self {
            Self::Nap(ms) => format!("sleep {}.{:03}", ms / 1000, ms % 1000),
            Self::Bulk(_) => {
                format!("mkdir -p a/empty && cp input a/copy && cmp -s input a/copy || exit {NO_SPACE}")
            }
            Self::Deep => format!(
                "d=.; i=0; while [ $i -lt {DEPTH} ]; do d=$d/d; mkdir $d && echo $i > $d/f || exit {NO_SPACE}; i=$((i+1)); done"
            ),
            Self::Many(number) => {
                format!(
                    "i=0; while [ $i -lt {number} ]; do echo $i > f$i || exit {NO_SPACE}; i=$((i+1)); done"
                )
            }
            Self::Odd => {
                format!("ln -s mark near && ln -s /no/such/place far && mkfifo pipe || exit {NO_SPACE}")
            }
            Self::Closed { is_wholly } => {
                format!("chmod {} || exit {NO_SPACE}", if is_wholly { "0 ." } else { "-R a-w ." })
            }
            Self::Family => "sleep 1000 &\nsetsid sleep 1000 &\n(setsid sh -c 'sleep 1000 & sleep 1000' &)\n\
                             env -i setsid /bin/sleep 1000 &"
                .to_owned(),
            Self::Forger => format!(
                "for record in .orchestrator.payload .orchestrator.exit; do\n\
                 printf '{{\"id\":{FORGED_ID},\"status\":\"Completed\",\"exit_code\":0}}\\n' > $record; done 2> /dev/null"
            ),
            Self::Endless { is_stubborn } => {
                let trap = if is_stubborn { "trap '' TERM\n" } else { "" };
                format!("{trap}while :; do sleep 0.05; done")
            }
            _ => String::new(),
        };
        let after = match self {
            Self::Signal(signal) => format!("kill -{signal} $$; sleep 1000"),
            _ => format!("exit {}", self.code().unwrap_or(0)),
        };
        (before, after)
    }

    /// What it is sent with.
    pub fn input(self, token: u64, witness: &Path) -> Files {
        let witness = witness.join(token.to_string());
        let witness = witness.display();
        let (before, after) = self.commands();
        let script = match self {
            Self::NoInterpreter => "#!/no/such/interpreter\n".to_owned(),
            _ => format!(
                "#!/bin/sh\n\
                 read up rest < /proc/uptime && echo \"start $MODEL_LIFE $up $$\" >> {witness} || exit {NO_WITNESS}\n\
                 echo {token} > mark && echo out {token} || exit {NO_SPACE}\n\
                 {before}\n\
                 read up rest < /proc/uptime && echo \"end $up\" >> {witness} || exit {NO_WITNESS}\n\
                 {after}\n"
            ),
        };
        let mut files = Files::from([
            ("token".to_owned(), token.to_string().into_bytes()),
            ("sub/dir/token".to_owned(), token.to_string().into_bytes()),
        ]);
        if self != Self::NoScript {
            files.insert("run.sh".to_owned(), script.into_bytes());
        }
        if let Self::Bulk(kib) = self {
            files.insert("input".to_owned(), noise(token, kib));
        }
        files
    }

    /// All that is in its result when it has ended well, without what the client adds.
    pub fn result(self, token: u64, witness: &Path) -> Files {
        let mut files = self.input(token, witness);
        let mut add = |name: &str, content: String| files.insert(name.to_owned(), content.into_bytes());
        add("mark", format!("{token}\n"));
        match self {
            Self::Deep => {
                for depth in 0..DEPTH {
                    add(&format!("{}f", "d/".repeat(depth + 1)), format!("{depth}\n"));
                }
            }
            Self::Many(number) => {
                for number in 0..number {
                    add(&format!("f{number}"), format!("{number}\n"));
                }
            }
            Self::Odd => {
                add("near", "mark".to_owned());
                add("far", "/no/such/place".to_owned());
            }
            Self::Bulk(kib) => {
                add("a/empty/", String::new());
                files.insert("a/copy".to_owned(), noise(token, kib));
            }
            _ => {}
        }
        let parents = |name: &String| {
            let ends = name.match_indices('/').map(|(at, _)| name[..=at].to_owned());
            ends.collect::<Vec<_>>()
        };
        let directories: Vec<String> = files.keys().flat_map(parents).collect();
        files.extend(directories.into_iter().map(|name| (name, Vec::new())));
        files
    }

    /// The multipart body.
    pub fn form(self, token: u64, witness: &Path) -> Vec<u8> {
        let files = self.input(token, witness);
        let files: Vec<(&str, &[u8])> =
            files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
        wire::form(&files)
    }
}

fn noise(token: u64, kib: u32) -> Vec<u8> {
    let mut bytes = vec![0; kib as usize * 1024];
    fastrand::Rng::with_seed(token).fill(&mut bytes);
    bytes
}
