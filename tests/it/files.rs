//! The files of a payload one by one: the list, whole files, parts of files, and what is never given.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use miniserde::json::{Object, Value};

use crate::client::{Client, wait_for};
use crate::wire::{self, Answer, connect, read_answer};

const WAITS: &str = "touch begun; while [ ! -e go ]; do sleep 0.01; done";

/// A GET with further fields, each with its line end.
fn fetch(client: &Client, path: &str, fields: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}Connection: close\r\n\r\n");
    wire::send(client.address, request)
}

fn file(client: &Client, id: &str, path: &str) -> Answer {
    fetch(client, &format!("/payloads/{id}/files/{path}"), "")
}

/// The entries of a page, and where the next one begins.
#[track_caller]
fn page(client: &Client, id: &str, query: &str) -> (Vec<Object>, Option<String>) {
    let answer = client.get(&format!("/payloads/{id}/files{query}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.header("content-length").is_some());
    let mut object: Object = miniserde::json::from_str(&answer.text()).unwrap();
    let Some(Value::Array(files)) = object.remove("files") else { panic!("{}", answer.text()) };
    let next = match object.remove("next") {
        Some(Value::Null) => None,
        Some(Value::String(next)) => Some(next),
        other => panic!("{other:?}"),
    };
    let entry = |file| match file {
        Value::Object(entry) => entry,
        other => panic!("{other:?}"),
    };
    (files.into_iter().map(entry).collect(), next)
}

fn text(entry: &Object, field: &str) -> String {
    match &entry[field] {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Null => "null".to_owned(),
        other => panic!("{other:?}"),
    }
}

/// The ETag once it is a strong one.
fn strong_tag(client: &Client, path: &str) -> String {
    wait_for("a strong tag", || fetch(client, path, "").header("etag").filter(|tag| !tag.starts_with("W/")))
}

/// A payload that has ended, and its directory.
fn ended(client: &Client, script: &str) -> (String, PathBuf) {
    let id = client.run(script);
    client.ended(&id);
    let loc = client.get(&format!("/payloads/{id}")).json("loc").unwrap();
    (id, loc.into())
}

#[test]
fn the_list_has_every_file_at_any_depth_page_by_page_and_each_can_be_fetched() {
    let client = Client::start();
    let script = "mkdir -p 'a b/c'; echo deep > 'a b/c/ä%41.txt'; ln -s /etc link; mkfifo pipe; chmod 600 run.sh; \
                  for n in $(seq 30); do echo $n > n$n; done; printf x > \"$(printf 'odd\\377')\"";
    let (id, directory) = ended(&client, script);
    let (all, next) = page(&client, &id, "?limit=1000");
    assert_eq!(next, None);
    let types = |kind: &str| all.iter().filter(|entry| text(entry, "type") == kind).count();
    // With run.sh, out, err and exit.
    assert_eq!((types("file"), types("directory"), types("link"), types("special")), (36, 2, 1, 1));
    let mut paged = Vec::new();
    let mut query = "?limit=7".to_owned();
    loop {
        let (some, next) = page(&client, &id, &query);
        assert!(some.len() == 7 || next.is_none());
        paged.extend(some.iter().map(|entry| text(entry, "href")));
        let Some(next) = next else { break };
        query = format!("?limit=7&after={next}");
    }
    assert_eq!(paged, all.iter().map(|entry| text(entry, "href")).collect::<Vec<_>>());
    for entry in &all {
        let (href, is_file) = (text(entry, "href"), text(entry, "type") == "file");
        let answer = client.get(&href);
        if !is_file {
            assert_eq!(answer.error(404), "no_such_file", "{href}");
            assert_eq!(text(entry, "size"), "null");
            continue;
        }
        assert_eq!((answer.status, answer.body.len().to_string()), (200, text(entry, "size")), "{href}");
        if let Ok(content) = fs::read(directory.join(text(entry, "path"))) {
            assert_eq!(answer.body, content);
        }
        assert_eq!(
            wire::call(client.address, "HEAD", &href).header("content-length"),
            Some(text(entry, "size"))
        );
    }
    let entry = |name: &str| all.iter().find(|entry| text(entry, "path") == name).unwrap();
    assert_eq!(text(entry("run.sh"), "mode"), "0600");
    assert!(text(entry("run.sh"), "modified_at").starts_with("20"));
    assert_eq!(
        text(entry("a b/c/ä%41.txt"), "href"),
        format!("/payloads/{id}/files/a%20b/c/%C3%A4%2541.txt")
    );
    assert!(all.iter().any(|entry| text(entry, "href").ends_with("/odd%FF")));
    assert_eq!(file(&client, &id, "odd%ff").text(), "x");
}

#[test]
fn what_a_list_cannot_give_is_told() {
    let client = Client::start();
    let (id, directory) = ended(&client, "mkdir d; touch d/1 d/2 d/3");
    for query in
        ["?limit=0", "?limit=1001", "?limit=x", "?after=", "?after=..", "?after=0.0-2e2e", "?after=0-6"]
    {
        assert_eq!(client.get(&format!("/payloads/{id}/files{query}")).error(400), "bad_request", "{query}");
    }
    let is_in_d = |next: &String| next.ends_with("-642f");
    let next =
        (1..9).find_map(|limit| page(&client, &id, &format!("?limit={limit}")).1.filter(is_in_d)).unwrap();
    assert_eq!(client.get(&format!("/payloads/{id}/files?after={next}")).status, 200);
    fs::remove_dir_all(directory.join("d")).unwrap();
    assert_eq!(client.get(&format!("/payloads/{id}/files?after={next}")).error(404), "no_such_file");
    fs::remove_dir_all(&directory).unwrap();
    assert_eq!(client.get(&format!("/payloads/{id}/files")).error(404), "directory_gone");
    assert_eq!(file(&client, &id, "run.sh").error(404), "directory_gone");
    wire::call(client.address, "DELETE", &format!("/payloads/{id}"));
    assert_eq!(client.get(&format!("/payloads/{id}/files")).error(404), "cleaned");
    assert_eq!(file(&client, &id, "run.sh").error(404), "cleaned");
    for path in ["/payloads/0/files", "/payloads/0/files/a", "/payloads/x/files"] {
        assert_eq!(client.get(path).error(404), "unknown_id");
    }
    assert_eq!(client.post(&format!("/payloads/{id}/files")).error(405), "method_not_allowed");
}

#[test]
fn a_file_is_never_one_that_a_browser_would_run() {
    let client = Client::start();
    let names =
        ["page.html", "image.svg", "x.js", "x.xml", "image.png", "table.csv", "no-end", "q\"; x=\".html"];
    let lines: Vec<String> =
        names.iter().map(|name| format!("echo '<script>1</script>' > '{name}'")).collect();
    let script = lines.join("\n");
    let (id, _) = ended(&client, &script);
    for name in names {
        let answer = file(&client, &id, &name.replace(' ', "%20").replace('"', "%22"));
        let header = |field| answer.header(field).unwrap_or_default();
        assert_eq!((answer.status, header("x-content-type-options").as_str()), (200, "nosniff"), "{name}");
        assert!(header("content-security-policy").contains("sandbox"), "{name}");
        let (kind, is_shown) = (header("content-type"), answer.header("content-disposition").is_none());
        match name {
            "table.csv" => assert_eq!((kind.as_str(), is_shown), ("text/plain; charset=utf-8", true)),
            "image.png" => assert_eq!((kind.as_str(), is_shown), ("image/png", true)),
            _ => assert_eq!((kind.as_str(), is_shown), ("application/octet-stream", false), "{name}"),
        }
    }
    let answer = file(&client, &id, "q%22;%20x=%22.html");
    assert_eq!(
        answer.header("content-disposition").as_deref(),
        Some("attachment; filename=\"q___x__.html\"; filename*=UTF-8''q%22%3B%20x%3D%22.html")
    );
    assert_eq!(file(&client, &id, ".orchestrator.exit").text(), "0\n");
}

#[test]
fn a_part_of_a_file_is_what_was_asked_for() {
    let client = Client::start();
    let (id, directory) = ended(&client, "seq 100000 > numbers; : > empty");
    let numbers = fs::read(directory.join("numbers")).unwrap();
    let path = format!("/payloads/{id}/files/numbers");
    let whole = fetch(&client, &path, "");
    assert!(whole.body == numbers);
    assert_eq!(whole.header("accept-ranges").as_deref(), Some("bytes"));
    assert!(whole.header("last-modified").unwrap().ends_with(" GMT"));
    let length = numbers.len();
    for (range, part) in [
        ("0-0".to_owned(), 0..1),
        ("0-".to_owned(), 0..length),
        ("100000-199999".to_owned(), 100_000..200_000),
        (format!("{}-", length - 1), length - 1..length),
        ("-10".to_owned(), length - 10..length),
        (format!("5-{}", length * 2), 5..length),
    ] {
        let answer = fetch(&client, &path, &format!("Range: bytes={range}\r\n"));
        assert_eq!(answer.status, 206, "{range}");
        let told = format!("bytes {}-{}/{length}", part.start, part.end - 1);
        assert_eq!(answer.header("content-range"), Some(told));
        assert!(answer.body == numbers[part], "{range}");
    }
    for (file, range) in [
        (&path, format!("{length}-")),
        (&path, "-0".to_owned()),
        (&format!("/payloads/{id}/files/empty"), "0-".to_owned()),
    ] {
        let answer = fetch(&client, file, &format!("Range: bytes={range}\r\n"));
        assert_eq!(answer.error(416), "range_not_satisfiable");
        let length = if file == &path { length } else { 0 };
        assert_eq!(answer.header("content-range"), Some(format!("bytes */{length}")));
    }
    // What is no single range is all, and HEAD knows none.
    for range in ["bytes=0-1,3-4", "lines=0-1", "bytes=5-1", "bytes=x"] {
        assert_eq!(fetch(&client, &path, &format!("Range: {range}\r\n")).status, 200, "{range}");
    }
    let mut stream = connect(client.address);
    write!(stream, "HEAD {path} HTTP/1.1\r\nHost: a\r\nRange: bytes=0-1\r\n\r\n").unwrap();
    let head = read_answer(&mut stream, true);
    assert_eq!((head.status, head.header("content-length")), (200, Some(length.to_string())));
    // The connection goes on, in HTTP/1.0 too.
    for version in ["1.1", "1.0"] {
        let one = format!(
            "GET {path} HTTP/{version}\r\nHost: a\r\nConnection: keep-alive\r\nRange: bytes=0-9\r\n\r\n"
        );
        let mut stream = connect(client.address);
        for _ in 0..2 {
            stream.write_all(one.as_bytes()).unwrap();
            assert!(read_answer(&mut stream, false).body == numbers[..10]);
        }
    }
}

#[test]
fn a_tag_names_one_state_of_a_file() {
    let client = Client::start();
    let (id, directory) = ended(&client, "echo one > file");
    let path = format!("/payloads/{id}/files/file");
    let first = fetch(&client, &path, "").header("etag").unwrap();
    assert!(first.starts_with("W/\""), "just changed: {first}");
    assert_eq!(fetch(&client, &path, &format!("Range: bytes=1-\r\nIf-Range: {first}\r\n")).status, 200);
    let tag = strong_tag(&client, &path);
    for list in [&tag, &format!("\"x\", W/{tag}"), "*"] {
        let answer = fetch(&client, &path, &format!("If-None-Match: {list}\r\nRange: bytes=0-0\r\n"));
        assert_eq!(
            (answer.status, answer.header("etag"), answer.body.len()),
            (304, Some(tag.clone()), 0),
            "{list}"
        );
        assert_eq!((answer.header("content-length"), answer.header("transfer-encoding")), (None, None));
    }
    let part = fetch(&client, &path, &format!("Range: bytes=1-\r\nIf-Range: {tag}\r\n"));
    assert_eq!((part.status, part.text().as_str()), (206, "ne\n"));
    // A 304 ends where its head does.
    let mut stream = connect(client.address);
    for _ in 0..2 {
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nIf-None-Match: {tag}\r\n\r\n").unwrap();
        assert_eq!(read_answer(&mut stream, true).status, 304);
    }
    fs::write(directory.join("file"), "two\n").unwrap();
    assert_eq!(fetch(&client, &path, &format!("If-None-Match: {tag}\r\n")).text(), "two\n");
    let all = fetch(&client, &path, &format!("Range: bytes=1-\r\nIf-Range: {tag}\r\n"));
    assert_eq!((all.status, all.text().as_str()), (200, "two\n"));
}

#[test]
fn curl_goes_on_where_it_was() {
    let client = Client::start();
    let (id, directory) = ended(&client, "head -c 5000000 /dev/urandom > noise");
    let noise = fs::read(directory.join("noise")).unwrap();
    let home = tempfile::tempdir().unwrap();
    let copy = home.path().join("copy");
    let url = format!("http://{}/payloads/{id}/files/noise", client.address);
    for have in [1, 1_234_567, noise.len() - 1] {
        fs::write(&copy, &noise[..have]).unwrap();
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "-m", "20", "-C", "-", "-o"]).arg(&copy).arg(&url);
        assert!(curl.status().unwrap().success());
        assert!(fs::read(&copy).unwrap() == noise, "{have}");
    }
}

#[test]
fn no_path_leads_out_of_the_directory() {
    let client = Client::start();
    let secret = tempfile::tempdir().unwrap();
    fs::write(secret.path().join("secret"), "secret").unwrap();
    let (id, directory) = ended(&client, "mkdir sub; echo inside > sub/file");
    symlink(secret.path(), directory.join("out")).unwrap();
    symlink(secret.path().join("secret"), directory.join("direct")).unwrap();
    symlink("sub", directory.join("in")).unwrap();
    let up = format!("{}/secret", secret.path().display());
    for path in [
        "out/secret",
        "direct",
        "in/file",
        "../run.sh",
        "sub/../run.sh",
        "%2e%2e/x",
        "..%2fx",
        "sub%2ffile",
        "/etc/passwd",
        "%2fetc/passwd",
        "sub//file",
        "./run.sh",
        "sub/",
        "sub",
        "",
        "run.sh/",
        "run.sh/x",
        "run.sh%00",
        &up,
        &"a".repeat(300),
        &"a/".repeat(1500),
    ] {
        assert_eq!(file(&client, &id, path).error(404), "no_such_file", "{path}");
    }
    assert_eq!(file(&client, &id, "sub/file").text(), "inside\n");
    // In the place of the directory itself.
    let elsewhere = directory.with_extension("away");
    fs::rename(&directory, &elsewhere).unwrap();
    symlink(secret.path(), &directory).unwrap();
    assert_eq!(file(&client, &id, "secret").error(404), "directory_gone");
    assert_eq!(client.get(&format!("/payloads/{id}/files")).error(404), "directory_gone");
    fs::remove_file(&directory).unwrap();
    fs::rename(&elsewhere, &directory).unwrap();
    // The client's own lies beside it, and has no way in.
    assert_eq!(file(&client, &id, "../.orchestrator/lock").error(404), "no_such_file");
}

#[test]
fn what_no_archive_gives_is_not_given_by_itself_either() {
    let client = Client::start();
    let (id, _) = ended(
        &client,
        "echo forged > .orchestrator.skipped; mkdir sub; echo mine > sub/.orchestrator.skipped",
    );
    assert_eq!(file(&client, &id, ".orchestrator.skipped").error(404), "no_such_file");
    assert_eq!(file(&client, &id, "sub/.orchestrator.skipped").text(), "mine\n");
    let (all, _) = page(&client, &id, "");
    assert!(all.iter().all(|entry| text(entry, "path") != ".orchestrator.skipped"));
}

#[test]
fn the_files_of_a_payload_that_runs_are_there_as_they_are() {
    let client = Client::with(&[("MAX_JOBS", "1")]);
    let running = client.run(&format!("echo early; mkfifo pipe; {WAITS}"));
    let begun = client.wait_for_file(&running, "begun");
    let waiting = client.submit(&[("run.sh", b"true"), ("sub/a.txt", b"a")]);
    assert_eq!(file(&client, &running, ".orchestrator.out").text(), "early\n");
    assert_eq!(file(&client, &running, "pipe").error(404), "no_such_file");
    assert_eq!(file(&client, &waiting, "sub/a.txt").text(), "a");
    assert_eq!(page(&client, &waiting, "").0.len(), 3);
    // One that grows is sent as long as it was.
    let log = begun.with_file_name("log.txt");
    fs::write(&log, vec![b'x'; 20_000_000]).unwrap();
    let mut stream = connect(client.address);
    write!(stream, "GET /payloads/{running}/files/log.txt HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut start = vec![0; 1000];
    stream.read_exact(&mut start).unwrap();
    fs::OpenOptions::new().append(true).open(&log).unwrap().write_all(b"more").unwrap();
    let mut whole = start.as_slice().chain(&stream);
    assert_eq!(read_answer(&mut whole, false).body.len(), 20_000_000);
    // One that shrinks is cut, and the reader can tell.
    let mut stream = connect(client.address);
    write!(stream, "GET /payloads/{running}/files/log.txt HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut start = vec![0; 1000];
    stream.read_exact(&mut start).unwrap();
    fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(5).unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.len() < 19_000_000);
    client.wait_for_log("a file was not sent to its end");
    fs::write(begun.with_file_name("go"), "").unwrap();
    client.ended(&running);
}

#[test]
fn a_directory_of_many_files_is_told_in_pages_of_bounded_length() {
    let client = Client::start();
    let long = "x".repeat(200);
    let (id, _) = ended(&client, &format!("for n in $(seq 3000); do : > {long}$n; done"));
    let (mut seen, mut query) = (0, "?limit=1000".to_owned());
    loop {
        let answer = client.get(&format!("/payloads/{id}/files{query}"));
        assert!(answer.body.len() < 300_000, "{}", answer.body.len());
        let (some, next) = page(&client, &id, &query);
        seen += some.len();
        let Some(next) = next else { break };
        query = format!("?limit=1000&after={next}");
    }
    assert_eq!(seen, 3004);
}
