//! `GET /payloads/{id}/logs`: what a payload prints, up to now or as it comes.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::client::{Client, wait_for};
use crate::wire::{self, Answer};

/// Prints what is in the file `more` whenever the test has put one there, and ends with the file `go`.
const ON_DEMAND: &str = "#!/bin/sh\necho ready\nwhile ! [ -e go ]; do mv more now 2>/dev/null && cat now; sleep 0.005; done\necho last\n";

/// One who follows a log.
struct Follower {
    stream: BufReader<TcpStream>,
    head: String,
}

impl Follower {
    fn start(client: &Client, target: &str, fields: &str) -> Self {
        let mut stream = wire::connect(client.address);
        write!(stream, "GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n").unwrap();
        Self::of(stream)
    }

    fn of(stream: TcpStream) -> Self {
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).unwrap() > 0, "{head}");
        }
        Self { stream, head }
    }

    /// The next piece; empty at the regular end.
    fn piece(&mut self) -> std::io::Result<Vec<u8>> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16).map_err(|_| std::io::ErrorKind::UnexpectedEof)?;
        let mut piece = vec![0; size + 2];
        self.stream.read_exact(&mut piece)?;
        piece.truncate(size);
        Ok(piece)
    }

    /// What comes until the text has come that it ends with.
    #[track_caller]
    fn until(&mut self, end: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(end) {
            let piece = self.piece().unwrap();
            assert!(!piece.is_empty(), "ended with {text:?}");
            text.push_str(std::str::from_utf8(&piece).unwrap());
        }
        text
    }

    /// All that still comes, up to the regular end.
    fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        loop {
            let piece = self.piece().unwrap();
            if piece.is_empty() {
                return String::from_utf8(bytes).unwrap();
            }
            bytes.extend(piece);
        }
    }
}

fn with_fields(client: &Client, target: &str, fields: &str) -> Answer {
    let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
    wire::send(client.address, request)
}

fn logs(id: &str, query: &str) -> String {
    format!("/payloads/{id}/logs?{query}")
}

/// The lines of an event stream that begin so.
fn fields<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
}

fn threads(client: &Client) -> usize {
    fs::read_dir(format!("/proc/{}/task", client.pid())).unwrap().count()
}

/// How many files are watched.
fn watches(client: &Client) -> usize {
    let infos = fs::read_dir(format!("/proc/{}/fdinfo", client.pid())).unwrap().flatten();
    let texts = infos.map(|info| fs::read_to_string(info.path()).unwrap_or_default());
    texts.map(|text| text.lines().filter(|line| line.starts_with("inotify wd:")).count()).sum()
}

#[test]
fn a_follower_gets_what_is_there_then_the_rest_as_it_comes_then_the_end() {
    let client = Client::start();
    let id = client.run(ON_DEMAND);
    let there = client.wait_for_file(&id, ".orchestrator.out");
    let mut follower = Follower::start(&client, &logs(&id, "follow=1"), "");
    assert!(follower.head.starts_with("HTTP/1.1 200 "), "{}", follower.head);
    assert!(follower.head.contains("Content-Type: text/plain; charset=utf-8\r\n"), "{}", follower.head);
    assert!(follower.head.contains("X-Content-Type-Options: nosniff\r\n"), "{}", follower.head);
    assert_eq!(follower.until("ready\n"), "ready\n");
    for text in ["one\n", "two\nthree\n", "four\n"] {
        fs::write(there.with_file_name("new"), text).unwrap();
        fs::rename(there.with_file_name("new"), there.with_file_name("more")).unwrap();
        assert_eq!(follower.until(text), text);
    }
    // Who does not follow gets what is there, at once.
    assert_eq!(client.get(&logs(&id, "")).text(), "ready\none\ntwo\nthree\nfour\n");
    fs::write(there.with_file_name("go"), "").unwrap();
    assert_eq!(follower.rest(), "last\n");
    client.ended(&id);
    let all = "ready\none\ntwo\nthree\nfour\nlast\n";
    assert_eq!(client.get(&logs(&id, "")).text(), all);
    assert_eq!(client.get(&logs(&id, "follow=1")).text(), all);
    wait_for("the end of the watch", || (watches(&client) == 0).then_some(()));
}

#[test]
fn a_line_is_there_within_fifty_milliseconds() {
    let client = Client::start();
    let id = client.run("#!/bin/bash\nfor n in {1..40}; do date +%s%N; sleep 0.03; done\n");
    client.wait_for_file(&id, ".orchestrator.out");
    let mut follower = Follower::start(&client, &logs(&id, "follow=1&stream=stdout"), "");
    let mut late = Vec::new();
    loop {
        let piece = follower.piece().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        if piece.is_empty() {
            break;
        }
        // The last line is the newest.
        let text = String::from_utf8(piece).unwrap();
        let line = text.trim_end().rsplit('\n').next().unwrap();
        late.push(now.saturating_sub(Duration::from_nanos(line.parse().unwrap())));
    }
    late.sort_unstable();
    assert!(late.len() > 20, "{}", late.len());
    println!("lines come after {:?}, the slowest after {:?}", late[late.len() / 2], late[late.len() - 1]);
    // Nine of ten: the machine may be busy.
    assert!(late[late.len() * 9 / 10] < Duration::from_millis(50), "{late:?}");
}

#[test]
fn ten_thousand_lines_a_second_arrive_whole_and_in_order() {
    let client = Client::start();
    let script =
        "#!/bin/bash\nfor n in {0..29}; do seq $((n * 1000 + 1)) $((n * 1000 + 1000)); sleep 0.09; done\n";
    let id = client.run(script);
    let followers = ["text/plain", "text/event-stream"].map(|accept| {
        let fields = format!("Accept: {accept}\r\n");
        let mut follower = Follower::start(&client, &logs(&id, "follow=1&stream=stdout"), &fields);
        thread::spawn(move || follower.rest())
    });
    let [plain, events] = followers.map(|follower| follower.join().unwrap());
    assert!(plain.lines().map(|line| line.parse::<u32>().unwrap()).eq(1..=30_000), "{}", plain.len());
    let lines = fields(&events, "data").into_iter().take(30_000);
    assert!(lines.map(|line| line.parse::<u32>().unwrap()).eq(1..=30_000), "{}", events.len());
}

#[test]
fn one_that_waits_is_followed_from_its_start_and_one_that_never_starts_to_its_end() {
    let client = Client::with(&[("MAX_JOBS", "1"), ("KILL_GRACE", "0")]);
    let first = client.run("exec sleep 1000");
    let [second, third] = ["echo it runs", "echo never"].map(|script| client.run(script));
    let begun = Instant::now();
    assert_eq!(client.get(&logs(&second, "")).text(), "");
    let mut followers = [&second, &third].map(|id| Follower::start(&client, &logs(id, "follow=1"), ""));
    assert!(begun.elapsed() < Duration::from_secs(10), "the heads come at once");
    assert_eq!(client.post(&format!("/kill/{third}")).status, 200);
    assert_eq!(followers[1].rest(), "");
    assert_eq!(client.post(&format!("/kill/{first}")).status, 200);
    assert_eq!(followers[0].rest(), "it runs\n");
    client.ended(&second);
    // One without a start has printed nothing.
    assert_eq!(client.get(&logs(&third, "follow=1")).text(), "");
}

#[test]
fn each_output_has_its_own_and_both_come_line_by_line() {
    let client = Client::start();
    let script =
        "#!/bin/sh\nprintf 'o1\\nhalf '; echo e1 >&2; sleep 0.1; echo of it; printf 'e2, no end' >&2\n";
    let id = client.run(script);
    let mut both = Follower::start(&client, &logs(&id, "follow=1&stream=both"), "");
    let text = both.rest();
    // A line is never broken by one of the other output; what has no end comes last.
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["e1", "e2, no end", "half of it", "o1"], "{text}");
    client.ended(&id);
    for (query, expected) in [
        ("stream=stdout", "o1\nhalf of it\n"),
        ("stream=stderr", "e1\ne2, no end"),
        ("", "o1\nhalf of it\ne1\ne2, no end"),
        ("stream=stdout&offset=3", "half of it\n"),
        ("stream=stdout&offset=1000", ""),
        ("offset=3,3", "half of it\ne2, no end"),
        ("stream=stdout&tail=1", "half of it\n"),
        ("tail=1", "half of it\ne2, no end"),
        ("stream=stderr&tail=0", ""),
        ("stream=stderr&tail=5&follow=1", "e1\ne2, no end"),
    ] {
        assert_eq!(client.get(&logs(&id, query)).text(), expected, "{query}");
    }
    for query in [
        "stream=x",
        "follow=yes",
        "offset=x",
        "offset=1",
        "stream=stdout&offset=1,2",
        "stream=stdout&offset=-1",
        "tail=x",
        "tail=100001",
        "stream=stdout&offset=1&tail=1",
    ] {
        assert_eq!(client.get(&logs(&id, query)).error(400), "bad_request", "{query}");
    }
}

#[test]
fn events_can_be_gone_on_with_after_any_of_them() {
    let client = Client::start();
    let id = client.run("#!/bin/sh\necho one; echo two; printf '50 %%\\rid: 9\\n'; echo bad >&2; exit 3\n");
    client.ended(&id);
    let fields_of = "Accept: text/event-stream\r\n";
    let answer = with_fields(&client, &logs(&id, "follow=1"), fields_of);
    assert_eq!(answer.header("content-type").as_deref(), Some("text/event-stream"));
    let text = answer.text();
    assert_eq!(fields(&text, "event"), ["stdout", "stdout", "stdout", "stderr", "end"], "{text}");
    assert_eq!(fields(&text, "id"), ["4,0", "8,0", "19,0", "19,4", "19,4"], "{text}");
    assert_eq!(fields(&text, "data")[..5], ["one", "two", "50 %", "id: 9", "bad"], "{text}");
    let end = wire::json_field(&text, "status");
    assert_eq!(end.as_deref(), Some("Failed"), "{text}");
    let rest = format!("{fields_of}Last-Event-ID: 8,0\r\n");
    let rest = with_fields(&client, &logs(&id, "follow=1&tail=1"), &rest).text();
    assert_eq!(rest, text.split_once("data: two\n\n").unwrap().1);
    let broken = format!("{fields_of}Last-Event-ID: 8\r\n");
    assert_eq!(with_fields(&client, &logs(&id, "follow=1"), &broken).error(400), "bad_request");
}

#[test]
fn http_1_0_gets_all_to_the_end_of_the_connection() {
    let client = Client::start();
    let id = client.run("#!/bin/sh\necho one; sleep 0.2; echo two\n");
    let mut stream = wire::connect(client.address);
    write!(stream, "GET {} HTTP/1.0\r\n\r\n", logs(&id, "follow=1")).unwrap();
    let answer = wire::read_answer(&mut stream, false);
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!(answer.text(), "one\ntwo\n");
    let answer = wire::call(client.address, "HEAD", &logs(&id, "follow=1"));
    assert_eq!((answer.status, answer.text().as_str()), (200, ""));
}

#[test]
fn what_is_unknown_cleaned_or_gone_says_why() {
    let client = Client::with(&[("MAX_AGE", "1s")]);
    assert_eq!(client.get("/payloads/1/logs").error(404), "unknown_id");
    assert_eq!(client.post("/payloads/1/logs").error(405), "method_not_allowed");
    let id = client.run(ON_DEMAND);
    let there = client.wait_for_file(&id, ".orchestrator.out");
    client.retrieve_when(&id, |answer| answer.json("pid").as_deref() != Some("0"));
    let (directory, elsewhere) = (there.parent().unwrap(), client.data.join("elsewhere"));
    fs::rename(directory, &elsewhere).unwrap();
    assert_eq!(client.get(&logs(&id, "follow=1")).error(404), "directory_gone");
    fs::rename(&elsewhere, directory).unwrap();
    fs::write(there.with_file_name("go"), "").unwrap();
}

#[test]
fn a_link_in_the_place_of_an_output_is_not_followed() {
    let client = Client::start();
    let id = client.run("#!/bin/sh\nrm .orchestrator.out\nln -s /etc/passwd .orchestrator.out\nmkfifo p; mv p .orchestrator.err\n");
    client.ended(&id);
    assert_eq!(client.get(&logs(&id, "follow=1")).text(), "");
}

#[test]
fn with_max_log_what_is_left_out_is_said_in_its_place() {
    let client = Client::with(&[("MAX_LOG", "2K")]);
    let id = client.run("#!/bin/sh\nseq 1 5000; sleep 0.2; echo last\n");
    client.ended(&id);
    let text = client.get(&logs(&id, "follow=1&stream=stdout")).text();
    let numbers: Vec<_> = (1..=5000).map(|number| number.to_string()).collect();
    let printed = numbers.join("\n") + "\nlast\n";
    let (head, rest) = text.split_once("\n[").unwrap();
    let (count, tail) = rest.split_once(" bytes are left out here: MAX_LOG]\n").unwrap();
    assert!(printed.starts_with(head) && printed.ends_with(tail) && tail.ends_with("\nlast\n"), "{text}");
    assert_eq!(head.len() + count.parse::<usize>().unwrap() + tail.len(), printed.len());
}

/// The file gets them at the end only; who follows need not wait for that.
#[test]
fn with_max_log_the_last_lines_are_told_while_the_payload_runs() {
    let client = Client::with(&[("MAX_LOG", "2K")]);
    let id =
        client.run("#!/bin/sh\nseq 1 5000; echo live; while ! [ -e go ]; do sleep 0.01; done; echo last\n");
    let there = client.wait_for_file(&id, ".orchestrator.out");
    let mut plain = Follower::start(&client, &logs(&id, "follow=1&stream=stdout"), "");
    let accept = "Accept: text/event-stream\r\n";
    let mut events = Follower::start(&client, &logs(&id, "follow=1"), accept);
    let mut text = plain.until("live\n");
    let told = events.until("data: live\n\n");
    // From here on a late one begins with the same head.
    let mut late = Follower::start(&client, &logs(&id, "follow=1&stream=stdout"), "");
    let of_late = late.until("live\n");
    fs::write(there.with_file_name("go"), "").unwrap();
    text += &plain.rest();
    let of_late = of_late + &late.rest();
    client.ended(&id);
    let numbers: Vec<_> = (1..=5000).map(|number| number.to_string()).collect();
    let printed = numbers.join("\n") + "\nlive\nlast\n";
    for text in [&text, &of_late, &client.get(&logs(&id, "stream=stdout")).text()] {
        // Whatever was told and whatever left out is all that was printed.
        let (head, mut rest) = text.split_once("\n[").unwrap();
        assert!(printed.starts_with(head), "{text}");
        let mut at = head.len();
        loop {
            let (count, after) = rest.split_once(" bytes are left out here: MAX_LOG]\n").unwrap();
            at += count.parse::<usize>().unwrap();
            let (here, next) =
                after.split_once("\n[").map_or((after, None), |(here, next)| (here, Some(next)));
            assert_eq!(printed.get(at..at + here.len()), Some(here), "{text}");
            at += here.len();
            let Some(next) = next else { break };
            rest = next;
        }
        assert_eq!(at, printed.len(), "{text}");
        assert!(text.ends_with("live\nlast\n"), "{text}");
    }
    // Who goes on from an event gets nothing less.
    let last = fields(&told, "id").last().map(|id| (*id).to_owned()).unwrap();
    let resumed =
        with_fields(&client, &logs(&id, "follow=1"), &format!("{accept}Last-Event-ID: {last}\r\n")).text();
    let lines = fields(&resumed, "data");
    assert!(lines[1].contains("left out here") || lines[0].contains("left out here"), "{resumed}");
    assert!(lines.contains(&"live") && lines.contains(&"last"), "{resumed}");
}

#[test]
fn a_thousand_followers_cost_no_thread_each_and_a_slow_one_holds_up_nobody() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum.map(|most| most.min(8192)), maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).unwrap();
    let client = Client::start();
    let id = client.run(ON_DEMAND);
    let there = client.wait_for_file(&id, ".orchestrator.out");
    wait_for("the first line", || (client.get(&logs(&id, "")).text() == "ready\n").then_some(()));
    let before = threads(&client);
    let rss = |client: &Client| {
        let status = fs::read_to_string(format!("/proc/{}/status", client.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    };
    let rss_before = rss(&client);
    let target = logs(&id, "follow=1&stream=stdout");
    // These read nothing more than their heads before the end.
    let mut slow: Vec<_> = (0..10).map(|_| Follower::start(&client, &target, "")).collect();
    let mut followers: Vec<_> = (0..1000).map(|_| Follower::start(&client, &target, "")).collect();
    for follower in &mut followers {
        assert_eq!(follower.until("ready\n"), "ready\n");
    }
    let (now, rss_now) = (threads(&client), rss(&client));
    println!("{now} threads, {before} before; {} KiB for each follower", (rss_now - rss_before) / 1010);
    assert!(now <= before + 4, "{now} threads, {before} before");
    assert!(rss_now - rss_before < 40 * 1024, "{rss_now} KiB, {rss_before} before");
    // More than the kernel keeps for those that do not read.
    let text = format!("{}\n", "x".repeat(12 * 1024 * 1024));
    fs::write(there.with_file_name("new"), &text).unwrap();
    fs::rename(there.with_file_name("new"), there.with_file_name("more")).unwrap();
    let fast = followers.split_off(996);
    drop(followers);
    for mut follower in fast {
        assert_eq!(follower.until("x\n").len(), text.len());
    }
    let begun = Instant::now();
    assert_eq!(client.get("/health").status, 200);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    fs::write(there.with_file_name("go"), "").unwrap();
    for follower in &mut slow {
        assert_eq!(follower.rest().len(), "ready\n".len() + text.len() + "last\n".len());
    }
}

#[test]
fn who_hangs_up_gives_all_back_at_once() {
    let client = Client::with(&[("MAX_CONNECTIONS", "20"), ("KILL_GRACE", "0")]);
    let id = client.run("echo ready; exec sleep 1000");
    client.wait_for_file(&id, ".orchestrator.out");
    // More often than there may be connections.
    for _ in 0..3 {
        let followers: Vec<_> = (0..15)
            .map(|_| {
                let mut follower = Follower::start(&client, &logs(&id, "follow=1"), "");
                follower.until("ready\n");
                follower
            })
            .collect();
        assert!(watches(&client) > 0);
        drop(followers);
        wait_for("the end of the watches", || (watches(&client) == 0).then_some(()));
    }
}

#[test]
fn a_stopping_client_cuts_who_follows_what_has_not_ended_and_finishes_the_others() {
    let mut client = Client::with(&[("MAX_JOBS", "1"), ("GRACE", "30"), ("KILL_GRACE", "0")]);
    let running = client.run(ON_DEMAND);
    let there = client.wait_for_file(&running, ".orchestrator.out");
    let waiting = client.run("echo never in this life");
    let mut followers = [&running, &waiting].map(|id| Follower::start(&client, &logs(id, "follow=1"), ""));
    followers[0].until("ready\n");
    client.signal("TERM");
    client.wait_for_log("client stopping");
    fs::write(there.with_file_name("go"), "").unwrap();
    let begun = Instant::now();
    assert_eq!(followers[0].rest(), "last\n");
    assert!(followers[1].piece().is_err(), "no regular end of what goes on in the next life");
    assert_eq!(client.wait().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}
