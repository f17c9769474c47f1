//! The disk of one client hangs: the server asks its clients one after the other, and waits for each answer.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use crate::rig::{Rig, SOON, Wiring, poll};
use crate::small_disk::SmallDisk;
use crate::user::Job;

fn is_well(port: u16) -> bool {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.starts_with("HTTP/1.1 200 ")
}

fn time_of_a_job(rig: &Rig) -> Duration {
    let begun = Instant::now();
    let id = rig.upload(&Job::of("echo done > out.txt"));
    assert_eq!(rig.wait_for_results(id).text("out.txt"), "done");
    begun.elapsed()
}

#[test]
#[ignore = "needs JOB_ORCHESTRATOR_SERVER"]
fn jobs_of_another_service_go_on_while_the_disk_of_one_hangs() {
    let Some(disk) = SmallDisk::ext4() else { return };
    let rig = Rig::wired(Wiring { second: Some(disk.path().join("data")), ..Wiring::default() });
    let usual = (0..3).map(|_| time_of_a_job(&rig)).max().unwrap();
    let before = rig.upload_to("second", &Job::of("echo second > out.txt"));
    assert_eq!(rig.wait_for_results(before).text("out.txt"), "second");
    let Some(frozen) = disk.freeze() else { return };
    let held: Vec<u32> = (0..3).map(|_| rig.upload_to("second", &Job::of("echo second > out.txt"))).collect();
    // Until it is known each of the three costs DISK_TIMEOUT at the most, and nothing after that.
    time_of_a_job(&rig);
    poll("the trouble is known", SOON, || (!is_well(rig.second_port())).then_some(()));
    let times: Vec<Duration> = (0..3).map(|_| time_of_a_job(&rig)).collect();
    let quickest = times.iter().min().unwrap();
    assert!(*quickest < usual * 3 + Duration::from_secs(5), "{times:?}, {usual:?} before");
    drop(frozen);
    poll("it is well again", SOON, || is_well(rig.second_port()).then_some(()));
    let after = rig.upload_to("second", &Job::of("echo second > out.txt"));
    assert_eq!(rig.wait_for_results(after).text("out.txt"), "second");
    // The server takes a refusal for the end of a job. Nothing of theirs has run, or is there.
    for id in held {
        rig.wait_for_status(id, "Failed");
    }
    let names = std::fs::read_dir(disk.path().join("data")).unwrap().flatten();
    let payloads = names.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).count();
    assert_eq!(payloads, 2);
}
