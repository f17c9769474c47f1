//! `GET /metrics`: the numbers are those of what has happened, and `promtool` understands them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::{Client, wait_for};
use crate::wire::{self, Answer};

const OPEN_METRICS: &str =
    "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5\r\n";

fn scrape(client: &Client, fields: &str) -> Answer {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
    let answer = wire::send(client.address, request);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer
}

/// The samples, by name and labels without what all names begin with.
fn samples(client: &Client) -> BTreeMap<String, String> {
    let text = scrape(client, "").text();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let name = name.strip_prefix("orchestrator_client_").unwrap_or_else(|| panic!("{line}"));
        assert!(value.parse::<f64>().is_ok(), "{line}");
        (name.to_owned(), value.to_owned())
    });
    let all: Vec<_> = pairs.collect();
    let told = all.len();
    let all: BTreeMap<_, _> = all.into_iter().collect();
    assert_eq!(all.len(), told, "no sample is there twice: {text}");
    all
}

#[track_caller]
fn number(samples: &BTreeMap<String, String>, name: &str) -> f64 {
    samples.get(name).unwrap_or_else(|| panic!("no {name} in {samples:#?}")).parse().unwrap()
}

#[track_caller]
fn count(samples: &BTreeMap<String, String>, name: &str) -> u64 {
    samples.get(name).unwrap_or_else(|| panic!("no {name} in {samples:#?}")).parse().unwrap()
}

#[test]
fn what_happens_to_payloads_is_counted() {
    let client =
        Client::with(&[("MAX_JOBS", "2"), ("TIME_LIMIT", "1s"), ("KILL_GRACE", "0"), ("MAX_AGE", "1h")]);
    let before = samples(&client);
    assert_eq!(count(&before, "slots"), 2);
    assert_eq!(count(&before, "ready"), 1);
    assert_eq!(count(&before, "starts_held_back{why=\"lack\"}"), 0);
    assert_eq!(count(&before, "payload_run_seconds_count"), 0);
    assert_eq!(count(&before, "payloads_total{status=\"Failed\"}"), 0);
    for script in ["exit 0", "sleep 0.3", "exit 3"] {
        client.ended(&client.run(script));
    }
    client.ended(&client.submit(&[("no-script", b"x")]));
    client.ended(&client.run("exec sleep 1000"));
    let now = samples(&client);
    for (status, many) in
        [("Prepared", 5), ("Running", 4), ("Completed", 2), ("Failed", 1), ("Invalid", 1), ("Killed", 1)]
    {
        assert_eq!(count(&now, &format!("payloads_total{{status=\"{status}\"}}")), many, "{status}");
    }
    assert_eq!(count(&now, "limits_hit_total{limit=\"time_limit\"}"), 1);
    for (name, many) in [("wait", 5), ("start", 4), ("run", 4)] {
        assert_eq!(count(&now, &format!("payload_{name}_seconds_count")), many, "{name}");
        assert_eq!(count(&now, &format!("payload_{name}_seconds_bucket{{le=\"+Inf\"}}")), many, "{name}");
    }
    let ran = number(&now, "payload_run_seconds_sum");
    assert!((1.3..20.0).contains(&ran), "{ran}");
    assert!(number(&now, "payload_run_seconds_bucket{le=\"0.1\"}") <= 2.0);
    let started = number(&now, "payload_start_seconds_sum");
    assert!(started > 0.0 && started < 4.0, "{started}");
    assert_eq!((count(&now, "payloads_waiting"), count(&now, "payloads_running")), (0, 0));
}

#[test]
fn requests_bytes_and_refusals_are_counted_and_callers_choose_no_label() {
    let client = Client::start();
    for path in ["/load", "/load", "/retrieve/1", "/retrieve/2", "/x", "/y\"{}"] {
        client.get(path);
    }
    client.post("/load");
    wire::call(client.address, "HEAD", "/load");
    wire::call(client.address, "BREW", "/load");
    wire::send(client.address, "rubbish\r\n\r\n");
    let id = client.run(&format!("#!/bin/sh\n: {}\n", "x".repeat(100_000)));
    client.ended(&id);
    // An answer is counted once it is out.
    wait_for("the last answer", || {
        let now = samples(&client);
        let is_there = now.get("http_requests_total{route=\"/retrieve/{id}\",method=\"GET\",code=\"200\"}");
        is_there.map(|_| ())
    });
    let now = samples(&client);
    for (route, method, code, many) in [
        ("/load", "GET", 200, 2),
        ("/load", "HEAD", 200, 1),
        ("/load", "POST", 405, 1),
        ("/load", "other", 405, 1),
        ("/retrieve/{id}", "GET", 404, 2),
        ("none", "GET", 404, 2),
        ("none", "other", 400, 1),
        ("/submit", "POST", 200, 1),
    ] {
        let name = format!("http_requests_total{{route=\"{route}\",method=\"{method}\",code=\"{code}\"}}");
        assert_eq!(count(&now, &name), many, "{name}");
    }
    assert_eq!(count(&now, "refusals_total{reason=\"unknown_id\"}"), 2);
    assert_eq!(count(&now, "http_request_seconds_count{route=\"/load\"}"), 5);
    assert!(number(&now, "http_received_bytes_total") > 100_000.0);
    assert!(number(&now, "http_sent_bytes_total") > 1000.0);
    assert_eq!(count(&now, "http_connections"), 1);
    assert!(now.keys().all(|name| !name.contains("/x") && !name.contains("/y") && !name.contains("BREW")));
}

#[test]
fn the_disk_the_process_and_the_host_are_told() {
    let client = Client::start();
    let now = samples(&client);
    let (free, size) = (number(&now, "disk_free_bytes"), number(&now, "disk_size_bytes"));
    assert!(0.0 < free && free <= size, "{free} of {size}");
    assert_eq!((count(&now, "disk_hung"), count(&now, "records_owed"), count(&now, "stopping")), (0, 0, 0));
    assert!(number(&now, "process_resident_memory_bytes") > 500_000.0);
    for (of_proc, name) in [("task", "process_threads"), ("fd", "process_open_fds")] {
        let entries = std::fs::read_dir(format!("/proc/{}/{of_proc}", client.pid())).unwrap().count() as u64;
        assert!(count(&now, name).abs_diff(entries) < 6, "{name}: {entries}");
    }
    let since_1970 =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((since_1970 - number(&now, "process_start_time_seconds")).abs() < 60.0);
    let memory = number(&now, "host_memory_bytes");
    assert!(number(&now, "host_memory_available_bytes") <= memory);
    assert!((0.0..=1.0).contains(&number(&now, "host_cpu_usage_ratio")));
    assert!(now.keys().any(|name| name.starts_with("build_info{version=\"")), "{now:#?}");
}

#[test]
fn both_formats_are_given_by_what_is_asked_for() {
    let client = Client::start();
    let answer = scrape(&client, "");
    let content_type = answer.header("content-type");
    assert_eq!(content_type.as_deref(), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(answer.text().contains("# TYPE orchestrator_client_http_received_bytes_total counter\n"));
    let answer = scrape(&client, OPEN_METRICS);
    let content_type = answer.header("content-type");
    assert_eq!(content_type.as_deref(), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(answer.text().contains("# TYPE orchestrator_client_http_received_bytes counter\n"));
    assert!(answer.text().ends_with("\n# EOF\n"));
}

#[test]
fn a_scrape_takes_a_moment() {
    let client = Client::start();
    let id = client.run("exit 0");
    client.ended(&id);
    let mut stream = wire::connect(client.address);
    let mut took: Vec<Duration> = (0..50)
        .map(|_| {
            let begun = Instant::now();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            let answer = wire::read_answer(&mut std::io::BufReader::new(&mut stream), false);
            assert_eq!(answer.status, 200);
            begun.elapsed()
        })
        .collect();
    took.sort_unstable();
    println!("a scrape takes {:?}, of {} bytes", took[25], scrape(&client, "").body.len());
    // The debug build; the static one takes a fraction of it. The machine may be busy.
    assert!(took[25] < Duration::from_millis(20), "{:?}", took[25]);
}

/// The names in a text that begin as all do, without what histograms add.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    let names = words.filter_map(|word| word.strip_prefix("orchestrator_client_"));
    let bare = |name: &str| {
        let ends = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        ends.filter(|name| name.ends_with("_seconds")).unwrap_or(name).to_owned()
    };
    names.map(bare).collect()
}

#[test]
fn what_is_told_is_documented_and_what_is_watched_is_told() {
    let client = Client::with(&[("TIME_LIMIT", "1s"), ("KILL_GRACE", "0")]);
    client.ended(&client.run("exec sleep 1000"));
    client.get("/none");
    let told = names(&scrape(&client, "").text());
    let read =
        |path: &str| std::fs::read_to_string(format!("{}/docs/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let document = read("monitoring.md");
    let documented: BTreeSet<String> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" |").next())
        .flat_map(|cell| cell.split('`').step_by(2).map(str::to_owned).collect::<Vec<_>>())
        .filter(|name| !name.is_empty())
        .collect();
    assert!(told.len() > 30, "{told:?}");
    assert!(told.is_subset(&documented), "{:?}", told.difference(&documented));
    for path in ["monitoring/alerts.yml", "monitoring/alerts_test.yml", "monitoring/dashboard.json"] {
        let watched = names(&read(path));
        assert!(
            !watched.is_empty() && watched.is_subset(&documented),
            "{path}: {:?}",
            watched.difference(&documented)
        );
    }
    // What this host does not have may be missing.
    let of_hosts = [
        "host_pressure_seconds_total",
        "host_temperature_celsius",
        "host_power_condition",
        "disk_free_inodes",
    ];
    let missing: Vec<_> =
        documented.difference(&told).filter(|name| !of_hosts.contains(&name.as_str())).collect();
    assert!(missing.is_empty(), "documented, and told by nobody: {missing:?}");
}

/// `PROMTOOL=/usr/bin/promtool cargo test --test it metrics:: -- --include-ignored`
#[test]
#[ignore = "PROMTOOL has to name the program; Debian's package prometheus has it"]
fn promtool_finds_nothing_to_complain_of() {
    let client = Client::with(&[("TIME_LIMIT", "1s"), ("KILL_GRACE", "0")]);
    for script in ["exit 0", "exec sleep 1000"] {
        client.ended(&client.run(script));
    }
    client.get("/none");
    let text = scrape(&client, "").text();
    let promtool = std::env::var_os("PROMTOOL").expect("PROMTOOL has to name the program");
    let mut check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    let told =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.is_empty(), "{told}");
}

/// As the one before.
#[test]
#[ignore = "PROMTOOL has to name the program; Debian's package prometheus has it"]
fn the_alert_rules_do_what_they_are_there_for() {
    let promtool = std::env::var_os("PROMTOOL").expect("PROMTOOL has to name the program");
    let place = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/monitoring");
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]] {
        let output = Command::new(&promtool).args(arguments).current_dir(place).output().unwrap();
        let told =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{told}");
    }
}
