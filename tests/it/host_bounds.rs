//! MAX_LOAD, MIN_MEMORY, MAX_TEMPERATURE, MAX_PRESSURE: payloads wait while the host is over one, and what runs goes on. The client has
//! files of the test in the place of those of /proc and /sys.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::client::{Client, wait_for};

const UNTIL_GO: &str = "#!/bin/sh\necho > there\nwhile ! [ -e go ]; do sleep 0.02; done\n";
const BEGUN: &str = "payloads wait: the host is over a bound";
const OVER: &str = "payloads are started again";

/// Files for /proc and /sys, in a mount namespace of the client's own.
struct StandIn {
    dir: tempfile::TempDir,
}

const MOUNT: &str = "mount --bind \"$1/meminfo\" /proc/meminfo && mount --bind \"$1/stat\" /proc/stat && \
                     { ! [ -d /proc/pressure ] || mount --bind \"$1/pressure\" /proc/pressure; } && \
                     mount --bind \"$1/class\" /sys/class && shift";

impl StandIn {
    /// `None` where no such namespace can be had, which the output tells.
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let host = Self { dir };
        fs::create_dir_all(host.path("pressure")).unwrap();
        fs::create_dir_all(host.path("class/thermal/thermal_zone0")).unwrap();
        fs::write(host.path("stat"), fs::read("/proc/stat").unwrap()).unwrap();
        host.put("meminfo", "MemTotal:        8000000 kB\nMemAvailable:    4000000 kB\n");
        host.put("class/thermal/thermal_zone0/temp", "45000\n");
        host.put("class/thermal/thermal_zone0/type", "cpu-thermal\n");
        for file in ["cpu", "memory", "io"] {
            host.put(&format!("pressure/{file}"), &pressure("00.10"));
        }
        let script = format!("{MOUNT} && exec \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script, "sh"]).arg(host.dir.path()).arg("true");
        let output = command.output();
        if !output.as_ref().is_ok_and(|output| output.status.success()) {
            println!("skipped: nothing can be mounted over /proc here: {output:?}");
            return None;
        }
        Some(host)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// In one write of an equal length: a reader sees the old text or the new one.
    fn put(&self, name: &str, text: &str) {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(self.path(name)).unwrap();
        file.write_all_at(text.as_bytes(), 0).unwrap();
    }

    fn client(&self, settings: &[&str]) -> Client {
        let script = format!("{MOUNT} && exec \"$@\"");
        let dir = self.dir.path().to_str().unwrap();
        let wrapper = ["unshare", "-m", "sh", "-c", &script, "sh", dir, "env", "MAX_JOBS=2"];
        Client::through(&[&wrapper[..], settings].concat())
    }
}

fn pressure(percent: &str) -> String {
    format!(
        "some avg10={percent} avg60=00.00 avg300=00.00 total=1\nfull avg10=00.00 avg60=00.00 avg300=00.00 total=1\n"
    )
}

fn status(client: &Client, id: &str) -> String {
    client.get(&format!("/retrieve/{id}")).json("status").unwrap_or_else(|| "Completed".to_owned())
}

/// One payload runs when the host comes over its bound, and another one comes then.
fn must_hold_back(host: &StandIn, setting: &str, reason: &str, over: &dyn Fn(), within: &dyn Fn()) {
    let client = host.client(&[setting]);
    let running = client.run(UNTIL_GO);
    let there = client.wait_for_file(&running, "there");
    assert_eq!(client.get("/ready").status, 200);
    over();
    // A load is up to a second old.
    thread::sleep(Duration::from_millis(2100));
    let waiting: Vec<String> = (0..2).map(|_| client.run("true")).collect();
    client.wait_for_log(BEGUN);
    let ready = wait_for("the reason", || Some(client.get("/ready")).filter(|ready| ready.status == 503));
    let text = ready.text();
    assert!(text.contains(r#""reasons":["host_busy"]"#) && text.contains(reason), "{text}");
    assert_eq!(client.get("/health").status, 200);
    // Looked at again, and not started.
    thread::sleep(Duration::from_millis(2500));
    assert!(waiting.iter().all(|id| status(&client, id) == "Prepared"), "{}", client.log());
    assert_eq!(status(&client, &running), "Running");
    fs::write(there.with_file_name("go"), "").unwrap();
    client.result(&running).file("there");
    assert!(waiting.iter().all(|id| status(&client, id) == "Prepared"), "{}", client.log());
    assert_eq!(client.log().matches(BEGUN).count(), 1, "{}", client.log());
    within();
    for id in &waiting {
        client.result(id).file(".orchestrator.exit");
    }
    client.wait_for_log(OVER);
    wait_for("a host that is well", || (client.get("/ready").status == 200).then_some(()));
}

#[test]
fn payloads_wait_while_too_little_memory_is_available() {
    let Some(host) = StandIn::new() else { return };
    let put = |kib| host.put("meminfo", &format!("MemTotal:        8000000 kB\nMemAvailable:    {kib} kB\n"));
    let reason = "976 MiB of memory are available, below MIN_MEMORY, 1024 MiB";
    must_hold_back(&host, "MIN_MEMORY=1G", reason, &|| put("1000000"), &|| put("2000000"));
}

#[test]
fn payloads_wait_while_the_host_is_too_hot() {
    let Some(host) = StandIn::new() else { return };
    let put = |millidegrees| host.put("class/thermal/thermal_zone0/temp", millidegrees);
    let reason = "the host has 80.5 degrees Celsius, above MAX_TEMPERATURE, 75";
    must_hold_back(&host, "MAX_TEMPERATURE=75", reason, &|| put("80500\n"), &|| put("74900\n"));
}

#[test]
fn payloads_wait_while_the_pressure_is_too_high() {
    let Some(host) = StandIn::new() else { return };
    if !Path::new("/proc/pressure").exists() {
        return println!("skipped: this kernel has no PSI");
    }
    let reason = "in 61.5 % of the time something waits for memory, above MAX_PRESSURE, 40 %";
    let put = |percent| host.put("pressure/memory", &pressure(percent));
    must_hold_back(&host, "MAX_PRESSURE=40", reason, &|| put("61.50"), &|| put("39.00"));
}

/// Counts on in the place of the kernel, whose first line is `cpu` and ten numbers.
fn count_on(path: PathBuf, is_busy: Arc<AtomicBool>, is_over: Arc<AtomicBool>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let text = fs::read_to_string(&path).unwrap();
        let rest = text.split_once('\n').unwrap().1.to_owned();
        let (mut busy, mut idle) = (100_000_000_u64, 100_000_000_u64);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        while !is_over.load(Ordering::Relaxed) {
            *(if is_busy.load(Ordering::Relaxed) { &mut busy } else { &mut idle }) += 10;
            let line = format!("cpu  {busy:012} 0 0 {idle:012} 0 0 0 0 0 0\n{rest}");
            file.write_all_at(line.as_bytes(), 0).unwrap();
            thread::sleep(Duration::from_millis(20));
        }
    })
}

#[test]
fn payloads_wait_while_the_load_is_too_high() {
    let Some(host) = StandIn::new() else { return };
    let (is_busy, is_over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let counter = count_on(host.path("stat"), Arc::clone(&is_busy), Arc::clone(&is_over));
    // Its length is what it will be.
    thread::sleep(Duration::from_millis(200));
    let set = |value| is_busy.store(value, Ordering::Relaxed);
    must_hold_back(&host, "MAX_LOAD=80", "above MAX_LOAD, 80 %", &|| set(true), &|| set(false));
    is_over.store(true, Ordering::Relaxed);
    counter.join().unwrap();
}

#[test]
fn a_payload_that_waits_for_its_host_can_be_killed_and_is_not_looked_after_any_more() {
    let Some(host) = StandIn::new() else { return };
    host.put("class/thermal/thermal_zone0/temp", "99000\n");
    let client = host.client(&["MAX_TEMPERATURE=75", "MAX_QUEUE=1"]);
    let switches = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", client.pid())).unwrap().flatten();
        let runner = tasks
            .map(|task| fs::read_to_string(task.path().join("status")).unwrap_or_default())
            .find(|status| status.starts_with("Name:\trunner\n"))
            .unwrap();
        runner.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap().to_owned()
    };
    let must_sleep = || {
        let before = switches();
        thread::sleep(Duration::from_secs(4));
        assert_eq!(switches(), before, "nothing waits, so nobody looks");
    };
    wait_for("its guard", || client.guard());
    must_sleep();
    // It has not looked, and does not know better.
    assert_eq!(client.get("/ready").status, 200);
    let id = client.run("true");
    client.wait_for_log(BEGUN);
    let ready = client.get("/ready");
    assert!(ready.text().contains(r#""reasons":["queue_full","host_busy"]"#), "{}", ready.text());
    assert_eq!(client.post(&format!("/kill/{id}")).status, 200);
    assert_eq!(status(&client, &id), "Killed");
    wait_for("a host that nobody waits for", || (client.get("/ready").status == 200).then_some(()));
    must_sleep();
}

#[test]
fn a_stop_does_not_wait_for_a_busy_host_and_the_next_life_runs_what_waits() {
    let Some(host) = StandIn::new() else { return };
    host.put("class/thermal/thermal_zone0/temp", "99000\n");
    let mut client = host.client(&["MAX_TEMPERATURE=75"]);
    let id = client.run("true");
    client.wait_for_log(BEGUN);
    client.signal("TERM");
    assert!(client.wait().success());
    let next = Client::at(&client.data, &[]);
    next.result(&id).file(".orchestrator.exit");
}

#[test]
fn a_bound_that_the_host_cannot_tell_counts_as_kept_and_is_told() {
    let Some(host) = StandIn::new() else { return };
    fs::remove_dir_all(host.path("class/thermal/thermal_zone0")).unwrap();
    let client = host.client(&["MAX_TEMPERATURE=75"]);
    client.result(&client.run("true"));
    let told = "a bound of the host cannot be looked at, and counts as kept";
    client.wait_for_log(told);
    client.result(&client.run("true"));
    assert_eq!(client.log().matches(told).count(), 1, "{}", client.log());
    assert!(client.log().contains("setting=MAX_TEMPERATURE"), "{}", client.log());
}
