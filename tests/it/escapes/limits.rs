//! Payloads that take more than they may: each is held to its limit, and does what it does without one.

use super::world::{Traces, User, World, is_root};

/// A user of its own, since limits of processes count all of a user's.
const EATER: User = User::Other(61_203);

struct Limit {
    setting: (&'static str, &'static str),
    /// Says `escaped` where it got through.
    script: &'static str,
    /// The kernel refuses the excess, and nothing has to be ended.
    may_be_refused: bool,
}

const LIMITS: &[Limit] = &[
    Limit { setting: ("TIME_LIMIT", "1s"), script: "sleep 4; echo escaped", may_be_refused: false },
    Limit { setting: ("CPU_LIMIT", "1s"), script: "./attempt spins 4", may_be_refused: false },
    Limit { setting: ("MEMORY_LIMIT", "64M"), script: "./attempt eats 200 4", may_be_refused: false },
    Limit { setting: ("PIDS_LIMIT", "20"), script: "./attempt forks 60 4", may_be_refused: true },
    Limit {
        setting: ("MAX_DISK", "4M"),
        script: "./attempt fills big 20 >/dev/null; sleep 4; echo escaped",
        may_be_refused: false,
    },
    Limit { setting: ("FILE_LIMIT", "4M"), script: "./attempt fills big 20", may_be_refused: true },
];

fn has_escaped(traces: &Traces) -> bool {
    traces.output.lines().any(|line| line == "escaped")
}

fn each_limit_holds(user: User) {
    let unlimited = World::new(user, &[]);
    for limit in LIMITS {
        let (name, value) = limit.setting;
        assert!(has_escaped(&unlimited.run(limit.script, false)), "{name}: held without it");
        let limited = World::new(user, &[limit.setting]);
        let traces = limited.run(limit.script, false);
        assert!(!has_escaped(&traces), "{name}={value} holds nothing: {}", traces.json);
        let is_told = traces.json.contains("\"status\":\"Killed\"") && traces.json.contains(name);
        assert!(is_told || limit.may_be_refused, "{name}={value} is not told: {}", traces.json);
        assert!(!limited.is_client_gone(), "{name}={value}");
    }
}

#[test]
fn limits_of_an_ordinary_user_hold() {
    each_limit_holds(if is_root() { EATER } else { User::Tester });
}

#[test]
fn limits_of_root_hold() {
    if is_root() {
        each_limit_holds(User::Tester);
    }
}
