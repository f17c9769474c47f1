//! The network at its worst: floods, storms, peers that trickle, stop, reset or never end. What is asserted each time: the
//! client goes on serving others, and all that was taken is given back.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

use crate::client::{Client, wait_for};
use crate::wire::{self, Answer, BOUNDARY, answers_to_the_end, connect, read_answer, try_read_answer};

const PING: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// How many transfers of one direction the client has disk threads for.
const THREADS: usize = 64;

// --- what the kernel counts

/// A number of KiB out of `/proc/PID/status`.
fn status_kib(client: &Client, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", client.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn resident_kib(client: &Client) -> u64 {
    status_kib(client, "VmRSS:")
}

fn peak_kib(client: &Client) -> u64 {
    status_kib(client, "VmHWM:")
}

fn descriptors(client: &Client) -> usize {
    fs::read_dir(format!("/proc/{}/fd", client.pid())).unwrap().count()
}

/// As many as it holds at rest, the pipe to its guard included, which it starts while it serves already.
fn settled_descriptors(client: &Client) -> usize {
    wait_for("its guard", || client.guard());
    descriptors(client)
}

fn disk_threads(client: &Client) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", client.pid())).unwrap().flatten();
    tasks
        .filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "disk\n"))
        .count()
}

/// CPU time so far, in clock ticks of 10 ms (proc_pid_stat(5)).
fn cpu_ticks(client: &Client) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", client.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Asserts that the client uses next to nothing of a processor for a while.
#[track_caller]
fn must_not_spin(client: &Client, while_: &str) {
    let before = cpu_ticks(client);
    thread::sleep(Duration::from_secs(2));
    let used = cpu_ticks(client) - before;
    assert!(used <= 30, "{used}0 ms of CPU time in 2 s, {while_}");
}

/// Lets this process, and the clients that it starts, have so many descriptors.
fn allow_descriptors(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < count) {
        let raised = Rlimit { current: Some(count), maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).expect("the hard limit of descriptors is too low for this test");
    }
}

// --- peers

fn ping(stream: &mut TcpStream) -> Answer {
    stream.write_all(PING.as_bytes()).unwrap();
    read_answer(stream, false)
}

/// Asserts that requests of others are answered in no time.
#[track_caller]
fn must_be_quick(client: &Client, while_: &str) {
    for _ in 0..20 {
        let begun = Instant::now();
        assert_eq!(client.get("/health").status, 200, "{while_}");
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}, {while_}", begun.elapsed());
    }
}

/// The head of a chunked upload and so much of its body that it holds a disk thread; more may follow in chunks.
fn begin_large_upload(client: &Client) -> TcpStream {
    let mut stream = connect(client.address);
    let content = "x".repeat(100_000);
    let part = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; filename=\"big\"\r\n\r\n{content}");
    write!(
        stream,
        "POST /submit HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
         Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n{:x}\r\n{part}\r\n",
        part.len()
    )
    .unwrap();
    stream
}

/// Whether the other end has neither answered nor closed.
fn is_undisturbed(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let seen = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    matches!(seen, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

/// Sends a piece to each peer again and again, as long as the other end takes it.
struct Trickle {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Trickle {
    fn start(streams: &[TcpStream], piece: &'static [u8], pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut streams: Vec<TcpStream> = streams.iter().map(|stream| stream.try_clone().unwrap()).collect();
        let stopped = Arc::clone(&stop);
        let send = move || {
            while !stopped.load(Ordering::Relaxed) {
                streams.retain_mut(|stream| stream.write_all(piece).is_ok());
                thread::sleep(pause);
            }
        };
        Self { stop, thread: Some(thread::spawn(send)) }
    }
}

impl Drop for Trickle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

// --- slow senders

#[test]
fn a_thousand_heads_that_never_end_keep_nobody_waiting() {
    let client = Client::with(&[("HEAD_TIMEOUT", "3")]);
    allow_descriptors(4096);
    let before = settled_descriptors(&client);
    let mut slow: Vec<TcpStream> = (0..1000).map(|_| connect(client.address)).collect();
    for stream in &mut slow {
        stream.write_all(b"POST /submit HTTP/1.1\r\nHost: a\r\nX: ").unwrap();
    }
    must_be_quick(&client, "with a thousand heads under way");
    for stream in &mut slow {
        let answers = answers_to_the_end(stream);
        assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [408]);
    }
    wait_for("the descriptors", || (descriptors(&client) <= before).then_some(()));
    client.must_be_well_and_empty("slow heads");
}

#[test]
fn a_body_that_trickles_counts_as_one_that_stands_still() {
    let client = Client::with(&[("STALL_TIMEOUT", "1")]);
    let form = format!("Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n");
    for (what, request, status) in [
        ("by length", format!("POST /submit HTTP/1.1\r\nHost: a\r\n{form}Content-Length: 5000\r\n\r\n"), 408),
        (
            "a size line",
            format!("POST /submit HTTP/1.1\r\nHost: a\r\n{form}Transfer-Encoding: chunked\r\n\r\n1;"),
            408,
        ),
        (
            "a trailer",
            format!("POST /submit HTTP/1.1\r\nHost: a\r\n{form}Transfer-Encoding: chunked\r\n\r\n0\r\nX:"),
            408,
        ),
        // Nobody reads this one: it is answered at once, and the rest read away.
        ("unread", "POST /kill/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n".to_owned(), 404),
    ] {
        let begun = Instant::now();
        let mut stream = connect(client.address);
        stream.write_all(request.as_bytes()).unwrap();
        // A byte a tenth of a second: never still for as long as STALL_TIMEOUT.
        let trickle = Trickle::start(&[stream.try_clone().unwrap()], b"x", Duration::from_millis(100));
        assert_eq!(read_answer(&mut stream, false).status, status, "{what}");
        let mut rest = Vec::new();
        // A reset is an end too: the trickle goes on after the close.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{what}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}: {:?}", begun.elapsed());
        drop(trickle);
    }
    wait_for("the removal of what had come", || client.directories().is_empty().then_some(()));
    client.must_be_well_and_empty("bodies that trickled");
}

#[test]
fn an_upload_over_a_link_of_two_kilobytes_a_second_arrives() {
    let client = Client::with(&[("STALL_TIMEOUT", "1")]);
    let body = wire::form(&[("run.sh", b"true"), ("a.txt", "x".repeat(10_000).as_bytes())]);
    let mut stream = connect(client.address);
    stream.write_all(wire::submit_head(body.len()).as_bytes()).unwrap();
    for piece in body.chunks(400) {
        stream.write_all(piece).unwrap();
        thread::sleep(Duration::from_millis(200));
    }
    let answer = read_answer(&mut stream, false);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn uploads_that_crawl_on_every_disk_thread_make_way_for_those_that_wait() {
    let client = Client::with(&[("STALL_TIMEOUT", "2")]);
    let slow: Vec<TcpStream> = (0..THREADS).map(|_| begin_large_upload(&client)).collect();
    // 260 bytes a second each.
    let trickle = Trickle::start(&slow, b"14\r\nxxxxxxxxxxxxxxxxxxxx\r\n", Duration::from_millis(100));
    wait_for("a thread for each", || (disk_threads(&client) >= THREADS).then_some(()));
    // As long as nobody waits, being slow is no fault.
    thread::sleep(Duration::from_secs(5));
    assert!(slow.iter().all(is_undisturbed), "{}", client.log());
    let begun = Instant::now();
    let id = client.run("true");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    // One had to go for it, and no more than that.
    let cut = || slow.iter().filter(|stream| !is_undisturbed(stream)).count();
    wait_for("the refusal of one", || (cut() > 0).then_some(()));
    assert!(cut() <= 3, "{} of {THREADS} were cut off for one", cut());
    client.result(&id);
    drop(trickle);
    drop(slow);
    wait_for("the removal of what was cut off", || (client.directories().len() == 1).then_some(()));
    client.must_be_well_and_empty("slow uploads");
}

#[test]
fn uploads_that_stand_still_on_every_disk_thread_are_cut_and_the_next_one_is_received() {
    let client = Client::with(&[("STALL_TIMEOUT", "2")]);
    let mut still: Vec<TcpStream> = (0..THREADS + 10).map(|_| begin_large_upload(&client)).collect();
    wait_for("the threads", || (disk_threads(&client) >= THREADS).then_some(()));
    let begun = Instant::now();
    let id = client.run("true");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    client.result(&id);
    for stream in &mut still {
        assert_eq!(read_answer(stream, false).error(408), "request_timeout");
    }
    wait_for("the removal of what was cut off", || (client.directories().len() == 1).then_some(()));
    client.must_be_well_and_empty("uploads that stood still");
}

// --- slow readers

/// A payload whose ZIP has 30 MB, more than sockets hold.
fn large_result(client: &Client) -> String {
    let id = client.run("head -c 30000000 /dev/urandom > noise");
    client.retrieve_when(&id, |answer| answer.status == 200);
    id
}

#[test]
fn readers_that_stop_in_the_middle_are_cut_and_give_their_disk_threads_back() {
    let client = Client::with(&[("STALL_TIMEOUT", "2")]);
    let id = large_result(&client);
    let before = settled_descriptors(&client);
    let mut readers: Vec<TcpStream> = (0..THREADS)
        .map(|_| {
            let mut stream = connect(client.address);
            write!(stream, "GET /retrieve/{id} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            stream.read_exact(&mut [0; 1000]).unwrap();
            stream
        })
        .collect();
    must_be_quick(&client, "with readers that stand still");
    // All threads for downloads are held: this one waits for the first that is given back.
    let begun = Instant::now();
    assert!(client.get(&format!("/retrieve/{id}")).files().iter().any(|file| file.0 == "noise"));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    wait_for("the end of all", || {
        (client.log().matches("archive not sent to its end").count() == THREADS).then_some(())
    });
    // Each of them can tell that it has not got all.
    for stream in &mut readers {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(!rest.ends_with(b"0\r\n\r\n"));
    }
    wait_for("the descriptors", || (descriptors(&client) <= before).then_some(()));
    wait_for("the threads", || (disk_threads(&client) < 5).then_some(()));
}

#[test]
fn a_reader_slower_than_the_buffers_of_its_socket_gets_all() {
    let client = Client::with(&[("STALL_TIMEOUT", "1")]);
    let id = large_result(&client);
    let mut stream = connect(client.address);
    write!(stream, "GET /retrieve/{id} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut bytes = vec![0; 1_800_000];
    // The kernel says that there is room only when a third of its buffer is free again, which takes this reader far
    // longer than STALL_TIMEOUT.
    for piece in bytes.chunks_mut(30_000) {
        stream.read_exact(piece).unwrap();
        thread::sleep(Duration::from_millis(100));
    }
    stream.read_to_end(&mut bytes).unwrap();
    assert!(read_answer(&mut bytes.as_slice(), false).files().iter().any(|file| file.0 == "noise"));
}

// --- half-closed and reset

#[test]
fn a_peer_that_has_closed_its_own_side_still_gets_its_answer() {
    let client = Client::start();
    let id = large_result(&client);
    let half_closed = |request: &[u8]| {
        let mut stream = connect(client.address);
        stream.write_all(request).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let answers = answers_to_the_end(&mut stream);
        assert_eq!(answers.len(), 1);
        answers.into_iter().next().unwrap()
    };
    assert_eq!(half_closed(PING.as_bytes()).text(), r#"{"message":"pong"}"#);
    let body = wire::form(&[("run.sh", b"true"), ("big", &vec![b'x'; 1_000_000])]);
    let answer = half_closed(&[wire::submit_head(body.len()).as_bytes(), &body].concat());
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = half_closed(format!("GET /retrieve/{id} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    assert!(answer.files().iter().any(|file| file.0 == "noise" && file.1.len() == 30_000_000));
    // What ends in the middle is no request.
    let mut stream = connect(client.address);
    stream.write_all(&PING.as_bytes()[..20]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(answers_to_the_end(&mut stream).is_empty());
}

#[test]
fn resets_in_the_middle_of_large_transfers_leave_nothing_behind() {
    let client = Client::start();
    let id = large_result(&client);
    let before = settled_descriptors(&client);
    let mut random = fastrand::Rng::with_seed(4);
    for number in 0..200 {
        // Closed with unread bytes, a socket sends a reset.
        if number % 2 == 0 {
            let mut stream = connect(client.address);
            write!(stream, "GET /retrieve/{id} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            stream.read_exact(&mut vec![0; random.usize(1..3_000_000)]).unwrap();
        } else {
            let mut stream = begin_large_upload(&client);
            let piece = vec![b'x'; random.usize(1..400_000)];
            write!(stream, "{:x}\r\n", piece.len() + 10).unwrap();
            stream.write_all(&piece).unwrap();
            if number % 4 == 1 {
                // SO_LINGER of 0 would do the same; std has it not yet. Answered 400, unread.
                let _ = stream.write_all(b"0123456789no line end");
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
    wait_for("the removal of what was cut off", || (client.directories().len() == 1).then_some(()));
    wait_for("the descriptors", || (descriptors(&client) <= before).then_some(()));
    wait_for("the threads", || (disk_threads(&client) < 5).then_some(()));
    assert_eq!(client.get(&format!("/retrieve/{id}")).status, 200);
    client.must_be_well_and_empty("resets");
}

// --- many connections

#[test]
fn five_thousand_idle_connections_cost_little_and_give_it_back() {
    allow_descriptors(7000);
    let client = Client::with(&[("MAX_CONNECTIONS", "6000")]);
    must_be_quick(&client, "before");
    let (descriptors_before, resident_before) = (descriptors(&client), resident_kib(&client));
    let mut idle: Vec<TcpStream> = (0..5000).map(|_| connect(client.address)).collect();
    for stream in &mut idle {
        assert_eq!(ping(stream).status, 200);
    }
    must_be_quick(&client, "with 5,000 idle connections");
    let id = client.run("true");
    client.result(&id);
    must_not_spin(&client, "with 5,000 idle connections");
    let each = (resident_kib(&client) - resident_before) / 5000;
    println!("{each} KiB for an idle connection");
    assert!(each <= 16, "{each} KiB for an idle connection");
    for stream in idle.iter_mut().rev().take(50) {
        assert_eq!(ping(stream).status, 200);
    }
    drop(idle);
    wait_for("the descriptors", || (descriptors(&client) <= descriptors_before).then_some(()));
    wait_for("the memory", || (resident_kib(&client) < resident_before + 8 * 1024).then_some(()));
    client.must_be_well_and_empty("idle connections");
}

#[test]
fn a_storm_above_the_limit_of_descriptors_starves_nobody_who_is_inside() {
    let client = Client::through(&["prlimit", "--nofile=256"]);
    let before = settled_descriptors(&client);
    let mut inside = connect(client.address);
    assert_eq!(ping(&mut inside).status, 200);
    let mut storm: Vec<TcpStream> = (0..500).map(|_| connect(client.address)).collect();
    let mut told = [0, 0, 0];
    for stream in &mut storm {
        // Those above all limits are closed at once: writing to one may fail.
        let _ = stream.write_all(PING.as_bytes());
        match try_read_answer(stream, false) {
            Ok(answer) if answer.status == 200 => told[0] += 1,
            Ok(answer) => {
                assert_eq!(answer.error(503), "too_many_connections");
                told[1] += 1;
            }
            Err(_) => told[2] += 1,
        }
    }
    assert!(told[0] >= 50 && told[1] > 0, "served, refused, closed: {told:?}");
    must_not_spin(&client, "with a storm outside");
    // There are descriptors left for the files and the processes of those that are inside.
    let files: Vec<(String, Vec<u8>)> = (0..20).map(|n| (format!("d{n}/file"), vec![b'x'; 10_000])).collect();
    let mut files: Vec<(&str, &[u8])> =
        files.iter().map(|file| (file.0.as_str(), file.1.as_slice())).collect();
    files.push(("run.sh", b"cat */file | wc -c"));
    let body = wire::form(&files);
    let head = wire::submit_head(body.len()).replace("Connection: close\r\n", "");
    inside.write_all(&[head.as_bytes(), &body].concat()).unwrap();
    let answer = read_answer(&mut inside, false);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let path = format!("/retrieve/{}", answer.json("id").unwrap());
    let result = wait_for("the result", || {
        write!(inside, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        Some(read_answer(&mut inside, false)).filter(|answer| answer.status != 202)
    });
    assert_eq!(result.file(".orchestrator.out"), "200000\n");
    drop(storm);
    drop(inside);
    wait_for("free places", || (descriptors(&client) <= before).then_some(()));
    assert_eq!(client.result(&client.run("true")).status, 200);
    client.must_be_well_and_empty("a storm");
}

#[test]
fn out_of_descriptors_the_client_neither_spins_nor_stops_accepting() {
    let client = Client::start();
    let before = settled_descriptors(&client);
    let mut inside: Vec<TcpStream> = (0..3).map(|_| connect(client.address)).collect();
    for stream in &mut inside {
        assert_eq!(ping(stream).status, 200);
    }
    // Not one more than are open now.
    let pid = Pid::from_raw(client.pid().try_into().unwrap()).unwrap();
    let none_left = Rlimit { current: Some(1), maximum: getrlimit(Resource::Nofile).maximum };
    let limit = prlimit(Some(pid), Resource::Nofile, none_left).unwrap();
    let mut outside: Vec<TcpStream> = (0..300).map(|_| connect(client.address)).collect();
    for stream in &mut outside {
        stream.write_all(PING.as_bytes()).unwrap();
    }
    wait_for("the complaint", || client.log().contains("cannot accept connections").then_some(()));
    must_not_spin(&client, "out of descriptors");
    // Those that are inside are served: with an error where it takes a descriptor.
    assert_eq!(ping(&mut inside[0]).status, 200);
    inside[0].write_all(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let ready = read_answer(&mut inside[0], false);
    assert_eq!((ready.status, ready.json("reasons").as_deref()), (503, Some(r#"["no_descriptors"]"#)));
    for size in [100, 1_000_000] {
        let body = wire::form(&[("run.sh", b"true"), ("file", &vec![b'x'; size])]);
        let head = wire::submit_head(body.len()).replace("Connection: close\r\n", "");
        let stream = &mut inside[usize::from(size > 100)];
        stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
        let answer = read_answer(stream, false);
        assert_eq!(answer.error(503), "no_descriptors");
        assert!(answer.header("retry-after").is_some(), "{}", answer.head);
    }
    assert_eq!(client.log().matches("cannot accept connections").count(), 1, "{}", client.log());
    prlimit(Some(pid), Resource::Nofile, limit).unwrap();
    // They have waited in the kernel's queue all the while.
    for stream in &mut outside {
        assert_eq!(read_answer(stream, false).status, 200);
    }
    drop((inside, outside));
    wait_for("the descriptors", || (descriptors(&client) <= before).then_some(()));
    assert!(client.directories().is_empty());
    assert_eq!(client.result(&client.run("true")).status, 200);
    client.must_be_well_and_empty("a time without descriptors");
}

// --- floods

#[test]
fn a_flood_of_requests_whose_answers_nobody_reads_is_held_up_and_cut() {
    let client = Client::with(&[("STALL_TIMEOUT", "2")]);
    must_be_quick(&client, "before");
    let before = resident_kib(&client);
    let mut floods: Vec<TcpStream> = (0..8).map(|_| connect(client.address)).collect();
    let many = PING.repeat(2000);
    for stream in &mut floods {
        stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        // Until the client takes no more of it.
        while stream.write_all(many.as_bytes()).is_ok() {}
    }
    must_be_quick(&client, "with floods");
    let grown = peak_kib(&client).saturating_sub(before);
    assert!(grown < 4 * 1024, "{grown} KiB for eight floods");
    for stream in &mut floods {
        let mut answers = Vec::new();
        let _ = stream.read_to_end(&mut answers);
        assert!(answers.starts_with(b"HTTP/1.1 200 OK\r\n"));
    }
    client.must_be_well_and_empty("floods");
}

#[test]
fn a_connection_that_never_pauses_between_its_requests_costs_no_memory() {
    let client = Client::start();
    must_be_quick(&client, "before");
    let before = resident_kib(&client);
    let mut stream = connect(client.address);
    let mut sender = stream.try_clone().unwrap();
    // The client reads by powers of two: behind a first request of another length, no read ends where a request does.
    let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
    let request = format!("{start}{}\r\n\r\n", "x".repeat(8192 - start.len() - 4));
    let many = [PING, &request.repeat(3000)].concat();
    let sending = thread::spawn(move || sender.write_all(many.as_bytes()));
    for _ in 0..3001 {
        assert_eq!(read_answer(&mut stream, false).status, 200);
    }
    sending.join().unwrap().unwrap();
    let grown = peak_kib(&client).saturating_sub(before);
    assert!(grown < 4 * 1024, "{grown} KiB for 24 MB of requests");
}

#[test]
fn an_upload_with_more_framing_than_content_costs_no_memory() {
    let client = Client::start();
    client.result(&client.run("true"));
    let before = resident_kib(&client);
    let mut stream = connect(client.address);
    let head = wire::submit_head(0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    let mut request = head.into_bytes();
    // 2,048 bytes for each byte: hardly a read of the client ends with the one that counts.
    let extension = "x".repeat(2048 - "1;\r\nx\r\n".len());
    for byte in wire::form(&[("run.sh", b"true"), ("file", &vec![b'x'; 7000])]) {
        write!(request, "1;{extension}\r\n").unwrap();
        request.extend_from_slice(&[byte, b'\r', b'\n']);
    }
    request.extend_from_slice(b"0\r\n\r\n");
    stream.write_all(&request).unwrap();
    assert_eq!(read_answer(&mut stream, false).status, 200);
    let grown = peak_kib(&client).saturating_sub(before);
    assert!(grown < 4 * 1024, "{grown} KiB for {} bytes", request.len());
}

// --- what the machine has

/// Of how many connections, while all are open, each is answered.
fn served(connections: &mut [TcpStream]) -> usize {
    let mut count = 0;
    for stream in connections {
        // Those above all limits are closed at once: writing to one may fail.
        let _ = stream.write_all(PING.as_bytes());
        count += usize::from(try_read_answer(stream, false).is_ok_and(|answer| answer.status == 200));
    }
    count
}

#[test]
fn a_small_address_space_has_fewer_connections_and_no_peer_can_end_the_client() {
    let client = Client::through(&["prlimit", "--as=204800000"]);
    let mut connections: Vec<TcpStream> = (0..1000).map(|_| connect(client.address)).collect();
    let count = served(&mut connections);
    assert!((1..1000).contains(&count), "{count} were served");
    let mut inside = connections.swap_remove(0);
    let body = wire::form(&[
        ("run.sh", b"head -c 3000000 /dev/urandom > noise"),
        ("large", &vec![b'x'; 10_000_000]),
    ]);
    let head = wire::submit_head(body.len()).replace("Connection: close\r\n", "");
    inside.write_all(&[head.as_bytes(), &body].concat()).unwrap();
    let answer = read_answer(&mut inside, false);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let path = format!("/retrieve/{}", answer.json("id").unwrap());
    wait_for("the result", || {
        write!(inside, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        Some(read_answer(&mut inside, false)).filter(|answer| answer.status == 200)
    });
    // More than have a thread, and none reads.
    for stream in connections.iter_mut().take(100) {
        let _ = write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    thread::sleep(Duration::from_secs(1));
    assert_eq!(ping(&mut inside).status, 200);
    drop(connections);
    wait_for("free places", || (client.get("/health").status == 200).then_some(()));
    assert_eq!(client.result(&client.run("true")).status, 200);
}

/// Sixteen levels of directories stay open while an archive is made.
#[test]
fn downloads_have_their_descriptors_while_thousands_of_connections_are_idle() {
    allow_descriptors(6000);
    let client = Client::start();
    let script = "d=.; for i in $(seq 20); do d=$d/d$i; mkdir $d; echo $i > $d/f; head -c 1000000 /dev/urandom > $d/noise; done";
    let id = client.run(script);
    let entries = client.result(&id).files().len();
    assert!(entries > 60, "{entries}");
    let before = settled_descriptors(&client);
    let mut idle: Vec<TcpStream> = (0..4000).map(|_| connect(client.address)).collect();
    assert_eq!(served(&mut idle), 4000);
    let mut readers: Vec<TcpStream> = (0..80).map(|_| connect(client.address)).collect();
    for stream in &mut readers {
        write!(stream, "GET /retrieve/{id} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    }
    // All are sent to at once, though none reads on, and another one does not wait for them.
    for stream in &mut readers {
        stream.peek(&mut [0]).unwrap();
    }
    let small = client.run("true");
    assert_eq!(client.result(&small).status, 200);
    for stream in readers {
        let answer = read_answer(&mut &stream, false);
        assert_eq!(answer.files().len(), entries);
    }
    drop(idle);
    wait_for("the descriptors", || (descriptors(&client) <= before).then_some(()));
    client.must_be_well_and_empty("many downloads");
}

/// How often the threads of a client have gone to sleep.
fn sleeps(client: &Client) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", client.pid())).unwrap().flatten();
    let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    let lines = texts.map(|text| text.lines().find(|line| line.starts_with("voluntary")).map(str::to_owned));
    lines.flatten().map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn answered_requests_and_polls_leave_no_timer_behind() {
    let client = Client::start();
    let id = client.run("true");
    client.result(&id);
    client.get("/health");
    let before = resident_kib(&client);
    for _ in 0..1000 {
        let poll = client.run("true");
        assert_eq!(client.get(&format!("/retrieve/{poll}?wait=60")).status, 200);
    }
    // Threads that have nothing to do any more end in their time.
    thread::sleep(Duration::from_secs(6));
    let asleep = sleeps(&client);
    thread::sleep(Duration::from_secs(3));
    let woken = sleeps(&client) - asleep;
    assert!(woken < 90, "woken {woken} times in 3 s with nothing to do");
    assert!(resident_kib(&client) < before + 16 * 1024, "{} KiB, {before} before", resident_kib(&client));
}
