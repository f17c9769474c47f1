//! The client is killed without a word and started anew, again and again, in every state of its payloads, while users submit
//! through the server and the server polls. What the client accepted comes to its one end at the server.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::records::record_of;
use crate::rig::{Rig, Wiring, poll};
use crate::user::{Answer, Job, is_final};

/// How often the client is killed, and how long at the most that goes on.
const KILLS: usize = 200;
const LIMIT: Duration = Duration::from_secs(90);

/// How long the last jobs may take to their ends at the server.
const REST: Duration = Duration::from_mins(2);

/// What a job is for: each is in another state when the client is killed.
const KINDS: [(&str, &str); 6] = [
    ("ends at once", "true"),
    ("runs for a moment", "sleep 0.2"),
    ("runs for longer", "sleep 0.7"),
    ("is slow to end", "trap 'sleep 0.2; exit 0' EXIT; (setsid sleep 1000 &); sleep 1000 &"),
    ("has a large upload", "true"),
    ("has a large result", "head -c 3000000 /dev/urandom > random; sha256sum random > sum"),
];

/// A job that the server took.
struct Sent {
    id: u32,
    token: String,
    kind: &'static str,
}

/// What the client has noted of a payload.
#[derive(Debug, miniserde::Deserialize)]
struct Record {
    status: String,
    error: Option<String>,
}

/// Not so with the server's own client, which starts no job anew and gives its ids again.
#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER"]
fn a_client_that_is_killed_hundreds_of_times_loses_and_mixes_up_no_job() {
    let rig = Rig::wired(Wiring { max_jobs: Some(4), max_runs: 40, ..Wiring::default() });
    let (begun, sent, is_over) = (Instant::now(), Mutex::new(Vec::new()), AtomicBool::new(false));
    let mut kills = 0;
    thread::scope(|scope| {
        for number in 0..3 {
            let (rig, sent, is_over) = (&rig, &sent, &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let (kind, lines) = KINDS[fastrand::usize(..KINDS.len())];
                    let token = format!("{number}-{:x}", fastrand::u64(..));
                    let mut job = Job::of(&format!("echo {token} > mark; {lines}")).file("token", &token);
                    if kind == "has a large upload" {
                        job = job.file("input", &"x".repeat(4_000_000));
                    }
                    let id = rig.upload(&job);
                    sent.lock().unwrap().push(Sent { id, token, kind });
                    // Now and then nothing is under way at all.
                    let pause_ms = if fastrand::u32(..20) == 0 { 2000 } else { fastrand::u64(100..500) };
                    thread::sleep(Duration::from_millis(pause_ms));
                }
            });
        }
        while kills < KILLS && begun.elapsed() < LIMIT {
            thread::sleep(Duration::from_millis(fastrand::u64(10..450)));
            rig.restart_client();
            kills += 1;
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let took = begun.elapsed();
    let sent = sent.into_inner().unwrap();
    let ends = ends_at_the_server(&rig, &sent);
    let payloads = payloads_of(&rig.client_data());
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for job in &sent {
        let found = payloads.get(&job.token).map_or(&[][..], Vec::as_slice);
        assert!(found.len() <= 1, "job {} ({}) became {found:?}", job.id, job.kind);
        let what = judge(&rig, job, &ends[&job.id], found.first());
        *counts.entry(what).or_default() += 1;
    }
    assert_eq!(payloads.values().map(Vec::len).sum::<usize>(), directories(&rig.client_data()).len());
    poll("no process of a payload is left", Duration::from_secs(10), || {
        strays(&rig.client_data()).is_empty().then_some(())
    });
    eprintln!("{kills} kills in {} s, {} jobs: {counts:?}", took.as_secs(), sent.len());
    assert!(kills >= KILLS / 2, "only {kills} kills in {took:?}");
    let completed = counts.get("completed").copied().unwrap_or_default();
    assert!(completed > sent.len() / 10, "too few jobs got through to tell anything: {counts:?}");
}

/// The last word of the server on each job.
fn ends_at_the_server(rig: &Rig, sent: &[Sent]) -> HashMap<u32, String> {
    let mut ends = HashMap::new();
    let deadline = Instant::now() + REST;
    while ends.len() < sent.len() {
        for job in sent {
            if let Entry::Vacant(end) = ends.entry(job.id) {
                let status = rig.status(job.id);
                if is_final(&status) {
                    end.insert(status);
                }
            }
        }
        let open = || sent.iter().filter(|job| !ends.contains_key(&job.id)).map(|job| (job.id, job.kind));
        assert!(Instant::now() < deadline, "lost: {:?}", open().collect::<Vec<_>>());
        thread::sleep(Duration::from_millis(100));
    }
    ends
}

/// Holds what the server says of a job against what the client has noted; gives what it is.
fn judge(rig: &Rig, job: &Sent, end: &str, record: Option<&Record>) -> &'static str {
    let what = format!("job {} ({}) is {end}, its payload {record:?}", job.id, job.kind);
    // What the client has of it, for as long as the server knows by which id to ask.
    let partial = match rig.download_partial(job.id) {
        Answer::Zip(outputs) => Some(outputs.text("token")),
        Answer::Notice(..) => None,
    };
    assert!(
        partial.as_ref().is_none_or(|token| *token == job.token),
        "{what}, its files are those of {partial:?}"
    );
    match (end, record, partial) {
        ("Completed", Some(record), Some(_)) => {
            assert_eq!(record.status, "Completed", "{what}");
            let outputs = rig.wait_for_results(job.id);
            assert_eq!(
                (outputs.text("token"), outputs.text("mark")),
                (job.token.clone(), job.token.clone()),
                "{what}"
            );
            assert_eq!(outputs.text(".orchestrator.exit"), "0", "{what}");
            "completed"
        }
        ("Failed", Some(record), Some(_)) => {
            let error = record.error.as_deref().unwrap_or_default();
            assert!(record.status == "Failed" && error.contains("client was restarted"), "{what}");
            "cut off by a kill"
        }
        ("Failed", None, None) => "never accepted",
        ("Failed", Some(_), None) => "accepted, but killed before the answer",
        _ => panic!("{what}"),
    }
}

/// The payloads of the client by what is in their `token`. Each directory has to be one of a payload.
fn payloads_of(data: &Path) -> HashMap<String, Vec<Record>> {
    let mut found: HashMap<String, Vec<Record>> = HashMap::new();
    for directory in directories(data) {
        let record = record_of(&directory);
        assert!(!record.is_empty(), "stray directory {}", directory.display());
        let token = fs::read_to_string(directory.join("token")).unwrap();
        found.entry(token).or_default().push(miniserde::json::from_str(&record).unwrap());
    }
    found
}

fn directories(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_dir() && path.file_name().unwrap() != ".orchestrator").collect()
}

fn strays(data: &Path) -> Vec<String> {
    let mark = format!("PAYLOAD_DIR={}/", data.canonicalize().unwrap().display());
    let names = fs::read_dir("/proc").unwrap().flatten();
    let pids = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let is_marked = |pid: &String| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(mark.as_bytes()))
    };
    pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit())).filter(is_marked).collect()
}
