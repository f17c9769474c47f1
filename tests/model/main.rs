//! The model: callers do random things while one class of fault after the other, or all of them, befall the client, and
//! each answer is held against a reference model of what it may be.
//!
//! A plain program, no part of `cargo test`:
//! `cargo test --locked --test model -- --seconds 600 --faults each`. `--faults` is a class, `all` (together), or `each`: every
//! class alone, and all together. `--seed` does the same things again; when they happen is up to the machine. It ends with exit
//! code 1 where anything is not as it should be, and says how to run the round that failed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that shows what is wrong"
)]

mod book;
mod callers;
#[path = "../it/client.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod client;
mod faults;
mod life;
mod payloads;
#[path = "../soak/processes.rs"]
#[allow(dead_code, reason = "the soak uses more of it")]
mod processes;
#[path = "../soak/program.rs"]
mod program;
#[path = "../it/small_disk.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod small_disk;
#[path = "../it/wire.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod wire;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use faults::{Class, Round};
use program::Options;

/// The longest round: its disk and its book are its own.
const LONGEST_ROUND: Duration = Duration::from_secs(40);

struct Plan {
    seconds: u64,
    seed: u64,
    /// The classes of each round, and what the command line calls them.
    rounds: Vec<(String, Vec<Class>)>,
}

fn main() -> ExitCode {
    match plan() {
        Ok(plan) => plan.run(),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn plan() -> Result<Plan, String> {
    let options = Options::from_env(&["seconds", "seed", "faults"])?;
    let one = |(name, class): (&str, Class)| (name.to_owned(), vec![class]);
    let all = || ("all".to_owned(), Class::ALL.iter().map(|(_, class)| *class).collect());
    let rounds = match options.text("faults").unwrap_or("each") {
        "all" => vec![all()],
        "each" => Class::ALL.into_iter().map(one).chain([all()]).collect(),
        name => {
            let names = || Class::ALL.map(|(name, _)| name).join(", ");
            let class = Class::ALL.into_iter().find(|class| class.0 == name);
            vec![one(class.ok_or_else(|| format!("--faults {name}: it takes each, all, {}", names()))?)]
        }
    };
    Ok(Plan {
        seconds: options.number("seconds", 120)?,
        seed: options.number("seed", fastrand::u64(0..1_000_000_000))?,
        rounds,
    })
}

impl Plan {
    fn run(&self) -> ExitCode {
        let begun = Instant::now();
        let all = Duration::from_secs(self.seconds);
        println!("seed {}, {} s", self.seed, self.seconds);
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut failed = Vec::new();
        let mut seed = self.seed;
        let mut rounds = self.rounds.iter().cycle();
        // Its end takes a round as long again, more or less: so that each has its turn.
        let in_turn = match u32::try_from(self.rounds.len()).unwrap() {
            1 => 1,
            number => 2 * number,
        };
        while begun.elapsed() < all {
            let Some((name, classes)) = rounds.next() else { break };
            let length = (all / in_turn).min(LONGEST_ROUND).min(all.saturating_sub(begun.elapsed()));
            println!("-- {name}, seed {seed}, {} s", length.as_secs());
            let (book, logs) = Round::new(classes, seed).run(length);
            for (what, number) in book.counts {
                *counts.entry(what).or_default() += number;
            }
            if let Some(logs) = logs {
                let again = format!(
                    "cargo test --locked --test model -- --seconds {} --seed {seed} --faults {name}",
                    length.as_secs().max(1)
                );
                println!("{} violations; logs: {}; again: {again}", book.violations.len(), logs.display());
                failed.push(again);
            }
            seed += 1;
        }
        for (what, number) in counts {
            println!("{what:<48} {number}");
        }
        println!("{} s, {} rounds failed", begun.elapsed().as_secs(), failed.len());
        for again in &failed {
            println!("again: {again}");
        }
        ExitCode::from(u8::from(!failed.is_empty()))
    }
}
