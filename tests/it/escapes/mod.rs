//! Payloads that try to get at more than they were given (issue 18, point 7), as root and as an ordinary user. Each attempt of
//! `table` is a payload of a client as it is by default, and must be held; and is shown to succeed where nothing holds it,
//! so that none is held by a mistake of its own. What a host gives to hold with is asked of the kernel, not of the client.
//!
//! The same tests run in a container (`deploy/test/escapes`) and on emulated machines (`tests/kernels/run`).

mod limits;
mod ordinary;
mod table;
mod world;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use table::{ATTEMPTS, Attempt, Control, Layer};
use world::{User, World, attempt, is_root, tag};

/// Users that nobody else is, here and in the other tests: one for each test.
const ORDINARY: User = User::Other(61_201);
const SWEEPER: User = User::Other(61_202);

/// What this host gives to a client of this user.
struct Host {
    has_rooms: bool,
    landlock: u32,
    is_root: bool,
}

impl Host {
    fn of(user: User) -> Self {
        let ask = |question: &str| {
            let output = user.command(attempt()).arg(question).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        Self {
            has_rooms: ask("namespaces") == "yes",
            landlock: ask("landlock").parse().unwrap(),
            is_root: user.is_root(),
        }
    }

    fn gives(&self, layer: Layer) -> bool {
        match layer {
            Layer::Rooms => self.has_rooms,
            Layer::Rules(version) => self.landlock >= version,
            Layer::OwnUser => self.is_root,
            Layer::Always | Layer::Filter | Layer::Token => true,
        }
    }

    /// Whether one is there that holds the attempt.
    fn holds(&self, attempt: &Attempt) -> bool {
        attempt.held_by.iter().any(|layer| self.gives(*layer))
    }
}

/// Makes an attempt, by a client or beside it, and gives what shows that it succeeded. `None` where it was held, and where
/// what it is after is not there.
fn escape(world: &World, attempt: &Attempt, is_beside: bool) -> Option<String> {
    let tag = tag();
    let run = |script: &str| {
        let script = world.fill(script, tag, is_beside)?;
        Some(if is_beside { world.run_beside(&script) } else { world.run(&script, attempt.is_cut_off) })
    };
    let traces = run(attempt.script)?;
    let mut shown = traces.show_escape(&world.secret).then(|| "it says so, or has the secret".to_owned());
    if !attempt.leaves.is_empty() {
        let path = world.fill(attempt.leaves, tag, is_beside)?;
        if Path::new(&path).exists() {
            shown = Some(format!("{path} is there"));
        }
    }
    if !attempt.next.is_empty() && run(attempt.next)?.show_escape(&world.secret) {
        shown = Some("the next one finds what it left".to_owned());
    }
    if !attempt.leaves.is_empty() {
        let _ = fs::remove_file(world.fill(attempt.leaves, tag, is_beside)?);
    }
    if sleeps(tag) {
        let _ = Command::new("pkill").args(["-KILL", "-xf", &format!("sleep 777{tag}")]).status();
        shown = Some("a process of it is left".to_owned());
    }
    if !is_beside {
        shown = world.harm().or(shown);
    }
    shown
}

/// Whether somebody sleeps for this time.
fn sleeps(tag: u32) -> bool {
    let wanted = format!("sleep\0777{tag}\0");
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .any(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|command| command == wanted.as_bytes()))
}

/// Each attempt is shown to succeed where nothing holds it.
fn controls(user: User) {
    let mut settings = vec![("SANDBOX", "off")];
    if user.is_root() {
        settings.push(("RUN_AS", "root"));
    }
    let world = World::new(user, &settings);
    let mut missed = Vec::new();
    for attempt in ATTEMPTS.iter().filter(|attempt| user.is_root() || !attempt.is_for_root) {
        if world.fill(attempt.script, 0, false).is_none() {
            println!("control of {}: not here", attempt.name);
            continue;
        }
        let is_beside = attempt.control == Control::Beside;
        let beside = (is_beside || attempt.is_up_to_host).then(|| escape(&world, attempt, true)).flatten();
        let (must, done) = match attempt.control {
            Control::Never => (false, escape(&world, attempt, false)),
            Control::Beside => (!attempt.is_up_to_host, beside),
            Control::Off => (!attempt.is_up_to_host || beside.is_some(), escape(&world, attempt, false)),
        };
        println!(
            "control of {}: {}",
            attempt.name,
            done.as_deref().unwrap_or(if must { "HELD" } else { "held" })
        );
        if must && done.is_none() {
            missed.push(attempt.name);
        }
    }
    assert!(missed.is_empty(), "held by nothing that is known, so that the test shows nothing: {missed:#?}");
}

/// Each attempt is held that something here holds.
fn held(user: User) {
    let host = Host::of(user);
    println!(
        "here: rooms {}, Landlock {}, user ids of its own {}",
        host.has_rooms, host.landlock, host.is_root
    );
    let world = World::new(user, &[]);
    println!("the client tells: {}", world.isolation());
    let (mut escaped, mut open) = (Vec::new(), Vec::new());
    for attempt in ATTEMPTS {
        if world.fill(attempt.script, 0, false).is_none() {
            println!("{}: not here", attempt.name);
            continue;
        }
        let shown = escape(&world, attempt, false);
        println!("{}: {}", attempt.name, shown.as_deref().unwrap_or("held"));
        let Some(shown) = shown else { continue };
        if host.holds(attempt) {
            escaped.push(format!("{}: {shown}", attempt.name));
        } else {
            open.push(attempt.name);
        }
    }
    println!("open here, since nothing is there that would hold it: {open:#?}");
    assert!(escaped.is_empty(), "escaped: {escaped:#?}\n{}", world.isolation());
}

#[test]
fn attempts_of_the_tester_s_user_succeed_where_nothing_holds_them() {
    controls(User::Tester);
}

#[test]
fn attempts_of_the_tester_s_user_are_held() {
    held(User::Tester);
}

#[test]
fn attempts_of_an_ordinary_user_succeed_where_nothing_holds_them() {
    if is_root() {
        controls(ORDINARY);
    }
}

#[test]
fn attempts_of_an_ordinary_user_are_held() {
    if is_root() {
        held(ORDINARY);
    }
}

/// A world of its own: where it succeeds, the client is gone.
#[test]
fn a_signal_to_all_reaches_the_payload_s_own_processes_alone() {
    // As the tester's user it would reach the tester.
    if !is_root() {
        return;
    }
    let is_gone = |settings: &[(&str, &str)]| {
        let world = World::new(SWEEPER, settings);
        world.start("sleep 0.5; [ \"$(id -u)\" != 0 ] && kill -KILL -1");
        (0..200).any(|_| {
            thread::sleep(Duration::from_millis(10));
            world.is_client_gone()
        })
    };
    assert!(is_gone(&[("SANDBOX", "off")]), "it reaches nobody, so that the test shows nothing");
    if Host::of(SWEEPER).holds(&Attempt { held_by: &[Layer::Rooms, Layer::Rules(6)], ..ATTEMPTS[0] }) {
        assert!(!is_gone(&[]), "the client was ended by its payload");
    }
}
