//! The small resources, and what a caller is told who asks for the wrong thing.

use std::fs;
use std::io::{BufReader, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use miniserde::json::{Number, Object, Value};

use crate::client::{Client, wait_for};
use crate::wire;

#[test]
fn the_root_answers_pong() {
    let client = Client::start();
    for path in ["/", "/?", "/?x=y", "/?/health"] {
        let answer = client.get(path);
        assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"message":"pong"}"#), "{path}");
        assert_eq!(answer.header("content-type").as_deref(), Some("application/json"));
        assert!(answer.header("date").is_some_and(|date| date.ends_with(" GMT")), "{}", answer.head);
    }
}

#[test]
fn health_tells_that_all_parts_work_and_how_busy_they_are() {
    let client = Client::with(&[("MAX_JOBS", "1")]);
    let count = |field: &str, object: &Object| match &object[field] {
        Value::Number(Number::U64(count)) => *count,
        other => panic!("{field}: {other:?}"),
    };
    let health = || -> Object {
        let answer = client.get("/health");
        assert_eq!(answer.status, 200, "{}", answer.text());
        miniserde::json::from_str(&answer.text()).unwrap()
    };
    let idle = health();
    for part in ["status", "database", "data_path", "runner"] {
        assert!(matches!(&idle[part], Value::String(word) if word == "ok"), "{part}: {idle:?}");
    }
    assert!(matches!(&idle["version"], Value::String(version) if version == env!("CARGO_PKG_VERSION")));
    assert!(matches!(&idle["draining"], Value::Bool(false)));
    assert_eq!((count("waiting", &idle), count("running", &idle)), (0, 0));
    let ids: Vec<String> = (0..3).map(|_| client.run("exec sleep 1000")).collect();
    wait_for("one that runs and two that wait", || {
        let busy = health();
        ((count("waiting", &busy), count("running", &busy)) == (2, 1)).then_some(())
    });
    for id in &ids {
        assert_eq!(client.post(&format!("/kill/{id}")).status, 200);
        client.result(id);
    }
    // The status is set at once, the process takes a moment to end.
    wait_for("nothing that runs", || {
        let idle = health();
        ((count("waiting", &idle), count("running", &idle)) == (0, 0)).then_some(())
    });
}

#[test]
fn health_is_503_with_the_reason_while_the_data_path_cannot_be_used() {
    let client = Client::start();
    let aside = client.data.with_extension("aside");
    fs::rename(&client.data, &aside).unwrap();
    let answer = wait_for("a bad report", || Some(client.get("/health")).filter(|a| a.status == 503));
    assert_eq!(answer.header("content-type").as_deref(), Some("application/json"));
    let report: Object = miniserde::json::from_str(&answer.text()).unwrap();
    assert!(matches!(&report["status"], Value::String(word) if word == "error"), "{report:?}");
    let path = client.data.to_str().unwrap();
    assert!(matches!(&report["data_path"], Value::String(why) if why.contains(path)), "{report:?}");
    assert!(matches!(&report["database"], Value::String(word) if word == "ok"), "{report:?}");
    fs::rename(&aside, &client.data).unwrap();
    wait_for("a good report", || (client.get("/health").status == 200).then_some(()));
}

#[test]
fn load_is_a_bare_number_at_once() {
    let client = Client::start();
    let begun = Instant::now();
    for _ in 0..20 {
        let answer = client.get("/load");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type").as_deref(), Some("application/json"));
        let text = answer.text();
        assert!((0.0..=100.0).contains(&text.parse::<f64>().unwrap()) && text.contains('.'), "{text}");
    }
    // A sample takes 200 ms in other clients: 20 of them would take 4 s.
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn load_follows_the_use_of_the_processors() {
    let client = Client::start();
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let all = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count();
    let ours = thread::available_parallelism().unwrap().get();
    let reachable = 100.0 * f64::from(u32::try_from(ours).unwrap()) / f64::from(u32::try_from(all).unwrap());
    let done = Arc::new(AtomicBool::new(false));
    let spinners: Vec<_> = (0..ours)
        .map(|_| {
            let done = Arc::clone(&done);
            thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    wait_for("a high load", || {
        let load: f64 = client.get("/load").text().parse().unwrap();
        (load > reachable * 0.8).then_some(())
    });
    done.store(true, Ordering::Relaxed);
    for spinner in spinners {
        spinner.join().unwrap();
    }
}

#[test]
fn another_method_is_405_with_those_that_are_allowed() {
    let client = Client::start();
    let id = client.run("true");
    client.result(&id);
    let (retrieve, partial, kill) =
        (format!("/retrieve/{id}"), format!("/retrieve_partial/{id}"), format!("/kill/{id}"));
    for (path, allowed) in [
        ("/", "GET, HEAD"),
        ("/health", "GET, HEAD"),
        ("/load", "GET, HEAD"),
        (&retrieve, "GET, HEAD"),
        (&partial, "GET, HEAD"),
        ("/submit", "POST"),
        (&kill, "POST"),
        // The method is wrong whatever the id is.
        ("/retrieve/x", "GET, HEAD"),
        ("/kill/x", "POST"),
    ] {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "get"] {
            if allowed.split(", ").any(|word| word == method) {
                continue;
            }
            let answer = wire::call(client.address, method, path);
            assert_eq!(answer.header("allow").as_deref(), Some(allowed), "{method} {path}");
            assert_eq!(answer.status, 405, "{method} {path}");
            if method != "HEAD" {
                assert_eq!(answer.error(405), "method_not_allowed", "{method} {path}");
                assert!(answer.text().contains(allowed), "{}", answer.text());
            }
        }
    }
}

#[test]
fn a_path_that_leads_nowhere_is_404_for_every_method() {
    let client = Client::start();
    for path in [
        "/nothing",
        "/health/",
        "/healthz",
        "/Health",
        "/%68ealth",
        "//",
        "/./health",
        "/load/1",
        "/submit/",
        "/submit/1",
        "/index.html",
        "/../etc/passwd",
        "/retrieve",
        "/kill",
        "/*",
        "/#",
        "/;x",
        "/\"<>\\",
    ] {
        for method in ["GET", "POST", "DELETE", "OPTIONS"] {
            let answer = wire::call(client.address, method, path);
            assert_eq!(answer.error(404), "no_such_route", "{method} {path}");
            assert_eq!(answer.header("allow"), None, "{method} {path}");
        }
    }
}

#[test]
fn every_refusal_has_a_stable_code_and_one_sentence() {
    let client = Client::with(&[("MAX_UPLOAD", "1000")]);
    let form = "Content-Type: multipart/form-data; boundary=B";
    let post = |fields: &str| format!("POST /submit HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    for (request, status, code) in [
        ("hello\r\n\r\n".to_owned(), 400, "bad_request"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400, "bad_request"),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n".to_owned(), 505, "http_version_not_supported"),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(5000)), 414, "uri_too_long"),
        (post(&"X: y\r\n".repeat(200)), 431, "head_too_large"),
        (post("Transfer-Encoding: gzip"), 501, "transfer_encoding"),
        (post("Expect: wonders"), 417, "expectation_failed"),
        ("GET /x HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 404, "no_such_route"),
        ("GET /retrieve/1 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 404, "unknown_id"),
        ("PUT /load HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 405, "method_not_allowed"),
        (post(form), 411, "length_required"),
        (post(&format!("{form}\r\nContent-Length: 100000")), 413, "content_too_large"),
        (post("Content-Length: 0"), 415, "not_multipart"),
        (post("Content-Type: multipart/form-data\r\nContent-Length: 0"), 400, "bad_boundary"),
        (post(&format!("{form}\r\nContent-Length: 0")), 400, "multipart_incomplete"),
        (post(&format!("{form}\r\nContent-Length: 5")) + "--B--", 400, "no_files"),
    ] {
        let answer = wire::send(client.address, &request);
        assert_eq!(answer.error(status), code, "{request:.80}");
        let object: Object = miniserde::json::from_str(&answer.text()).unwrap();
        let Value::String(message) = &object["message"] else { panic!("{}", answer.text()) };
        let is_sentence = message.ends_with('.') && message.starts_with(|c: char| c.is_ascii_uppercase());
        assert!(is_sentence && message.len() < 300, "{message}");
    }
}

/// A stack takes more of the address space than of the memory: with `ulimit -v` too few could be had.
#[test]
fn a_bounded_address_space_lowers_the_connections_and_the_log_says_so() {
    let script = "ulimit -v 2097152; exec \"$@\"";
    let client = Client::through(&["env", "MAX_CONNECTIONS=16384", "bash", "-c", script, "bash"]);
    let line = wait_for("the line about it", || {
        client
            .log()
            .lines()
            .find(|line| line.contains("MAX_CONNECTIONS is lowered to what"))
            .map(str::to_owned)
    });
    assert!(line.contains("wanted=16384") && line.contains(r#"bound="address space (ulimit -v)""#), "{line}");
    assert!(client.result(&client.run("#!/bin/sh\n:\n")).status == 200);
}

/// All downloads that may be under way at once are, each with all that it takes: with too many of them the program would end where
/// memory for the next one could not be had.
#[test]
fn downloads_in_a_bounded_address_space_are_whole_or_refused_and_the_client_lives() {
    for (kib, zip_threads) in [(120_000, "1"), (200_000, "1"), (200_000, "3"), (400_000, "1")] {
        let script = format!("ulimit -v {kib}; exec \"$@\"");
        let threads = format!("ZIP_THREADS={zip_threads}");
        let client = Client::through(&["env", &threads, "DISK_TIMEOUT=4s", "bash", "-c", &script, "bash"]);
        // It shrinks by a quarter: the compressor is at work, and its output fills what lies between.
        let id = client.run("#!/bin/bash\nhead -c 6000000 /dev/urandom | base64 > text\n");
        let text = client.result(&id).file("text");
        let request = format!("GET /retrieve/{id} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        let mut readers: Vec<_> = (0..60).map(|_| wire::connect(client.address)).collect();
        for reader in &mut readers {
            reader.write_all(request.as_bytes()).unwrap();
        }
        // Nobody reads until all have asked.
        thread::sleep(Duration::from_secs(2));
        let mut whole = 0;
        for mut reader in readers {
            match wire::try_read_answer(&mut BufReader::new(&mut reader), false) {
                Ok(answer) if answer.status == 200 => {
                    let files = answer.files();
                    assert!(files.iter().any(|(name, content)| name == "text" && content == text.as_bytes()));
                    whole += 1;
                }
                Ok(answer) => drop(answer.error(503)),
                Err(_) => {}
            }
        }
        assert!(whole > 0, "{kib} KiB: none came whole");
        assert_eq!(client.get("/health").status, 200);
        assert!(!client.log().contains("program is at fault"), "{kib} KiB: {}", client.log());
    }
}
