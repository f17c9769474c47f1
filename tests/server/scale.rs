//! Many jobs at once, and large ones: nothing is lost, mixed up or changed on the way.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::rig::Rig;
use crate::user::Job;

#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER"]
fn twenty_jobs_at_once_each_get_their_own_results() {
    let rig = Rig::start();
    let tokens: Vec<String> = (0..20).map(|n| format!("token-{n}-{:x}", fastrand::u64(..))).collect();

    let ids: Vec<u32> = thread::scope(|scope| {
        let uploads: Vec<_> = tokens
            .iter()
            .map(|token| {
                scope.spawn(|| rig.upload(&Job::of("cat token.txt > out.txt").file("token.txt", token)))
            })
            .collect();
        uploads.into_iter().map(|upload| upload.join().unwrap()).collect()
    });

    for (id, token) in ids.into_iter().zip(&tokens) {
        let outputs = rig.wait_for_results(id);
        assert_eq!(&outputs.text("out.txt"), token);
        assert_eq!(&outputs.text("token.txt"), token);
    }
}

#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER"]
fn two_hundred_megabytes_arrive_unchanged_and_come_back_unchanged() {
    const MIB: usize = 1024 * 1024;
    let rig = Rig::start();
    let mut random = fastrand::Rng::with_seed(200);
    let mut block = vec![0; MIB];
    let job = Job::of("sha256sum input.bin > sum.txt").written_by("input.bin", |file| {
        for _ in 0..200 {
            random.fill(&mut block);
            file.write_all(&block)?;
        }
        Ok(())
    });
    let sum = sha256(&job.path("input.bin"));

    let id = rig.upload(&job);
    drop(job);
    let outputs = rig.wait_long_for_results(id, Duration::from_mins(5));

    assert_eq!(outputs.text("sum.txt"), format!("{sum}  input.bin"));
    assert_eq!(sha256(&outputs.path("input.bin")), sum);
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    assert!(output.status.success(), "sha256sum: {output:?}");
    String::from_utf8(output.stdout).unwrap().split_once(' ').unwrap().0.to_owned()
}
