//! Request heads: decoding by httparse, and the rules of RFC 9112 that decide where a request ends.
//! Whatever two readers could understand in two ways is refused here, once, before anything acts on it.

use httparse::Status;

use super::error::HttpError;

/// The longest head, request line and all fields.
pub(super) const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The longest request target.
const MAX_TARGET_BYTES: usize = 4 * 1024;

/// The most header fields. Proxies add some; nobody needs hundreds.
const MAX_FIELDS: usize = 96;

/// The longest body that is believed in: beyond it, offsets of other readers overflow, and so do those of files.
pub(super) const MAX_LENGTH: u64 = i64::MAX as u64;

/// The fields that routes ask for by name, beside those that the connection itself goes by. The others are not kept.
const KEPT_FIELDS: [&str; 6] =
    ["accept", "idempotency-key", "if-none-match", "if-range", "last-event-id", "range"];

/// Request methods, as far as routes tell them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET, and HEAD too.
    Get,
    /// POST
    Post,
    /// DELETE
    Delete,
    /// Any other.
    Other(String),
}

/// Where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is neither Content-Length nor Transfer-Encoding: there is no body (RFC 9112, section 6.3).
    None,
    /// After so many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
}

/// A checked request head.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own about the request
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Head {
    pub(super) method: Method,
    /// The response goes without its body.
    pub(super) without_body: bool,
    /// The target without query, and without scheme and host where it had them.
    pub(super) path: String,
    pub(super) query: String,
    /// HTTP/1.0: no chunks, and the connection is kept only if asked.
    pub(super) is_http_10: bool,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
    pub(super) framing: Framing,
    pub(super) content_type: Option<String>,
    /// A Content-Encoding other than `identity`.
    pub(super) content_encoding: Option<String>,
    /// Of several, none: two readers could take each another one.
    pub(super) authorization: Option<Vec<u8>>,
    pub(super) fields: Fields,
}

/// What was sent of the fields that routes ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields(Vec<(&'static str, String)>);

impl Fields {
    /// Several lines of one field are one, with commas between (RFC 9110, section 5.3).
    fn of(request: &httparse::Request<'_, '_>) -> Self {
        let kept = KEPT_FIELDS.into_iter().filter_map(|name| {
            let lines: Vec<_> = values(request, name).map(String::from_utf8_lossy).collect();
            (!lines.is_empty()).then(|| (name, lines.join(", ")))
        });
        Self(kept.collect())
    }

    /// The value of a field, by its name in small letters: one of [`KEPT_FIELDS`].
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(kept, _)| *kept == name).map(|(_, value)| value.as_str())
    }
}

/// Decodes the head at the start of `input`. `None` if it is not complete; else the head and its length.
pub(super) fn parse(input: &[u8]) -> Result<Option<(Head, usize)>, HttpError> {
    // On the heap: an idle connection keeps the pages of its stack that were ever touched.
    let mut fields = Vec::with_capacity(MAX_FIELDS);
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(input, fields.spare_capacity_mut()) {
        Ok(Status::Complete(length)) if length <= MAX_HEAD_BYTES => Ok(Some((checked(&request)?, length))),
        Ok(Status::Partial) if input.len() < MAX_HEAD_BYTES => {
            let target_is_too_long = request.path.is_none_or(|path| path.len() > MAX_TARGET_BYTES);
            if target_is_too_long && input.len() > MAX_TARGET_BYTES + 32 {
                return Err(target_too_long());
            }
            Ok(None)
        }
        Ok(_) => Err(head_too_large(&format!("over {MAX_HEAD_BYTES} bytes"))),
        Err(httparse::Error::TooManyHeaders) => {
            Err(head_too_large(&format!("over {MAX_FIELDS} header fields")))
        }
        Err(httparse::Error::Version) => Err(HttpError::new(
            505,
            "http_version_not_supported",
            "Only HTTP/1.1 and HTTP/1.0 are spoken here.",
        )),
        Err(error) => Err(HttpError::bad_request(format!("This is not an HTTP/1.1 request: {error}."))),
    }
}

/// How many bytes of empty lines there are at the start. A bare carriage return is no line (RFC 9112, section 2.2).
pub(super) fn empty_lines(input: &[u8]) -> usize {
    let mut rest = input;
    while let Some(next) = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")) {
        rest = next;
    }
    input.len() - rest.len()
}

/// Whether this is a line of a header field, its end included (RFC 9112, section 5).
pub(super) fn is_field_line(line: &[u8]) -> bool {
    let Some(line) = line.strip_suffix(b"\r\n") else { return false };
    let name = line.iter().take_while(|byte| is_token(**byte)).count();
    name > 0 && line.get(name) == Some(&b':') && line[name..].iter().all(|byte| is_text(*byte))
}

/// A character of a token (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A character of a field's value: anything but controls (RFC 9110, section 5.5).
pub(super) fn is_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

fn target_too_long() -> HttpError {
    HttpError::new(
        414,
        "uri_too_long",
        format!("The request target is over {MAX_TARGET_BYTES} bytes; shorten it."),
    )
}

fn head_too_large(what: &str) -> HttpError {
    HttpError::new(431, "head_too_large", format!("The head of the request has {what}; send fewer."))
}

fn checked(request: &httparse::Request<'_, '_>) -> Result<Head, HttpError> {
    // All three are there in a complete request.
    let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let is_http_10 = request.version == Some(0);
    if target.len() > MAX_TARGET_BYTES {
        return Err(target_too_long());
    }
    check_target(method, target)?;
    check_host(request, is_http_10)?;
    let without_body = method == "HEAD";
    Ok(Head {
        method: match method {
            "GET" | "HEAD" => Method::Get,
            "POST" => Method::Post,
            "DELETE" => Method::Delete,
            other => Method::Other(other.to_owned()),
        },
        without_body,
        path: path_of(target).to_owned(),
        query: target.split_once('?').map_or_else(String::new, |(_, query)| query.to_owned()),
        is_http_10,
        keep_alive: keeps_alive(request, is_http_10),
        expects_continue: expects_continue(request, is_http_10)?,
        framing: framing(request, is_http_10)?,
        content_type: values(request, "content-type")
            .next()
            .map(|value| String::from_utf8_lossy(value).into_owned()),
        content_encoding: members(request, "content-encoding")
            .into_iter()
            .find(|coding| !["", "identity"].contains(&coding.as_str())),
        fields: Fields::of(request),
        authorization: only(values(request, "authorization")).map(<[u8]>::to_vec),
    })
}

/// The one item, if there is one and no other.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next();
    first.filter(|_| items.next().is_none())
}

/// The values of all fields of one name.
fn values<'r>(
    request: &'r httparse::Request<'_, '_>,
    name: &'static str,
) -> impl Iterator<Item = &'r [u8]> + use<'r> {
    let fields = request.headers.iter();
    fields.filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

/// The members of a comma-separated field, over all its lines (RFC 9110, section 5.6.1).
fn members(request: &httparse::Request<'_, '_>, name: &'static str) -> Vec<String> {
    values(request, name)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(|member| String::from_utf8_lossy(member.trim_ascii()).to_lowercase())
        .filter(|member| !member.is_empty())
        .collect()
}

/// RFC 9112, section 3.2: a path, a whole URI, or the `*` of OPTIONS. The fourth form is for proxies.
fn check_target(method: &str, target: &str) -> Result<(), HttpError> {
    let is_whole = split_absolute(target)
        .is_some_and(|(authority, _)| !authority.is_empty() && is_host(authority.as_bytes()));
    let is_path = target.starts_with('/') && method != "CONNECT";
    if is_path || is_whole || target == "*" && method == "OPTIONS" {
        return Ok(());
    }
    Err(HttpError::bad_request("The request target is no path; begin it with a slash."))
}

/// RFC 9112, section 3.2: one Host and a valid one. HTTP/1.0 may do without.
fn check_host(request: &httparse::Request<'_, '_>, is_http_10: bool) -> Result<(), HttpError> {
    let hosts: Vec<&[u8]> = values(request, "host").collect();
    match hosts.as_slice() {
        [] if is_http_10 => Ok(()),
        [host] if is_host(host) => Ok(()),
        [_] => Err(HttpError::bad_request("The Host field is no host with an optional port; send that.")),
        _ => Err(HttpError::bad_request("A request needs exactly one Host field; send one.")),
    }
}

/// `uri-host [ ":" port ]`, or nothing (RFC 9110, section 7.2; RFC 3986, section 3.2.2).
fn is_host(value: &[u8]) -> bool {
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(byte);
    let is_of_address = |byte: &u8| byte.is_ascii_hexdigit() || b":.".contains(byte);
    let (is_good, port) = if let Some(literal) = value.strip_prefix(b"[") {
        let end = literal.iter().take_while(|byte| is_of_address(byte)).count();
        (end > 0 && literal.get(end) == Some(&b']'), literal.get(end + 1..).unwrap_or_default())
    } else {
        let end = value.iter().take_while(|byte| is_of_name(byte)).count();
        (end > 0 || value.is_empty(), &value[end..])
    };
    let is_port = port.strip_prefix(b":").map_or(port.is_empty(), |port| port.iter().all(u8::is_ascii_digit));
    is_good && is_port
}

/// Authority, and path with query, of a whole URI.
fn split_absolute(target: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    is_scheme.then(|| rest.split_at(end))
}

/// The path of a target in any form, the query cut off.
fn path_of(target: &str) -> &str {
    let path = split_absolute(target).map_or(target, |(_, path)| path);
    match path.split('?').next() {
        None | Some("") => "/",
        Some(path) => path,
    }
}

fn keeps_alive(request: &httparse::Request<'_, '_>, is_http_10: bool) -> bool {
    let options = members(request, "connection");
    let has = |option: &str| options.iter().any(|given| given == option);
    if is_http_10 { has("keep-alive") && !has("close") } else { !has("close") }
}

fn expects_continue(request: &httparse::Request<'_, '_>, is_http_10: bool) -> Result<bool, HttpError> {
    let expectations = members(request, "expect");
    if expectations.iter().any(|expectation| expectation != "100-continue") {
        return Err(HttpError::new(
            417,
            "expectation_failed",
            "The only expectation that is met is 100-continue.",
        ));
    }
    // RFC 9110, section 10.1.1: one in an HTTP/1.0 request is ignored.
    Ok(!expectations.is_empty() && !is_http_10)
}

/// RFC 9112, section 6: one length and no doubt about it, or chunks and nothing else.
fn framing(request: &httparse::Request<'_, '_>, is_http_10: bool) -> Result<Framing, HttpError> {
    let lengths: Vec<&[u8]> = values(request, "content-length").collect();
    let has_coding = values(request, "transfer-encoding").next().is_some();
    if has_coding {
        if !lengths.is_empty() {
            return Err(HttpError::bad_request(
                "Content-Length and Transfer-Encoding exclude each other; send one.",
            ));
        }
        if is_http_10 {
            return Err(HttpError::bad_request("HTTP/1.0 has no Transfer-Encoding; send Content-Length."));
        }
        // Not `members`: a list with empty members is one to some readers and none to others.
        let codings: Vec<&[u8]> = values(request, "transfer-encoding").collect();
        return match codings.as_slice() {
            [only] if only.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
            _ => Err(HttpError::new(
                501,
                "transfer_encoding",
                "The only transfer encoding understood is chunked.",
            )),
        };
    }
    match lengths.as_slice() {
        [] => Ok(Framing::None),
        [length] if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            let parsed: Option<u64> = std::str::from_utf8(length).ok().and_then(|text| text.parse().ok());
            parsed.filter(|length| *length <= MAX_LENGTH).map(Framing::Length).ok_or_else(|| {
                HttpError::new(413, "content_too_large", "The Content-Length is beyond any disk; send less.")
            })
        }
        [_] => Err(HttpError::bad_request("Content-Length must be a whole number of bytes.")),
        _ => Err(HttpError::bad_request("Content-Length is given more than once; send one.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &str) -> Result<Option<(Head, usize)>, u16> {
        let text = lines.replace('\n', "\r\n");
        parse(text.as_bytes()).map_err(|error| error.status)
    }

    fn framing_of(fields: &str) -> Result<Framing, u16> {
        head(&format!("POST / HTTP/1.1\nHost: a\n{fields}\n")).map(|head| head.expect("complete").0.framing)
    }

    #[test]
    fn every_cut_of_a_head_is_incomplete_and_the_whole_is_complete() {
        let text = "GET /retrieve/7?x=1 HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..end]), Ok(None), "{end}");
        }
        let (head, length) = parse(format!("{text}GET /").as_bytes()).expect("good").expect("complete");
        assert_eq!((head.path.as_str(), length), ("/retrieve/7", text.len()));
        assert!(head.keep_alive && !head.without_body && !head.expects_continue);
    }

    #[test]
    fn a_length_is_believed_only_where_there_is_no_doubt() {
        assert_eq!(framing_of(""), Ok(Framing::None));
        assert_eq!(framing_of("Content-Length: 0\n"), Ok(Framing::Length(0)));
        assert_eq!(framing_of("content-length:  12 \n"), Ok(Framing::Length(12)));
        for bad in
            ["abc", "+1", "-1", "1 2", "1,1", "0x10", "", "1\nContent-Length: 1", "1\nContent-Length: 2"]
        {
            assert_eq!(framing_of(&format!("Content-Length: {bad}\n")), Err(400), "{bad}");
        }
        assert_eq!(framing_of("Content-Length: 9223372036854775807\n"), Ok(Framing::Length(MAX_LENGTH)));
        assert_eq!(framing_of("Content-Length: 9223372036854775808\n"), Err(413));
        assert_eq!(framing_of("Content-Length: 99999999999999999999\n"), Err(413));
    }

    #[test]
    fn chunks_are_the_only_coding_and_exclude_a_length() {
        assert_eq!(framing_of("Transfer-Encoding: chunked\n"), Ok(Framing::Chunked));
        assert_eq!(framing_of("Transfer-Encoding: Chunked\n"), Ok(Framing::Chunked));
        for bad in [
            "gzip",
            "gzip, chunked",
            "chunked, chunked",
            "xchunked",
            "",
            ",chunked",
            "chunked,",
            "chunked;q=1",
        ] {
            assert_eq!(framing_of(&format!("Transfer-Encoding: {bad}\n")), Err(501), "{bad}");
        }
        assert_eq!(framing_of("Transfer-Encoding: chunked\nContent-Length: 1\n"), Err(400));
        assert_eq!(head("POST / HTTP/1.0\nTransfer-Encoding: chunked\n\n").map(|_| ()), Err(400));
    }

    #[test]
    fn what_is_not_http_is_refused_by_its_own_status() {
        for (text, status) in [
            ("GET / HTTP/1.1\n\n", 400),
            ("GET / HTTP/1.1\nHost: a\nHost: b\n\n", 400),
            ("GET / HTTP/2.0\nHost: a\n\n", 505),
            ("GET / HTTP/1.1\nHost : a\n\n", 400),
            ("GET / HTTP/1.1\nHost: a\n folded\n\n", 400),
            ("G@T / HTTP/1.1\nHost: a\n\n", 400),
            ("\u{0}\u{1}\u{2}\n\n", 400),
            ("GET / HTTP/1.1\nHost: a\nExpect: 200-ok\n\n", 417),
            ("GET / HTTP/1.0\nHost: a\nHost: a\n\n", 400),
            ("GET / HTTP/1.1\nHost: a b\n\n", 400),
            ("GET / HTTP/1.1\nHost: user@a\n\n", 400),
            ("GET load HTTP/1.1\nHost: a\n\n", 400),
            ("GET * HTTP/1.1\nHost: a\n\n", 400),
            ("GET http:///load HTTP/1.1\nHost: a\n\n", 400),
            ("GET 1://a/ HTTP/1.1\nHost: a\n\n", 400),
            ("GET http://user@a/load HTTP/1.1\nHost: a\n\n", 400),
            ("CONNECT a:80 HTTP/1.1\nHost: a\n\n", 400),
            ("CONNECT /load HTTP/1.1\nHost: a\n\n", 400),
        ] {
            assert_eq!(head(text).map(|_| ()), Err(status), "{text}");
        }
    }

    #[test]
    fn a_head_that_grows_without_end_is_stopped() {
        let long_target = format!("GET /{} HTTP/1.1\nHost: a\n\n", "a".repeat(MAX_TARGET_BYTES));
        assert_eq!(head(&long_target).map(|_| ()), Err(414));
        assert_eq!(head(&format!("GET /{}", "a".repeat(MAX_TARGET_BYTES + 64))).map(|_| ()), Err(414));
        let long_field = format!("GET / HTTP/1.1\nHost: a\nX: {}", "a".repeat(MAX_HEAD_BYTES));
        assert_eq!(head(&long_field).map(|_| ()), Err(431));
        let many = format!("GET / HTTP/1.1\nHost: a\n{}\n", "X: 1\n".repeat(MAX_FIELDS));
        assert_eq!(head(&many).map(|_| ()), Err(431));
    }

    #[test]
    fn versions_and_connection_options_decide_on_keeping_the_connection() {
        let keeps = |text: &str| head(text).expect("good").expect("complete").0.keep_alive;
        assert!(keeps("GET / HTTP/1.1\nHost: a\n\n"));
        assert!(!keeps("GET / HTTP/1.1\nHost: a\nConnection: x, Close\n\n"));
        assert!(!keeps("GET / HTTP/1.0\n\n"));
        assert!(keeps("GET / HTTP/1.0\nConnection: Keep-Alive\n\n"));
    }

    #[test]
    fn credentials_are_those_of_the_only_field() {
        let credentials = |fields: &str| {
            let head =
                head(&format!("GET / HTTP/1.1\nHost: a\n{fields}\n")).expect("good").expect("complete");
            head.0.authorization.map(|value| String::from_utf8(value).expect("text"))
        };
        assert_eq!(credentials(""), None);
        assert_eq!(credentials("authorization: Bearer x\n").as_deref(), Some("Bearer x"));
        assert_eq!(credentials("Authorization: Bearer x\nAuthorization: Bearer x\n"), None);
    }

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
        for good in ["", "a", "a.b-c_d", "10.0.0.1:9000", "a:", "[::1]", "[::ffff:10.0.0.1]:80", "a%20b"] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            ":80", "::1", "a:b", "a:80:80", "[::1", "[]", "[::1]x", "[::1]:x", "[a b]", "a]", "a@b", "a/b",
            "a b",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn fields_that_routes_ask_for_are_kept_and_lines_of_one_are_joined() {
        let text = "GET / HTTP/1.1\nHost: a\nRANGE: bytes=1-\nRange: bytes=2-\nX: y\nIf-Range: \"a\"\n\n";
        let fields = head(text).expect("good").expect("complete").0.fields;
        assert_eq!(fields.get("range"), Some("bytes=1-, bytes=2-"));
        assert_eq!(fields.get("if-range"), Some("\"a\""));
        assert_eq!((fields.get("x"), fields.get("if-none-match")), (None, None));
    }

    #[test]
    fn the_path_is_found_in_each_form_of_target() {
        for (target, path) in [
            ("/", "/"),
            ("/load?x", "/load"),
            ("http://host:9000/load?x", "/load"),
            ("http://host", "/"),
            ("http://host?x=/load", "/"),
            ("HTTP://[::1]:9000/load", "/load"),
            ("/a?b=http://c/d", "/a"),
            ("*", "*"),
        ] {
            assert_eq!(path_of(target), path, "{target}");
        }
    }
}
