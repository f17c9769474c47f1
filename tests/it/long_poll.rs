//! `GET /retrieve/{id}?wait=30`: the answer comes the moment the payload ends, or at the limit.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, processes_of, wait_for};
use crate::wire;

const UNTIL_GO: &str = "#!/bin/sh\necho > there\nwhile ! [ -e go ]; do sleep 0.01; done\n";

#[test]
fn a_long_poll_answers_the_moment_the_payload_ends() {
    let client = Client::start();
    let id = client.run("#!/bin/sh\nsleep 0.3\ndate +%s%N > ended\n");
    let answer = client.get(&format!("/retrieve/{id}?wait=30"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let ended = Duration::from_nanos(answer.file("ended").trim().parse().unwrap());
    assert!(now.saturating_sub(ended) < Duration::from_secs(1), "{:?}", now.saturating_sub(ended));
    // One that has ended is not waited for.
    let begun = Instant::now();
    assert_eq!(client.get(&format!("/retrieve/{id}?wait=30")).status, 200);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_long_poll_answers_202_at_its_limit() {
    let client = Client::with(&[("KILL_GRACE", "0")]);
    let id = client.run("exec sleep 1000");
    let begun = Instant::now();
    let answer = client.get(&format!("/retrieve/{id}?x=y&wait=1"));
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert!(
        (Duration::from_secs(1)..Duration::from_secs(10)).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
    for path in ["wait=0", "wait=&x=1", "wait=x", "wait=301", "wait=-1", "wait=1.5"] {
        let answer = client.get(&format!("/retrieve/{id}?{path}"));
        if path == "wait=0" {
            assert_eq!(answer.status, 202);
        } else {
            assert_eq!(answer.error(400), "bad_request", "{path}");
        }
    }
    assert_eq!(client.get("/retrieve/1?wait=30").error(404), "unknown_id");
}

#[test]
fn a_long_poll_hears_of_a_kill_of_a_payload_that_runs_or_waits() {
    let client = Client::with(&[("MAX_JOBS", "1"), ("KILL_GRACE", "0")]);
    let ids = [client.run("exec sleep 1000"), client.run("true")];
    let begun = Instant::now();
    let polls = ids.clone().map(|id| {
        let address = client.address;
        thread::spawn(move || wire::call(address, "GET", &format!("/retrieve/{id}?wait=60")))
    });
    thread::sleep(Duration::from_millis(200));
    for id in ids.iter().rev() {
        assert_eq!(client.post(&format!("/kill/{id}")).status, 200);
    }
    for poll in polls {
        let answer = poll.join().unwrap();
        assert_eq!(answer.json("status").as_deref(), Some("Killed"), "{}", answer.text());
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn a_long_poll_of_a_killed_payload_answers_when_its_last_process_is_gone() {
    let script = "#!/bin/sh\ntrap '' TERM\necho > there\nwhile :; do echo x >> grows; sleep 0.01; done\n";
    for settings in [[("KILL_GRACE", "1"), ("TIME_LIMIT", "0")], [("KILL_GRACE", "1"), ("TIME_LIMIT", "1")]] {
        let client = Client::with(&settings);
        let id = client.run(script);
        client.wait_for_file(&id, "there");
        let loc = client.loc(&id);
        if settings[1].1 == "0" {
            assert_eq!(client.post(&format!("/kill/{id}")).status, 200);
        }
        let answer = client.get(&format!("/retrieve/{id}?wait=60"));
        let size = fs::metadata(loc.join("grows")).unwrap().len();
        assert_eq!(answer.json("status").as_deref(), Some("Killed"), "{}", answer.text());
        assert_ne!(answer.json("finished_at").as_deref(), Some("null"), "{}", answer.text());
        assert!(processes_of(&id).is_empty());
        assert_eq!(fs::metadata(loc.join("grows")).unwrap().len(), size);
    }
}

#[test]
fn hundreds_of_long_polls_cost_no_thread_and_all_hear_of_the_end() {
    let client = Client::start();
    let id = client.run(UNTIL_GO);
    let there = client.wait_for_file(&id, "there");
    let threads = || fs::read_dir(format!("/proc/{}/task", client.pid())).unwrap().count();
    let before = threads();
    let mut polls: Vec<_> = (0..300)
        .map(|_| {
            let mut stream = wire::connect(client.address);
            let request =
                format!("GET /retrieve/{id}?wait=60 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
            stream
        })
        .collect();
    wait_for("an answer beside them", || (client.get("/health").status == 200).then_some(()));
    assert!(threads() <= before + 2, "{} threads, {before} before", threads());
    fs::write(there.with_file_name("go"), "").unwrap();
    for poll in &mut polls {
        wire::read_answer(poll, false).file("there");
    }
}

#[test]
fn a_stopping_client_answers_long_polls_before_it_goes() {
    let mut client = Client::with(&[("MAX_JOBS", "1"), ("GRACE", "30"), ("KILL_GRACE", "0")]);
    let running = client.run(UNTIL_GO);
    let there = client.wait_for_file(&running, "there");
    let waiting = client.run("true");
    let address = client.address;
    let polls = [running, waiting]
        .map(|id| thread::spawn(move || wire::call(address, "GET", &format!("/retrieve/{id}?wait=60"))));
    thread::sleep(Duration::from_millis(200));
    client.signal("TERM");
    thread::sleep(Duration::from_millis(200));
    let begun = Instant::now();
    fs::write(there.with_file_name("go"), "").unwrap();
    assert_eq!(client.wait().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let [running, waiting] = polls.map(|poll| poll.join().unwrap().status);
    assert_eq!((running, waiting), (200, 202));
}

#[test]
fn a_caller_that_hangs_up_gives_its_connection_back_at_once() {
    let client = Client::with(&[("MAX_CONNECTIONS", "100"), ("KILL_GRACE", "0")]);
    let id = client.run("exec sleep 2000");
    client.retrieve_when(&id, |answer| answer.json("status").as_deref() == Some("Running"));
    let request = format!("GET /retrieve/{id}?wait=300 HTTP/1.1\r\nHost: a\r\n\r\n");
    // Twice as many as there may be connections.
    for _ in 0..2 {
        let mut polls: Vec<_> = (0..99).map(|_| wire::connect(client.address)).collect();
        for poll in &mut polls {
            std::io::Write::write_all(poll, request.as_bytes()).unwrap();
        }
        wait_for("the last connection", || {
            let answer = client.get(&format!("/retrieve/{id}?wait=1"));
            (answer.status == 202).then_some(())
        });
        drop(polls);
        let is_empty = || (client.get("/health").status == 200).then_some(());
        for _ in 0..10 {
            wait_for("a free connection", is_empty);
        }
        wait_for("free connections", || {
            let mut others: Vec<_> = (0..90).map(|_| wire::connect(client.address)).collect();
            let are_served = others.iter_mut().all(|other| {
                std::io::Write::write_all(other, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_ok()
                    && wire::try_read_answer(other, false).is_ok_and(|answer| answer.status == 200)
            });
            are_served.then_some(())
        });
    }
}

/// One that only closes its own side looks the same, and may still read.
#[test]
fn a_caller_that_closes_its_own_side_is_answered_with_what_is_known() {
    let client = Client::with(&[("KILL_GRACE", "0")]);
    let id = client.run("exec sleep 2000");
    let mut poll = wire::connect(client.address);
    let request = format!("GET /retrieve/{id}?wait=300 HTTP/1.1\r\nHost: a\r\n\r\n");
    std::io::Write::write_all(&mut poll, request.as_bytes()).unwrap();
    poll.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(wire::read_answer(&mut poll, false).status, 202);
}
