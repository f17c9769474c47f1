//! A second reading of what a connection sends, slow and plain, written from RFC 9112 and not from the client's code.
//! It says of each request where it ends, and whether it must be served, must be refused, or may be either.

/// Bounds that the client sets itself: within them a good request must be served, beyond them it must be refused.
const MOST_HEAD_BYTES: usize = 16 * 1024;
const MOST_TARGET_BYTES: usize = 4 * 1024;
const MOST_FIELDS: usize = 96;
const MOST_LINE_BYTES: usize = 4 * 1024;
/// Digits of a chunk size, leading zeros included.
const MOST_SIZE_DIGITS: usize = 16;
/// A length beyond this overflows the offsets of files.
const MOST_BODY_BYTES: u64 = i64::MAX as u64;
/// A line or trailer section this much below the bound must be taken, above it may be refused: how much of a line is looked
/// at when it is judged depends on how it arrives.
const LINE_LEEWAY_BYTES: usize = 1024;

/// What may become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is wrong with it.
    Serve,
    /// The grammar forbids it, and RFC 9112 lets a recipient be lenient; or it is at a bound.
    Either,
    /// Two readers could understand it in two ways, or it is beyond a bound.
    Refuse(&'static str),
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
}

/// A request's head.
#[derive(Debug)]
pub struct Head<'i> {
    /// As it was sent.
    pub method: &'i [u8],
    /// As it was sent.
    pub target: &'i [u8],
    /// HTTP/1.0.
    pub is_http_10: bool,
    /// Whether the sender wants the connection kept.
    pub keep_alive: bool,
    /// Whether the sender waits for 100 Continue.
    pub expects_continue: bool,
    /// Of no meaning where the verdict is to refuse.
    pub framing: Framing,
    /// What may become of it.
    pub verdict: Verdict,
}

/// A request's body.
#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    /// All of it.
    Whole(Vec<u8>),
    /// As `Whole`, but its framing is at a bound: it may be refused.
    Doubtful(Vec<u8>),
    /// It breaks off, or its framing is broken: nothing behind it can be understood.
    Broken,
}

/// What stands next.
#[derive(Debug)]
pub enum Next<'i> {
    /// Nothing.
    End,
    /// The beginning of a head, or no head at all.
    Incomplete,
    /// A head.
    Head(Head<'i>),
}

/// The requests of one connection, one after the other.
pub struct Reader<'i> {
    rest: &'i [u8],
}

impl<'i> Reader<'i> {
    /// Reads all that the client sends.
    pub fn new(input: &'i [u8]) -> Self {
        Self { rest: input }
    }

    /// The next head. The body before must have been read.
    pub fn head(&mut self) -> Next<'i> {
        // Section 2.2: empty lines in front are no part of it.
        while let Some(rest) = self.rest.strip_prefix(b"\r\n").or_else(|| self.rest.strip_prefix(b"\n")) {
            self.rest = rest;
        }
        if self.rest.is_empty() {
            return Next::End;
        }
        let start = self.rest;
        let mut lines = Vec::new();
        loop {
            match self.line() {
                None => return Next::Incomplete,
                Some(b"\r\n" | b"\n") => break,
                Some(line) => lines.push(line),
            }
        }
        let length = start.len() - self.rest.len();
        Next::Head(judge(&lines, length, start[..length].ends_with(b"\r\n")))
    }

    /// The body that follows a head.
    pub fn body(&mut self, framing: Framing) -> Body {
        match framing {
            Framing::None => Body::Whole(Vec::new()),
            Framing::Length(length) => {
                self.take(length).map_or(Body::Broken, |bytes| Body::Whole(bytes.to_vec()))
            }
            Framing::Chunked => self.chunks().unwrap_or(Body::Broken),
        }
    }

    fn chunks(&mut self) -> Option<Body> {
        let mut all = Vec::new();
        let mut longest = 0;
        loop {
            let line = self.line()?;
            longest = longest.max(line.len());
            let size = chunk_size(line.strip_suffix(b"\r\n")?)?;
            if size == 0 {
                break;
            }
            all.extend_from_slice(self.take(size)?);
            if self.take(2)? != b"\r\n" {
                return None;
            }
        }
        let mut trailers = 0;
        loop {
            let line = self.line()?;
            if line == b"\r\n" {
                break;
            }
            if matches!(field(line.strip_suffix(b"\r\n")?)?.verdict, Verdict::Refuse(_)) {
                return None;
            }
            trailers += line.len();
        }
        let longest = longest.max(trailers);
        Some(if longest > MOST_LINE_BYTES + LINE_LEEWAY_BYTES {
            Body::Broken
        } else if longest > MOST_LINE_BYTES - LINE_LEEWAY_BYTES {
            Body::Doubtful(all)
        } else {
            Body::Whole(all)
        })
    }

    /// Up to and with the next line feed.
    fn line(&mut self) -> Option<&'i [u8]> {
        let end = self.rest.iter().position(|byte| *byte == b'\n')?;
        let (line, rest) = self.rest.split_at(end + 1);
        self.rest = rest;
        Some(line)
    }

    fn take(&mut self, length: u64) -> Option<&'i [u8]> {
        let (taken, rest) = self.rest.split_at_checked(usize::try_from(length).ok()?)?;
        self.rest = rest;
        Some(taken)
    }
}

/// `chunk-size [ chunk-ext ]`, the line end cut off (RFC 9112, section 7.1). What stands in an extension means nothing to who
/// does not know it, but a control character may be a line end to some.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let extension = &line[digits..];
    let is_good = extension.is_empty() || extension.trim_ascii_start().starts_with(b";");
    if !is_good || digits > MOST_SIZE_DIGITS || extension.iter().any(|byte| is_control(*byte)) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()
}

fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

struct Field<'i> {
    name: &'i [u8],
    value: &'i [u8],
    verdict: Verdict,
}

/// `name: value`, the line end cut off. `None` if it is not that.
fn field(line: &[u8]) -> Option<Field<'_>> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return None;
    }
    let verdict = if line[colon + 1..].iter().any(|byte| is_control(*byte)) {
        Verdict::Refuse("a control character in a field")
    } else if value.is_ascii() {
        Verdict::Serve
    } else {
        Verdict::Either
    };
    Some(Field { name, value, verdict })
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The graver of two verdicts.
fn graver(one: Verdict, other: Verdict) -> Verdict {
    match (one, other) {
        (Verdict::Refuse(_), _) | (Verdict::Either, Verdict::Serve) => one,
        _ => other,
    }
}

fn judge<'i>(lines: &[&'i [u8]], length: usize, ends_in_crlf: bool) -> Head<'i> {
    let mut verdict = if ends_in_crlf { Verdict::Serve } else { Verdict::Either };
    let mut plain = Vec::new();
    for line in lines {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let text = line.strip_suffix(b"\r");
        verdict = graver(verdict, if text.is_some() { Verdict::Serve } else { Verdict::Either });
        plain.push(text.unwrap_or(line));
    }
    let (first, rest) = plain.split_first().map_or((&b""[..], &[][..]), |(first, rest)| (*first, rest));
    let mut words = first.split(|byte| *byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let version = words.next().unwrap_or_default();
    let is_http_10 = version == b"HTTP/1.0";
    let mut head = Head {
        method,
        target,
        is_http_10,
        keep_alive: !is_http_10,
        expects_continue: false,
        framing: Framing::None,
        verdict: Verdict::Serve,
    };
    verdict = graver(verdict, request_line(&head, version, words.next().is_some()));
    let mut fields = Vec::new();
    for line in rest {
        if let Some(field) = field(line) {
            verdict = graver(verdict, field.verdict);
            fields.push(field);
        } else {
            verdict = Verdict::Refuse("a line that is no field");
        }
    }
    if length > MOST_HEAD_BYTES {
        verdict = Verdict::Refuse("a head that is too long");
    }
    if fields.len() > MOST_FIELDS {
        verdict = Verdict::Refuse("too many fields");
    }
    head.verdict = graver(verdict, meaning(&mut head, &fields));
    head
}

fn request_line(head: &Head<'_>, version: &[u8], has_more: bool) -> Verdict {
    let is_good = !head.method.is_empty() && head.method.iter().all(|byte| is_token(*byte));
    if !is_good || head.target.is_empty() || has_more {
        return Verdict::Refuse("no request line");
    }
    if !head.is_http_10 && version != b"HTTP/1.1" {
        return Verdict::Refuse("another version");
    }
    if head.target.len() > MOST_TARGET_BYTES {
        return Verdict::Refuse("a target that is too long");
    }
    if head.target.iter().any(u8::is_ascii_control) {
        return Verdict::Refuse("a control character in the target");
    }
    let (authority, _) = split(head.target);
    let form = match authority {
        Some([]) => Verdict::Refuse("a URI without a host"),
        Some(authority) => judge_host(authority),
        None if head.target[0] == b'/' || (head.target == b"*" && head.method == b"OPTIONS") => {
            Verdict::Serve
        }
        None => Verdict::Refuse("a target that is no path"),
    };
    let is_at_bound = head.method.len() + head.target.len() > MOST_TARGET_BYTES;
    // What is not in the grammar of a URI, but harmless: `"<>\^`{|}`, and all that is not ASCII.
    let is_odd = |byte: &u8| !byte.is_ascii() || b"\"<>\\^`{|}#".contains(byte);
    let is_beyond_doubt = !is_at_bound && !head.target.iter().any(is_odd);
    graver(form, if is_beyond_doubt { Verdict::Serve } else { Verdict::Either })
}

/// What the fields mean for the connection (RFC 9112, sections 3.2, 6 and 9; RFC 9110, section 10.1.1).
fn meaning(head: &mut Head<'_>, fields: &[Field<'_>]) -> Verdict {
    let values = |name: &str| -> Vec<&[u8]> {
        let named = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name.as_bytes()));
        named.map(|field| field.value).collect()
    };
    let members = |name: &str| -> Vec<Vec<u8>> {
        let split = values(name).into_iter().flat_map(|value| value.split(|byte| *byte == b','));
        split
            .map(|member| member.trim_ascii().to_ascii_lowercase())
            .filter(|member| !member.is_empty())
            .collect()
    };
    let options = members("connection");
    let has = |option: &[u8]| options.iter().any(|given| given == option);
    head.keep_alive = !has(b"close") && (!head.is_http_10 || has(b"keep-alive"));
    let host = match values("host").as_slice() {
        [] if head.is_http_10 => Verdict::Serve,
        [host] => judge_host(host),
        _ => Verdict::Refuse("not one Host"),
    };
    let expectations = members("expect");
    if expectations.iter().any(|expectation| expectation != b"100-continue") {
        return Verdict::Refuse("an unknown expectation");
    }
    head.expects_continue = !expectations.is_empty() && !head.is_http_10;
    let codings = values("transfer-encoding");
    let framing = match (values("content-length").as_slice(), codings.as_slice()) {
        ([], []) => Verdict::Serve,
        ([length], []) => match std::str::from_utf8(length).map(str::parse) {
            Ok(Ok(bytes)) if length.iter().all(u8::is_ascii_digit) && bytes <= MOST_BODY_BYTES => {
                head.framing = Framing::Length(bytes);
                Verdict::Serve
            }
            _ => Verdict::Refuse("a length that is no number"),
        },
        ([], codings) => {
            head.framing = Framing::Chunked;
            if head.is_http_10 {
                Verdict::Refuse("a coding in HTTP/1.0")
            } else if codings.len() == 1 && codings[0].eq_ignore_ascii_case(b"chunked") {
                Verdict::Serve
            } else {
                Verdict::Refuse("another coding, or a list")
            }
        }
        (_, []) => Verdict::Refuse("two lengths"),
        _ => Verdict::Refuse("a length and a coding"),
    };
    graver(host, framing)
}

/// `uri-host [ ":" port ]` (RFC 3986, section 3.2.2): a name is beyond doubt; of the rest only the characters are.
fn judge_host(host: &[u8]) -> Verdict {
    let end = host.iter().position(|byte| *byte == b':').unwrap_or(host.len());
    let (name, port) = (&host[..end], host.get(end + 1..).unwrap_or(b"0"));
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-.".contains(byte);
    let is_of_host = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte);
    if !host.iter().all(is_of_host) {
        Verdict::Refuse("a Host that is none")
    } else if !name.is_empty() && name.iter().all(is_of_name) && port.iter().all(u8::is_ascii_digit) {
        Verdict::Serve
    } else {
        Verdict::Either
    }
}

/// The path that a target means: of the absolute form without scheme and authority, of each without the query
/// (RFC 9112, section 3.2).
pub fn path(target: &[u8]) -> &[u8] {
    match split(target).1 {
        [] => b"/",
        path => path,
    }
}

/// The authority of the absolute form, and the path of any.
fn split(target: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let end =
        |bytes: &[u8], of: &[u8]| bytes.iter().position(|byte| of.contains(byte)).unwrap_or(bytes.len());
    let is_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    let scheme = target.iter().take_while(|byte| is_scheme(byte)).count();
    let starts_well = target.first().is_some_and(u8::is_ascii_alphabetic);
    let (authority, rest) = match target[scheme..].strip_prefix(b"://") {
        Some(rest) if starts_well => {
            let (authority, rest) = rest.split_at(end(rest, b"/?#"));
            (Some(authority), rest)
        }
        _ => (None, target),
    };
    (authority, &rest[..end(rest, b"?")])
}
