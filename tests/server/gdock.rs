//! The example of the original project, `docs/example`, with the program that it runs: what a user gets through server and client is
//! what that program gives by hand, byte for byte. `deploy/gdock` builds it and prints the path that GDOCK names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::rig::{Rig, Wiring};
use crate::user::Job;

const INPUT: [&str; 2] = ["2oob_A.pdb", "2oob_B.pdb"];

/// Docking takes twenty seconds on two cores that have nothing else to do.
const LONG: Duration = Duration::from_mins(15);

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/example").join(name)
}

/// The directory of the program, and what finds it.
fn programs() -> (PathBuf, std::ffi::OsString) {
    let gdock = std::env::var_os("GDOCK")
        .expect("GDOCK has to name gdock: `deploy/gdock` builds it and prints its path");
    let directory = PathBuf::from(gdock).parent().unwrap().to_owned();
    let mut path = directory.clone().into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    (directory, path)
}

/// The files that a script of the example makes by hand.
fn by_hand(script: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let place = TempDir::new().unwrap();
    for name in INPUT {
        fs::copy(example(name), place.path().join(name)).unwrap();
    }
    let script = Command::new("bash")
        .arg(example(script))
        .env("PATH", programs().1)
        .current_dir(place.path())
        .status();
    assert!(script.unwrap().success());
    files_below(place.path())
}

/// Those of the client aside.
fn files_below(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_owned();
            if path.is_dir() {
                left.push(path);
            } else if name != Path::new("run.sh") && !name.to_str().unwrap().starts_with(".orchestrator.") {
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Uploads the example with this script as `run.sh`.
fn upload(rig: &Rig, script: &str) -> u32 {
    let mut job = Job::new().file("run.sh", &fs::read_to_string(example(script)).unwrap());
    for name in INPUT {
        job = job.file(name, &fs::read_to_string(example(name)).unwrap());
    }
    rig.upload(&job)
}

#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER and GDOCK"]
fn the_example_of_the_original_project_gives_what_its_program_gives_by_hand() {
    let rig = Rig::wired(Wiring { programs: Some(programs().0), ..Wiring::default() });
    let jobs =
        [("dock.sh", "out/metrics.tsv"), ("run.sh", "gdock.log")].map(|job| (job, upload(&rig, job.0)));
    for ((script, result), id) in jobs {
        let expected = by_hand(script);
        let outputs = rig.wait_long_for_results(id, LONG);
        let found = files_below(&outputs.path(""));
        assert!(found[Path::new(result)].len() > 50, "{script}: {result} is empty");
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{script}");
        for (name, content) in &expected {
            assert!(found[name] == *content, "{script}: {} differs", name.display());
        }
        // As the trap of the script has it, and as the client has.
        assert_eq!(outputs.text(".orchestrator.exit"), "0");
    }
}
