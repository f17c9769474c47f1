//! HTTP by hand: bytes out, a parsed response back, multipart bodies and ZIPs. Small on purpose, strict on purpose.

use std::io::{BufReader, Cursor, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use miniserde::json::{Object, Value};

pub const BOUNDARY: &str = "----test-boundary-7MA4YWxkTrZu0gW";

/// A response, its body decoded from chunks where it came so.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.head.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }

    /// The value of a field of a flat JSON object, as it stands there, quotes removed.
    pub fn json(&self, field: &str) -> Option<String> {
        json_field(&self.text(), field)
    }

    /// Names and contents of the ZIP in the body.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        assert_eq!(self.header("content-type").as_deref(), Some("application/zip"), "{}", self.text());
        let mut archive = zip::ZipArchive::new(Cursor::new(&self.body)).unwrap();
        let count = archive.len();
        let read = |index| {
            let mut file = archive.by_index(index).unwrap();
            let mut content = Vec::new();
            file.read_to_end(&mut content).unwrap();
            (file.name().unwrap().into_owned(), content)
        };
        (0..count).map(read).collect()
    }

    /// Permission bits of an entry of the ZIP.
    pub fn mode(&self, name: &str) -> u32 {
        let mut archive = zip::ZipArchive::new(Cursor::new(&self.body)).unwrap();
        archive.by_name(name).unwrap().unix_mode().unwrap() & 0o7777
    }

    /// Asserts that this is an error response of this status: JSON with a code and a message, and no more. Gives the code.
    #[track_caller]
    pub fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type").as_deref(), Some("application/json"), "{}", self.head);
        let object: Object = miniserde::json::from_str(&self.text()).unwrap();
        let fields: Vec<&str> = object.keys().map(String::as_str).collect();
        assert_eq!(fields, ["error", "message"], "{}", self.text());
        let (Value::String(code), Value::String(message)) = (&object["error"], &object["message"]) else {
            panic!("{}", self.text());
        };
        assert!(message.len() > 10 && !message.contains('\n'), "{message}");
        code.clone()
    }

    /// One file of the ZIP as text.
    pub fn file(&self, name: &str) -> String {
        let files = self.files();
        let found = files.iter().find(|(found, _)| found == name);
        let names = || files.iter().map(|file| file.0.clone()).collect::<Vec<_>>();
        String::from_utf8_lossy(&found.unwrap_or_else(|| panic!("no {name} in {:?}", names())).1).into_owned()
    }
}

pub fn json_field(text: &str, field: &str) -> Option<String> {
    let rest = text.split_once(&format!("\"{field}\":"))?.1;
    if let Some(quoted) = rest.strip_prefix('"') {
        return Some(quoted.split('"').next()?.to_owned());
    }
    Some(rest.split([',', '}']).next()?.to_owned())
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Sends raw bytes on a new connection and reads one response.
pub fn send(address: SocketAddr, request: impl AsRef<[u8]>) -> Answer {
    let mut stream = connect(address);
    stream.write_all(request.as_ref()).unwrap();
    read_answer(&mut stream, false)
}

/// A bodyless request on a new connection.
pub fn call(address: SocketAddr, method: &str, path: &str) -> Answer {
    let mut stream = connect(address);
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    read_answer(&mut stream, method == "HEAD")
}

/// Sends raw bytes on a new connection, and gives all responses that come until the client closes it in good order.
pub fn conversation(address: SocketAddr, requests: impl AsRef<[u8]>) -> Vec<Answer> {
    let mut stream = connect(address);
    stream.write_all(requests.as_ref()).unwrap();
    answers_to_the_end(&mut stream)
}

/// All responses that still come until the client closes the connection in good order.
pub fn answers_to_the_end(stream: &mut impl Read) -> Vec<Answer> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let mut rest = bytes.as_slice();
    let mut answers = Vec::new();
    while !rest.is_empty() {
        answers.push(read_answer(&mut rest, false));
    }
    answers
}

/// Reads one response, and not a byte more.
pub fn read_answer(stream: &mut impl Read, is_head: bool) -> Answer {
    try_read_answer(stream, is_head).unwrap()
}

/// As [`read_answer`], for responses that may be cut off.
pub fn try_read_answer(stream: &mut impl Read, is_head: bool) -> std::io::Result<Answer> {
    let head = read_until(stream, b"\r\n\r\n")?;
    let status =
        head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{head}"));
    let mut answer = Answer { status, head, body: Vec::new() };
    if is_head || status == 100 {
        return Ok(answer);
    }
    if answer.header("transfer-encoding").as_deref() == Some("chunked") {
        loop {
            let line = read_until(stream, b"\r\n")?;
            let size =
                usize::from_str_radix(line.trim(), 16).unwrap_or_else(|_| panic!("chunk size {line:?}"));
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk)?;
            assert_eq!(&chunk[size..], b"\r\n");
            answer.body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return Ok(answer);
            }
        }
    }
    match answer.header("content-length") {
        Some(length) => {
            answer.body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut answer.body)?;
        }
        None => drop(stream.read_to_end(&mut answer.body)?),
    }
    Ok(answer)
}

fn read_until(stream: &mut impl Read, end: &[u8]) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(end) {
        stream.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A multipart body of files, each sent as curl does it.
pub fn form(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, content) in files {
        let field = if name.contains('/') { name } else { "file" };
        let disposition = format!("form-data; name=\"{field}\"; filename=\"{name}\"");
        part(&mut body, &disposition, content);
    }
    end_form(&mut body);
    body
}

pub fn part(body: &mut Vec<u8>, disposition: &str, content: &[u8]) {
    write!(body, "--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n").unwrap();
    body.extend_from_slice(content);
    body.extend_from_slice(b"\r\n");
}

pub fn end_form(body: &mut Vec<u8>) {
    write!(body, "--{BOUNDARY}--\r\n").unwrap();
}

/// The head of a submit with a body of this length.
pub fn submit_head(length: usize) -> String {
    format!(
        "POST /submit HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\
         Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// Sends raw bytes to a client that may be gone at any moment, and reads the one answer to its end.
pub fn try_send(address: SocketAddr, request: impl AsRef<[u8]>) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    // A refusal may come before all is sent; then there is an answer all the same.
    let sent = stream.write_all(request.as_ref());
    try_read_answer(&mut BufReader::new(stream), false).map_err(|error| sent.err().unwrap_or(error))
}

/// As [`submit_form`], for a client that may be gone at any moment: `Ok` only for a 200 that came whole.
pub fn try_submit_form(address: SocketAddr, body: &[u8]) -> std::io::Result<Answer> {
    let answer = try_send(address, [submit_head(body.len()).as_bytes(), body].concat())?;
    if answer.status == 200 { Ok(answer) } else { Err(std::io::ErrorKind::Other.into()) }
}

/// Submits a ready multipart body.
pub fn submit_form(address: SocketAddr, body: &[u8]) -> Answer {
    let mut request = submit_head(body.len()).into_bytes();
    request.extend_from_slice(body);
    send(address, request)
}
