//! Who may call, and where the client listens: TOKEN, TOKEN_FILE, ALLOW_FROM, Unix sockets, sockets of the service manager.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType};

use crate::client::{Client, PATIENCE, binary, place, wait_for};
use crate::wire::{self, Answer, form, read_answer, submit_head};

const TOKEN: &str = "correct-horse-battery-staple";

/// `any:` and the token.
const BASIC: &str = "Basic YW55OmNvcnJlY3QtaG9yc2UtYmF0dGVyeS1zdGFwbGU=";

fn guarded() -> Client {
    Client::with(&[("TOKEN", TOKEN)])
}

/// A request with these header lines.
fn ask(client: &Client, method: &str, path: &str, fields: &str) -> Answer {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{fields}Connection: close\r\n\r\n");
    let mut stream = wire::connect(client.address);
    stream.write_all(request.as_bytes()).unwrap();
    read_answer(&mut stream, method == "HEAD")
}

/// Sends a form with these header lines.
fn submit(stream: &mut (impl Read + Write), fields: &str, files: &[(&str, &[u8])]) -> Answer {
    let body = form(files);
    let head = submit_head(body.len()).replace("Connection: close\r\n", fields);
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
    read_answer(stream, false)
}

/// Runs the program to its end in an environment of these variables only. One that starts to serve is ended.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new("timeout");
    command.arg("20").arg(binary()).args(arguments).env_clear().envs(environment.iter().copied());
    command.output().unwrap()
}

#[track_caller]
fn must_be_refused_at_the_start(environment: &[(&str, &str)], named: &[&str]) -> String {
    let (_home, data) = place();
    let output =
        run(&["client", "--port=0", "--host=127.0.0.1", "--data-path", data.to_str().unwrap()], environment);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), text.lines().count()), (Some(2), 1), "{text}");
    for name in named {
        assert!(text.contains(name), "{name}: {text}");
    }
    assert!(!data.exists());
    text
}

// --- TOKEN

#[test]
fn with_a_token_all_routes_but_the_open_ones_want_it() {
    let client = guarded();
    for path in ["/", "/health", "/ready"] {
        assert_eq!(ask(&client, "GET", path, "").status, 200, "{path}");
        assert_eq!(ask(&client, "HEAD", path, "").status, 200, "{path}");
        assert_eq!(ask(&client, "GET", path, "Authorization: Bearer wrong\r\n").status, 200, "{path}");
    }
    for (method, path) in [
        ("GET", "/load"),
        ("GET", "/retrieve/1"),
        ("GET", "/retrieve_partial/1"),
        ("POST", "/kill/1"),
        ("POST", "/submit"),
        ("GET", "/nothing"),
        ("DELETE", "/submit"),
    ] {
        for credentials in [
            "",
            "Authorization: Bearer\r\n",
            "Authorization: Bearer correct-horse-battery-stapl\r\n",
            "Authorization: Bearer correct-horse-battery-staples\r\n",
            "Authorization: Bearer Correct-horse-battery-staple\r\n",
            "Authorization: Digest correct-horse-battery-staple\r\n",
            "Authorization: correct-horse-battery-staple\r\n",
            // The token as the name.
            "Authorization: Basic Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5LXN0YXBsZTo=\r\n",
            "Authorization: Basic !\r\n",
            "Authorization: Bearer correct-horse-battery-staple\r\nAuthorization: Bearer x\r\n",
            "Cookie: token=correct-horse-battery-staple\r\n",
        ] {
            let answer = ask(&client, method, path, credentials);
            assert_eq!(answer.error(401), "unauthorized", "{method} {path} {credentials}");
            let challenges = answer.header("www-authenticate").unwrap();
            assert!(challenges.contains("Bearer ") && challenges.contains("Basic "), "{challenges}");
        }
    }
    assert!(client.directories().is_empty());
    client.wait_for_log("requests refused: no token, or a wrong one");
    assert!(client.log().contains(" address=127.0.0.1 refused=1\n"), "{}", client.log());
    assert_eq!(client.log().matches("requests refused").count(), 1, "once a minute: {}", client.log());
}

#[test]
fn the_token_is_taken_from_bearer_and_from_the_password_of_basic() {
    let client = guarded();
    for credentials in [&format!("Bearer {TOKEN}"), &format!("bearer {TOKEN}"), BASIC] {
        let field = format!("Authorization: {credentials}\r\n");
        let answer = submit(&mut wire::connect(client.address), &field, &[("run.sh", b"echo on > made\n")]);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let path = format!("/retrieve/{}?wait=30", answer.json("id").unwrap());
        assert_eq!(ask(&client, "GET", &path, &field).file("made"), "on\n");
        assert_eq!(ask(&client, "GET", "/load", &field).status, 200);
    }
    // As curl sends it.
    let url = format!("http://any:{TOKEN}@{}/load", client.address);
    let output = Command::new("curl").args(["-sS", "--noproxy", "*", "--fail", &url]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn who_has_no_token_is_refused_before_the_body_and_can_read_why() {
    let client = guarded();
    // Not a byte of the body.
    let mut stream = wire::connect(client.address);
    stream.write_all(submit_head(1 << 30).as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream, false).error(401), "unauthorized");
    // Who waits for a word before it sends it.
    let head = submit_head(1000).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    let mut stream = wire::connect(client.address);
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream, false).error(401), "unauthorized");
    // Who sends all of it, slowly, and reads only then.
    let mut stream = wire::connect(client.address);
    stream.write_all(submit_head(4_000_000).as_bytes()).unwrap();
    for _ in 0..40 {
        stream.write_all(&vec![b'x'; 100_000]).unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(read_answer(&mut stream, false).error(401), "unauthorized");
    assert!(client.directories().is_empty());
    client.must_be_well_and_empty("refusals");
}

#[test]
fn a_connection_is_kept_after_a_refusal() {
    let client = guarded();
    let mut stream = wire::connect(client.address);
    for _ in 0..2 {
        stream.write_all(b"GET /load HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert_eq!(read_answer(&mut stream, false).error(401), "unauthorized");
    }
    write!(stream, "GET /load HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut stream, false).status, 200);
}

#[test]
fn the_token_is_in_no_log_and_in_no_environment_of_a_payload() {
    let (home, _) = place();
    let file = home.path().join("token");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let path = file.to_str().unwrap();
    for setting in [("TOKEN", TOKEN), ("TOKEN_FILE", path)] {
        let client = Client::with(&[setting, ("LOG", "debug"), ("SANDBOX", "best")]);
        for credentials in [BASIC.to_owned(), format!("Bearer {TOKEN}"), format!("Bearer {TOKEN}x")] {
            ask(&client, "GET", "/load", &format!("Authorization: {credentials}\r\n"));
        }
        let field = format!("Authorization: Bearer {TOKEN}\r\n");
        let script = b"env > environment; cat /proc/$PPID/cmdline > parent; set > variables\n\
                       cat /proc/$PPID/environ > of_parent 2>&1\n:\n";
        let answer = submit(&mut wire::connect(client.address), &field, &[("run.sh", script)]);
        let path = format!("/retrieve/{}?wait=30", answer.json("id").unwrap());
        let files = ask(&client, "GET", &path, &field).files();
        assert!(files.iter().any(|(name, _)| name == "parent"));
        for (name, content) in files.iter().filter(|(name, _)| name != "run.sh") {
            let text = String::from_utf8_lossy(content);
            assert!(!text.contains(TOKEN) && !text.contains("TOKEN="), "{name}: {text}");
        }
        client.wait_for_log("request answered");
        let log = client.log();
        assert!(!log.contains(TOKEN) && !log.contains(&BASIC[6..30]), "{log}");
    }
}

#[test]
fn a_token_file_is_one_line_and_a_bad_one_ends_the_start_without_showing_it() {
    let (home, _) = place();
    let file = home.path().join("token");
    let path = file.to_str().unwrap();
    for content in [TOKEN.to_owned(), format!("{TOKEN}\n"), format!("{TOKEN}\r\n")] {
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let client = Client::with(&[("TOKEN_FILE", path)]);
        assert_eq!(ask(&client, "GET", "/load", &format!("Authorization: {BASIC}\r\n")).status, 200);
        assert_eq!(client.get("/load").status, 401);
        assert!(client.log().contains("TOKEN_FILE can be read by others"), "{}", client.log());
    }
    for content in ["", "\n", "se cret", "secret\nsecret", "s\u{e9}cret"] {
        fs::write(&file, content).unwrap();
        let told = must_be_refused_at_the_start(
            &[("TOKEN_FILE", path)],
            &[&format!("TOKEN_FILE={path} is not accepted")],
        );
        assert!(!told.contains("cret"), "{told}");
    }
    fs::write(&file, vec![b'x'; 1_000_000]).unwrap();
    must_be_refused_at_the_start(&[("TOKEN_FILE", path)], &["1 to 1024 printable ASCII characters"]);
    must_be_refused_at_the_start(&[("TOKEN_FILE", "/nowhere/token")], &["/nowhere/token", "os error 2"]);
    must_be_refused_at_the_start(&[("TOKEN_FILE", path), ("TOKEN", "x")], &["set one of the two"]);
    let told = must_be_refused_at_the_start(&[("TOKEN", "se cret")], &["TOKEN=(not shown) is not accepted"]);
    assert!(!told.contains("cret"), "{told}");
    // The health command needs none of it.
    let client = guarded();
    let port = client.address.port().to_string();
    let environment = [("HOST", "127.0.0.1"), ("PORT", port.as_str()), ("TOKEN_FILE", "/nowhere/token")];
    assert_eq!(run(&["health"], &environment).stdout, b"ok\n");
}

#[test]
fn a_token_is_no_flag_since_every_process_can_read_a_command_line() {
    for arguments in [&["client", "--token", TOKEN][..], &["client", &format!("--token={TOKEN}")]] {
        let output = run(arguments, &[]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("TOKEN_FILE") && !text.contains(TOKEN), "{text}");
    }
}

// --- ALLOW_FROM

/// An address of this host that is none of the loopback interface.
fn address_of_this_host() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: the kernel only looks for a way.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// Connects from an address of this host to another one: to the client that is a stranger.
fn connect_from(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::new(from, 0)).unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn strangers_are_refused_before_they_are_read_and_take_no_ones_place() {
    let Some(stranger) = address_of_this_host() else {
        return println!("skipped: this host has no address beside the loopback one");
    };
    let settings = [("ALLOW_FROM", "127.0.0.1,198.51.100.0/24"), ("MAX_CONNECTIONS", "1")];
    let client = Client::with(&settings);
    // The only place is taken, and that is not what they are told.
    let kept = wire::connect(client.address);
    wait_for("the place", || {
        let mut other = wire::connect(client.address);
        other.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        (read_answer(&mut other, false).status == 503).then_some(())
    });
    for request in ["", "GET /health HTTP/1.1\r\nHost: a\r\n\r\n", "\0\u{1}", &submit_head(1 << 30)] {
        let mut stream = connect_from(stranger, client.address);
        stream.write_all(request.as_bytes()).unwrap();
        let answer = read_answer(&mut stream, false);
        assert_eq!(answer.error(403), "address_not_allowed", "{request}");
        assert!(answer.text().contains(&stranger.to_string()), "{}", answer.text());
    }
    // A slow sender can read why.
    let mut stream = connect_from(stranger, client.address);
    stream.write_all(submit_head(4_000_000).as_bytes()).unwrap();
    for _ in 0..40 {
        stream.write_all(&vec![b'x'; 100_000]).unwrap();
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(read_answer(&mut stream, false).error(403), "address_not_allowed");
    drop(kept);
    client.wait_for_log("connections refused: ALLOW_FROM does not list their address");
    assert_eq!(client.log().matches("connections refused").count(), 1, "once a minute: {}", client.log());
    wait_for("the place", || (client.get("/").status == 200).then_some(()));
    assert!(client.directories().is_empty());
}

#[test]
fn more_strangers_than_are_waited_for_are_told_all_the_same() {
    let Some(stranger) = address_of_this_host() else {
        return println!("skipped: this host has no address beside the loopback one");
    };
    let client = Client::with(&[("ALLOW_FROM", "127.0.0.1")]);
    let mut streams: Vec<_> = (0..100).map(|_| connect_from(stranger, client.address)).collect();
    for stream in &mut streams {
        assert_eq!(read_answer(stream, false).error(403), "address_not_allowed");
    }
    client.result(&client.run("true"));
}

#[test]
fn a_listed_address_is_answered_in_each_way_it_is_written() {
    let Some(caller) = address_of_this_host() else {
        return println!("skipped: this host has no address beside the loopback one");
    };
    for (listed, status) in [
        (format!("{caller}"), 200),
        (format!("{caller}/32"), 200),
        (format!("192.0.2.1, {caller}/8"), 200),
        (format!("::ffff:{caller}"), 200),
        ("0.0.0.0/0".to_owned(), 200),
        ("::/0".to_owned(), 403),
        ("::1,240.0.0.0/4".to_owned(), 403),
    ] {
        // One socket for both families: there, IPv4 callers look like IPv6 ones.
        for host in ["0.0.0.0", "::"] {
            if host == "::" && TcpListener::bind("[::]:0").is_err() {
                continue;
            }
            let (_home, data) = place();
            let mut command = Command::new(binary());
            command.args(["client", "--port=0", "--host", host, "--data-path"]).arg(&data);
            command.args(["--allow-from", &listed]);
            let client = Client::spawn(command, &data);
            let mut stream = connect_from(caller, (Ipv4Addr::LOCALHOST, client.address.port()).into());
            stream.write_all(b"GET /load HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            assert_eq!(read_answer(&mut stream, false).status, status, "{listed} {host}");
        }
    }
}

#[test]
fn the_host_itself_is_told_whether_the_client_is_well_and_no_more() {
    let client = Client::with(&[("ALLOW_FROM", "192.0.2.7")]);
    for path in ["/", "/health", "/ready"] {
        assert_eq!(client.get(path).status, 200, "{path}");
    }
    for (method, path) in [("GET", "/load"), ("POST", "/kill/1"), ("GET", "/retrieve/1"), ("POST", "/submit")]
    {
        let answer = ask(&client, method, path, "");
        assert_eq!(answer.error(403), "address_not_allowed", "{path}");
    }
    let port = client.address.port().to_string();
    let environment = [("HOST", "127.0.0.1"), ("PORT", port.as_str()), ("ALLOW_FROM", "192.0.2.7")];
    assert_eq!(run(&["health"], &environment).stdout, b"ok\n");
}

#[test]
fn a_start_that_is_open_to_other_hosts_says_so_in_one_line() {
    let open = "whoever reaches this address can run programs on this host";
    for (settings, is_told) in [
        (&[("HOST", "0.0.0.0")][..], true),
        (&[("HOST", "0.0.0.0"), ("TOKEN", TOKEN)], false),
        (&[("HOST", "0.0.0.0"), ("ALLOW_FROM", "127.0.0.1")], false),
        (&[("HOST", "127.0.0.1")], false),
        (&[("HOST", "127.0.0.2")], false),
    ] {
        let (_home, data) = place();
        let mut command = Command::new(binary());
        command.args(["client", "--port=0", "--data-path"]).arg(&data).envs(settings.iter().copied());
        let client = Client::spawn(command, &data);
        assert_eq!(
            client.log().matches(open).count(),
            usize::from(is_told),
            "{settings:?}: {}",
            client.log()
        );
        assert!(!is_told || client.log().contains(" WARN "), "{}", client.log());
    }
}

// --- Unix sockets

fn start_at(socket: &Path, data: &Path, settings: &[(&str, &str)]) -> Client {
    let mut command = Command::new(binary());
    command.args(["client", "--data-path"]).arg(data).env("HOST", format!("unix:{}", socket.display()));
    Client::spawn(
        {
            command.envs(settings.iter().copied());
            command
        },
        data,
    )
}

fn connect_at(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn ask_at(socket: &Path, target: &str) -> Answer {
    let mut stream = connect_at(socket);
    write!(stream, "GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    read_answer(&mut stream, false)
}

#[test]
fn a_unix_socket_serves_as_a_port_does_and_is_removed_at_the_stop() {
    let (home, data) = place();
    let socket = home.path().join("client.sock");
    // It has no address that could be listed.
    let mut client = start_at(&socket, &data, &[("ALLOW_FROM", "192.0.2.1")]);
    assert!(client.log().contains(&format!(" address=unix:{} ", socket.display())), "{}", client.log());
    let noise: Vec<u8> =
        (0..5_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_ne_bytes()).collect();
    let script = b"cp noise again; while ! [ -e go ]; do sleep 0.02; done\n";
    let answer = submit(&mut connect_at(&socket), "", &[("run.sh", script), ("noise", &noise)]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (id, loc) = (answer.json("id").unwrap(), answer.json("loc").unwrap());
    let waiting = thread::spawn({
        let (socket, target) = (socket.clone(), format!("/retrieve/{id}?wait=30"));
        move || ask_at(&socket, &target)
    });
    // A caller who hangs up while he waits is nobody's trouble.
    for _ in 0..20 {
        write!(connect_at(&socket), "GET /retrieve/{id}?wait=30 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    }
    fs::write(Path::new(&loc).join("go"), "").unwrap();
    let files = waiting.join().unwrap().files();
    let again = files.iter().find(|(name, _)| name == "again").unwrap();
    assert!(again.1 == noise);
    // One connection, many requests.
    let mut stream = connect_at(&socket);
    for _ in 0..100 {
        stream.write_all(b"GET /load HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert_eq!(read_answer(&mut stream, false).status, 200);
    }
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o7777, 0o660);
    let url = format!("unix:{}", socket.display());
    assert_eq!(run(&["health"], &[("HOST", &url)]).stdout, b"ok\n");
    client.signal("TERM");
    assert!(client.wait().success());
    assert!(!socket.exists());
    let output = run(&["health"], &[("HOST", &url)]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && text.contains(&format!("no client answers on {url}: ")),
        "{text}"
    );
}

#[test]
fn a_thousand_connections_over_a_unix_socket_leave_no_descriptor_behind() {
    let (home, data) = place();
    let socket = home.path().join("client.sock");
    let client = start_at(&socket, &data, &[]);
    wait_for("its guard", || client.guard());
    // As it counts them itself: it is not dumpable, and only root may look at it from outside.
    let descriptors = || {
        let text = ask_at(&socket, "/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix("orchestrator_client_process_open_fds "));
        line.unwrap_or_else(|| panic!("{text}")).parse::<u64>().unwrap()
    };
    let before = descriptors();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let socket = socket.clone();
            thread::spawn(move || (0..250).for_each(|_| assert_eq!(ask_at(&socket, "/").status, 200)))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    wait_for("the descriptors", || (descriptors() <= before).then_some(()));
}

#[test]
fn unix_mode_says_who_may_connect_whatever_the_umask() {
    let (home, data) = place();
    let socket = home.path().join("client.sock");
    for (mode, bits) in [("0600", 0o600), ("666", 0o666), ("0", 0)] {
        let client = start_at(&socket, &data, &[("UNIX_MODE", mode)]);
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o7777, bits);
        drop(client);
    }
}

#[test]
fn a_socket_is_replaced_where_nobody_listens_and_nothing_else_is() {
    let (home, data) = place();
    let socket = home.path().join("client.sock");
    let host = format!("--host=unix:{}", socket.display());
    // Left by a client that was killed.
    start_at(&socket, &data, &[]).kill();
    assert!(fs::symlink_metadata(&socket).unwrap().file_type().is_socket());
    let client = start_at(&socket, &data, &[]);
    assert!(client.log().contains("a socket that nobody listens on is replaced"), "{}", client.log());
    assert_eq!(ask_at(&socket, "/").status, 200);
    // In use, by a client and by another program.
    let other = home.path().join("other");
    let refused = |advice: &str| {
        let output = run(&["client", &host, "--data-path", other.to_str().unwrap()], &[]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(&format!("cannot listen on unix:{}: ", socket.display())), "{text}");
        assert!(text.contains(advice), "{text}");
    };
    refused("another program listens there: end it, or choose another HOST");
    assert_eq!(ask_at(&socket, "/").status, 200);
    drop(client);
    let listener = UnixListener::bind(&socket).unwrap();
    refused("another program listens there: end it, or choose another HOST");
    drop(listener);
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "precious").unwrap();
    refused("what is there is no socket; remove it, or choose another HOST");
    assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
    let nowhere = format!("--host=unix:{}/no/client.sock", home.path().display());
    let output = run(&["client", &nowhere, "--data-path", other.to_str().unwrap()], &[]);
    assert!(String::from_utf8(output.stderr).unwrap().contains("make the directory of the socket"));
    assert!(!other.exists());
}

#[test]
fn of_two_that_start_at_once_one_has_the_socket() {
    let (home, _) = place();
    let socket = home.path().join("client.sock");
    for round in 0..5 {
        // Left by a client that was killed.
        let _ = fs::remove_file(&socket);
        drop(UnixListener::bind(&socket).unwrap());
        let starts: Vec<_> = (0..4)
            .map(|number| {
                let data = home.path().join(format!("{round}-{number}"));
                let mut command = Command::new("timeout");
                command.args(["2"]).arg(binary()).args(["client", "--data-path"]).arg(&data);
                command.env("HOST", format!("unix:{}", socket.display()));
                thread::spawn(move || command.output().unwrap())
            })
            .collect();
        let outputs: Vec<Output> = starts.into_iter().map(|start| start.join().unwrap()).collect();
        let texts: Vec<_> = outputs.iter().map(|output| String::from_utf8_lossy(&output.stderr)).collect();
        let listening = texts.iter().filter(|text| text.contains("client listening")).count();
        assert_eq!(listening, 1, "{texts:#?}");
    }
}

#[test]
fn a_socket_that_was_replaced_by_another_program_is_not_removed_at_the_stop() {
    let (home, data) = place();
    let socket = home.path().join("client.sock");
    let client = start_at(&socket, &data, &[]);
    fs::remove_file(&socket).unwrap();
    let _listener = UnixListener::bind(&socket).unwrap();
    drop(client);
    assert!(socket.exists());
}

#[test]
fn an_early_end_of_the_start_leaves_no_socket() {
    let (home, _) = place();
    let socket = home.path().join("client.sock");
    let output =
        run(&["client", "--host", &format!("unix:{}", socket.display()), "--data-path=/proc/no"], &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(!socket.exists());
}

// --- sockets of the service manager

/// Makes sockets as systemd does, and becomes the client.
const ACTIVATE: &str = "
import os, socket, sys
made = []
for name in sys.argv[1].split('+'):
    if name.startswith('/'):
        one = socket.socket(socket.AF_UNIX)
        one.bind(name)
    else:
        one = socket.socket(socket.AF_INET6 if ':' in name else socket.AF_INET, getattr(socket, os.environ.get('KIND', 'SOCK_STREAM')))
        one.bind((name, 0))
    if os.environ.get('KIND') is None:
        one.listen(64)
    made.append(one)
for number, one in enumerate(made):
    os.dup2(one.fileno(), 40 + number)
for number in range(len(made)):
    os.dup2(40 + number, 3 + number)
    os.close(40 + number)
os.environ['LISTEN_FDS'] = str(len(made))
os.environ['LISTEN_PID'] = os.environ.get('OTHER_PID') or str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
";

fn activated(sockets: &str) -> Client {
    Client::through(&["python3", "-c", ACTIVATE, sockets])
}

#[test]
fn sockets_of_the_service_manager_are_served_whatever_their_family() {
    let (home, _) = place();
    let path = home.path().join("client.sock");
    let has_ipv6 = TcpListener::bind("[::1]:0").is_ok();
    let names = if has_ipv6 { "127.0.0.1+::1" } else { "127.0.0.1+127.0.0.2" };
    let client = activated(&format!("{names}+{}", path.display()));
    assert!(client.log().contains("the service manager has made the sockets"), "{}", client.log());
    let line = client.log().lines().find(|line| line.contains("client listening")).unwrap().to_owned();
    let addresses = line.split("address=").nth(1).unwrap().split(' ').next().unwrap().trim_matches('"');
    let addresses: Vec<&str> = addresses.split(',').collect();
    assert_eq!(addresses.len(), 3, "{line}");
    for address in &addresses[..2] {
        assert_eq!(wire::call(address.parse().unwrap(), "GET", "/").status, 200);
    }
    assert_eq!(addresses[2], format!("unix:{}", path.display()));
    assert_eq!(ask_at(&path, "/health").status, 200);
    let id = client.run("#!/bin/sh\nexec sh -c 'ls /proc/$$/fd > descriptors; env > environment'\n");
    let result = client.result(&id);
    assert!(!result.file("environment").contains("LISTEN_"), "{}", result.file("environment"));
    // The shell's redirection is one more.
    assert_eq!(
        result.file("descriptors").lines().filter(|number| *number == "4" || *number == "5").count(),
        0
    );
    drop(client);
    // It is the service manager's.
    assert!(path.exists());
}

#[test]
fn sockets_that_are_not_for_this_process_or_do_not_listen_are_not_taken() {
    let client = Client::through(&["env", "OTHER_PID=1", "python3", "-c", ACTIVATE, "127.0.0.1"]);
    assert!(!client.log().contains("the service manager has made the sockets"), "{}", client.log());
    assert_eq!(client.get("/").status, 200);
    let (_home, data) = place();
    for kind in ["SOCK_DGRAM", "SOCK_STREAM"] {
        let mut command = Command::new("timeout");
        command.args(["20", "python3", "-c", ACTIVATE, "127.0.0.1"]).arg(binary());
        command.args(["client", "--data-path"]).arg(&data).env("KIND", kind);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("LISTEN_FDS") && text.contains("ListenStream= and Accept=no"), "{text}");
    }
    let mut command = Command::new("timeout");
    command.args(["20", "sh", "-c", "LISTEN_PID=$$ LISTEN_FDS=2 exec \"$@\"", "sh"]).arg(binary());
    command.args(["client", "--data-path"]).arg(&data);
    let text = String::from_utf8(command.output().unwrap().stderr).unwrap();
    assert!(text.contains("LISTEN_FDS"), "{text}");
}
