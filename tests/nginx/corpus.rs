//! The messages: made by hand, of all that was ever used to make two servers disagree, and damaged at random.
#![allow(clippy::too_many_lines, reason = "they are lists")]

/// Follows each message. It closes the connection, so that nothing is waited for.
pub const SENTINEL: &[u8] = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// A form, since the client reads the body of one to its end before it answers: there is no boundary in any of them.
const FORM: &str = "Host: a\r\nContent-Type: multipart/form-data; boundary=never-to-be-found\r\n";

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

fn post(fields: &str, body: &str) -> Vec<u8> {
    format!("POST /submit HTTP/1.1\r\n{FORM}{fields}\r\n{body}").into_bytes()
}

/// Requests that are as they should be.
pub fn good() -> Vec<Vec<u8>> {
    vec![
        b"GET /load HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"GET /load HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n".to_vec(),
        b"GET http://a/load?x=y HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n".to_vec(),
        post("Content-Length: 0\r\n", ""),
        post("Content-Length: 5\r\n", "hello"),
        post("content-length:5\r\nX-Other: 1, 2;q=\"3\"\r\n", "hello"),
        post(CHUNKED, "5\r\nhello\r\n0\r\n\r\n"),
        post("TRANSFER-ENCODING: CHUNKED\r\n", "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"),
        post(CHUNKED, "05;a=b;c=\"d\"\r\nhello\r\n0;e\r\nX-Trailer: 1\r\nX-Other: 2\r\n\r\n"),
    ]
}

pub fn by_hand() -> Vec<Vec<u8>> {
    let mut all = good();
    all.extend(framings());
    all.extend(chunks());
    all.extend(lines());
    all.extend(fields());
    all
}

/// Each way to say how long a body is, before each kind of body.
fn framings() -> Vec<Vec<u8>> {
    const NUMBERS: &[&str] = &[
        "5",
        "05",
        "0000000000000000000000000005",
        "+5",
        "-5",
        "-0",
        "0x5",
        "5.0",
        "5e0",
        "5,",
        ",5",
        "5,5",
        "5, 5",
        "5, 6",
        "5 5",
        "5;",
        "\"5\"",
        "'5'",
        "five",
        "",
        " ",
        " 5 ",
        "\t5",
        "5\t",
        "5\u{b}",
        "5\u{0}",
        "5\u{a0}",
        "5\r6",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "18446744073709551621",
        "99999999999999999999999",
        "\r\n 5",
        "5\r\n 5",
        "5\r\n\t",
        "5\n",
    ];
    const CODINGS: &[&str] = &[
        "chunked",
        "Chunked",
        "CHUNKED",
        " chunked ",
        "\tchunked",
        "chunked\t",
        "\u{b}chunked",
        "chunked\u{b}",
        "xchunked",
        "chunkedx",
        "chunke",
        "\"chunked\"",
        "'chunked'",
        "chunked;q=1",
        "chunked;",
        "identity",
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "chunked, identity",
        "identity, chunked",
        ",chunked",
        "chunked,",
        ", chunked",
        "",
        " ",
        "chunked\u{0}",
        "chun\u{0}ked",
        "\r\n chunked",
        "chunked\r\n ",
        "chunked\r\n x",
        "chunked\n",
        "chunked\rx",
        "cow",
        "trailers",
        "chunked chunked",
        "deflate",
    ];
    let mut fields: Vec<String> =
        NUMBERS.iter().map(|number| format!("Content-Length: {number}\r\n")).collect();
    fields.extend(CODINGS.iter().map(|coding| format!("Transfer-Encoding: {coding}\r\n")));
    for pair in [
        ["Content-Length: 5", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5", "content-length: 0"],
        ["Content-Length: 0", "Content-Length: 5"],
        ["Content-Length: 5", "Content_Length: 0"],
        ["Content-Length: 5", "Content-Length : 0"],
        ["Content-Length: 5", " Content-Length: 0"],
        ["Content-Length: 5", "X: y\rContent-Length: 0"],
        ["Content-Length: 5", "X: y\nContent-Length: 0"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Content-Length: 5", "Transfer-Encoding: identity"],
        ["Content-Length: 5", "Transfer-Encoding: xchunked"],
        ["Content-Length: 5", "Transfer-Encoding : chunked"],
        ["Content-Length: 5", "Transfer-Encoding\t: chunked"],
        ["Content-Length: 5", " Transfer-Encoding: chunked"],
        ["Content-Length: 5", "Transfer_Encoding: chunked"],
        ["Content-Length: 5", "Transfer-Encoding\u{0}: chunked"],
        ["Content-Length: 5", "X: y\rTransfer-Encoding: chunked"],
        ["Content-Length: 5", "X: y\nTransfer-Encoding: chunked"],
        ["Content-Length: 5", "X\r\nTransfer-Encoding: chunked"],
        ["Content-Length: 5", "Transfer-Encoding"],
        ["Content-Length: 5", "Transfer-Encoding:"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
        ["Transfer-Encoding: identity", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding:", "Transfer-Encoding: chunked"],
        ["Connection: Content-Length", "Content-Length: 5"],
        ["Connection: Transfer-Encoding", "Transfer-Encoding: chunked"],
        ["TE: chunked", "Content-Length: 5"],
        ["Trailer: Content-Length", "Transfer-Encoding: chunked"],
        ["Upgrade: h2c", "Content-Length: 5"],
        ["Expect: 100-continue", "Content-Length: 5"],
        ["Expect: wonders", "Content-Length: 5"],
    ] {
        fields.push(format!("{}\r\n{}\r\n", pair[0], pair[1]));
    }
    fields.push(String::new());
    let bodies = ["", "hello", "5\r\nhello\r\n0\r\n\r\n", "0\r\n\r\n"];
    let mut all: Vec<Vec<u8>> =
        fields.iter().flat_map(|fields| bodies.iter().map(move |body| post(fields, body))).collect();
    // The same in a request of the old version, which knows no chunks.
    for fields in &fields {
        let keep = format!("Connection: keep-alive\r\n{fields}");
        let text = String::from_utf8(post(&keep, "5\r\nhello\r\n0\r\n\r\n")).unwrap();
        all.push(text.replace("HTTP/1.1", "HTTP/1.0").into_bytes());
    }
    all
}

/// Bodies in chunks.
fn chunks() -> Vec<Vec<u8>> {
    let mut bodies: Vec<String> = [
        // sizes
        "5\r\nhello",
        "a\r\n0123456789",
        "A\r\n0123456789",
        "005\r\nhello",
        "0000000000000005\r\nhello",
        "00000000000000005\r\nhello",
        "+5\r\nhello",
        "-5\r\nhello",
        "0x5\r\nhello",
        "5h\r\nhello",
        "5 \r\nhello",
        "5\t\r\nhello",
        " 5\r\nhello",
        "\t5\r\nhello",
        "5 5\r\nhello",
        "5,5\r\nhello",
        "0_5\r\nhello",
        "g\r\nhello",
        "\r\nhello",
        "5\u{0}\r\nhello",
        "5\u{b}\r\nhello",
        "\u{ff}5\r\nhello",
        "5.0\r\nhello",
        "\"5\"\r\nhello",
        "7fffffffffffffff\r\nhello",
        "8000000000000000\r\nhello",
        "ffffffffffffffff\r\nhello",
        "10000000000000005\r\nhello",
        "fffffffffffffffffffffffff5\r\nhello",
        "100000005\r\nhello",
        // extensions
        "5;\r\nhello",
        "5;a\r\nhello",
        "5;a=b\r\nhello",
        "5;a=\"b;c\"\r\nhello",
        "5 ;a\r\nhello",
        "5\t;a\r\nhello",
        "5; a\r\nhello",
        "5;a\nhello",
        "5;a\rb\r\nhello",
        "5;\nhello",
        "5;a=\"\r\n\"\r\nhello",
        "5;\u{0}\r\nhello",
        "5;\u{7f}\r\nhello",
        "5;a\r\r\nhello",
        "5;;;\r\nhello",
        "5;\u{ff}\r\nhello",
        "5=a\r\nhello",
        "5:a\r\nhello",
        // line ends
        "5\nhello",
        "5\rhello",
        "5\r\r\nhello",
        "5\n\rhello",
        "5\r\nhello\n5\r\nworld",
        "5\r\nhello\r5\r\nworld",
        "5\r\nhello5\r\nworld",
        "5\r\nhello\r\n\r\n5\r\nworld",
        "5\r\nhello \r\n5\r\nworld",
        "5\r\nhell\r\n",
        "5\r\nhello!",
        "6\r\nhello",
        "4\r\nhello",
        "5\r\n\r\nhello",
        "5\r\nhello\r\n ",
        "5\r\nhello\r\r\n",
    ]
    .iter()
    .map(|chunk| format!("{chunk}\r\n0\r\n\r\n"))
    .collect();
    for end in [
        "0\r\n\r\n",
        "00\r\n\r\n",
        "0000000000000000\r\n\r\n",
        "00000000000000000000\r\n\r\n",
        "0;a\r\n\r\n",
        "0 \r\n\r\n",
        "0\r\n\n",
        "0\n\r\n",
        "0\n\n",
        "0\r\r\n\r\n",
        "0\r\n\r\r\n",
        "0\r\r",
        "0\r\n\rX",
        "-0\r\n\r\n",
        "0x0\r\n\r\n",
        "\r\n\r\n",
        "0\r\n \r\n\r\n",
        "0\r\nX: y\r\n\r\n",
        "0\r\nX: y\n\r\n",
        "0\r\nX: y\r\n\n",
        "0\r\nX: y\n\n",
        "0\r\nX: y\r\r\n\r\n",
        "0\r\nX: y\rz\r\n\r\n",
        "0\r\nX\r\n\r\n",
        "0\r\n: y\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\n X: y\r\n\r\n",
        "0\r\nX: y\r\n z\r\n\r\n",
        "0\r\nX: \u{0}\r\n\r\n",
        "0\r\nX(: y\r\n\r\n",
        "0\r\nContent-Length: 5\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nHost: b\r\nHost: c\r\n\r\n",
        "0\r\nGET /load HTTP/1.1\r\nHost: a\r\n\r\n",
        "0\r\n\nGET /load HTTP/1.1\r\nHost: a\r\n\r\n",
        "0\nGET /load HTTP/1.1\r\nHost: a\r\n\r\n",
        "0\r\n",
        "0",
        "",
    ] {
        bodies.push(format!("5\r\nhello\r\n{end}"));
    }
    bodies.iter().map(|body| post(CHUNKED, body)).collect()
}

/// Request lines, and what comes before them.
fn lines() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        "GET  /load HTTP/1.1",
        "GET /load  HTTP/1.1",
        "GET\t/load HTTP/1.1",
        "GET /load\tHTTP/1.1",
        "GET /load HTTP/1.1 ",
        " GET /load HTTP/1.1",
        "\tGET /load HTTP/1.1",
        "GET /load HTTP/1.1\t",
        "GET /load HTTP/1.1 x",
        "GET /load x HTTP/1.1",
        "GET /load",
        "GET /load ",
        "GET",
        "GET ",
        "",
        "GET HTTP/1.1",
        "/load HTTP/1.1",
        "GET /load\u{b}HTTP/1.1",
        "GET /load\u{0} HTTP/1.1",
        "GET /lo\u{1}ad HTTP/1.1",
        "GET /lo\u{7f}ad HTTP/1.1",
        "GET /load\rHTTP/1.1",
        "GET /load HTTP/1.1\r",
        "G\rET /load HTTP/1.1",
        // versions
        "GET /load HTTP/1.0",
        "GET /load HTTP/1.2",
        "GET /load HTTP/1.9",
        "GET /load HTTP/1.10",
        "GET /load HTTP/1.11",
        "GET /load HTTP/1.",
        "GET /load HTTP/1",
        "GET /load HTTP/.1",
        "GET /load HTTP/0.9",
        "GET /load HTTP/2.0",
        "GET /load HTTP/2",
        "GET /load HTTP/01.1",
        "GET /load HTTP/1.01",
        "GET /load HTTP/-1.1",
        "GET /load HTTP/1.1.1",
        "GET /load HTTP/1,1",
        "GET /load http/1.1",
        "GET /load Http/1.1",
        "GET /load HTTP /1.1",
        "GET /load HTTP/ 1.1",
        "GET /load HTTPS/1.1",
        "GET /load HTTP//1.1",
        "GET /load ICY/1.1",
        "GET /load RTSP/1.0",
        // methods
        "get /load HTTP/1.1",
        "Get /load HTTP/1.1",
        "FOO /load HTTP/1.1",
        "G-T /load HTTP/1.1",
        "G_T /load HTTP/1.1",
        "G!T /load HTTP/1.1",
        "G(T /load HTTP/1.1",
        "G@T /load HTTP/1.1",
        "G:T /load HTTP/1.1",
        "\"GET\" /load HTTP/1.1",
        "GE\u{0}T /load HTTP/1.1",
        "G\u{e9}T /load HTTP/1.1",
        "123 /load HTTP/1.1",
        "HEAD /load HTTP/1.1",
        "OPTIONS /load HTTP/1.1",
        "PUT /load HTTP/1.1",
        "DELETE /load HTTP/1.1",
        "PATCH /load HTTP/1.1",
        "TRACE /load HTTP/1.1",
        "CONNECT /load HTTP/1.1",
        "PRI /load HTTP/1.1",
        "PROPFIND /load HTTP/1.1",
        // targets
        "GET * HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "OPTIONS ** HTTP/1.1",
        "GET load HTTP/1.1",
        "GET ?x HTTP/1.1",
        "GET #x HTTP/1.1",
        "GET . HTTP/1.1",
        "GET a:80 HTTP/1.1",
        "CONNECT a:80 HTTP/1.1",
        "GET http://a/load HTTP/1.1",
        "GET HTTP://A/load HTTP/1.1",
        "GET https://a/load HTTP/1.1",
        "GET ftp://a/load HTTP/1.1",
        "GET http://a HTTP/1.1",
        "GET http://a?x=/y HTTP/1.1",
        "GET http://a:80/load HTTP/1.1",
        "GET http://a:/load HTTP/1.1",
        "GET http://[::1]/load HTTP/1.1",
        "GET http://[::1/load HTTP/1.1",
        "GET http:// HTTP/1.1",
        "GET http:///load HTTP/1.1",
        "GET http:/load HTTP/1.1",
        "GET http:load HTTP/1.1",
        "GET ://a/load HTTP/1.1",
        "GET 1http://a/load HTTP/1.1",
        "GET http://user@a/load HTTP/1.1",
        "GET http://b/load HTTP/1.1",
        "GET http://a=b/load HTTP/1.1",
        "GET http://a b/load HTTP/1.1",
        "GET //load HTTP/1.1",
        "GET //a/load HTTP/1.1",
        "GET /./load HTTP/1.1",
        "GET /x/../load HTTP/1.1",
        "GET /../load HTTP/1.1",
        "GET /%2e%2e/load HTTP/1.1",
        "GET /%2f HTTP/1.1",
        "GET /%00 HTTP/1.1",
        "GET /% HTTP/1.1",
        "GET /%zz HTTP/1.1",
        "GET /%0d%0aX: HTTP/1.1",
        "GET /load#x HTTP/1.1",
        "GET /load?# HTTP/1.1",
        "GET /load?? HTTP/1.1",
        "GET /\\load HTTP/1.1",
        "GET /\"<>^`{|} HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET /;x HTTP/1.1",
        "GET /?\u{0} HTTP/1.1",
        "GET /? x HTTP/1.1",
    ]
    .iter()
    .map(|line| format!("{line}\r\nHost: a\r\n\r\n").into_bytes())
    .collect();
    for raw in [
        "\r\nGET /load HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\r\n\r\nGET /load HTTP/1.1\r\nHost: a\r\n\r\n",
        "\nGET /load HTTP/1.1\r\nHost: a\r\n\r\n",
        "\rGET /load HTTP/1.1\r\nHost: a\r\n\r\n",
        "\n\r\n\rGET /load HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n GET /load HTTP/1.1\r\nHost: a\r\n\r\n",
        "\u{feff}GET /load HTTP/1.1\r\nHost: a\r\n\r\n",
        "\u{0}GET /load HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /load HTTP/1.1\nHost: a\n\n",
        "GET /load HTTP/1.1\nHost: a\r\n\r\n",
        "GET /load HTTP/1.1\r\nHost: a\n\r\n",
        "GET /load HTTP/1.1\r\nHost: a\r\n\n",
        "GET /load HTTP/1.1\rHost: a\r\r",
        "GET /load HTTP/1.1\r\nHost: a\r\n\r",
        "GET /load HTTP/1.1\r\nHost: a\r\r\n\r\n",
        "GET /load HTTP/1.1\r\nHost: a\r\n\r\r\n",
        "GET /load HTTP/1.1\r\r\nHost: a\r\n\r\n",
        "GET /load HTTP/1.1\r\n\r\nHost: a\r\n\r\n",
        "GET /load HTTP/1.1\n\nHost: a\r\n\r\n",
        "GET /load\r\n",
        "GET /load\n",
        "GET /load\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\u{3}\u{3}",
        "POST /submit HTTP/1.0\r\nContent-Type: multipart/form-data; boundary=x\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
        "GET /load HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "GET /load HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\nGET /load HTTP/1.1\r\nHost: a\r\nX: 12345\r\n\r\n",
        "GET /load HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HEAD /load HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "OPTIONS /load HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /load HTTP/1.1\r\nHost: a\r\n\r\nGET /load HTTP/1.1\r\nHost: a\r\n\r\nGET /load HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "GET /load HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /load HTTP/1.0\r\n\r\n",
        "GET /load HTTP/1.1\r\nHost: a\r\n\r\n\r",
        "GET /load HTTP/1.1\r\nHost: a\r\n\r\n\r\r\n",
        "GET /load HTTP/1.1\r\nHost: a\r\n\r\n\r\n\n",
        // Answered before its body is read, which has no good end.
        "PUT /load HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
        "PUT /load HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\n",
    ] {
        all.push(raw.as_bytes().to_vec());
    }
    all
}

/// Header fields that have nothing to do with framing, or had better not.
fn fields() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        "",
        "Host:",
        "Host: ",
        "Host: a\r\nHost: a",
        "Host: a\r\nHost: b",
        "Host: a\r\nhost: a",
        "Host: a\r\nHost:",
        "Host: a b",
        "Host: a,b",
        "Host: a, b",
        "Host: a/b",
        "Host: a?b",
        "Host: a#b",
        "Host: user@a",
        "Host: a:80",
        "Host: a:",
        "Host: a:b",
        "Host: a:80:80",
        "Host: :80",
        "Host: [::1]",
        "Host: [::1]:80",
        "Host: [::1",
        "Host: ::1",
        "Host: a.b.",
        "Host: a..b",
        "Host: .",
        "Host: ..",
        "Host: A_b",
        "Host: a\\b",
        "Host: \"a\"",
        "Host: <a>",
        "Host: a%20b",
        "Host: \u{e9}",
        "Host: a\u{0}",
        "Host: a\tb",
        "Host: a\t",
        "Host:\ta",
        "Host:a",
        "Host : a",
        "Host\t: a",
        " Host: a",
        "\tHost: a",
        "Host\u{0}: a",
        "Host",
        "Host a",
        "Host; a",
        "Host=a",
        "Host: a\r\n b",
        "Host:\r\n a",
        "Host: a\rb",
        "X: y\r\nHost: a",
        "X:\r\nHost: a",
        "X\r\nHost: a",
        "X y\r\nHost: a",
        ": y\r\nHost: a",
        ":\r\nHost: a",
        "X : y\r\nHost: a",
        "X\t: y\r\nHost: a",
        "X\u{b}: y\r\nHost: a",
        "X(: y\r\nHost: a",
        "X@Y: z\r\nHost: a",
        "X/Y: z\r\nHost: a",
        "X\"Y: z\r\nHost: a",
        "X_Y: z\r\nHost: a",
        "X.Y: z\r\nHost: a",
        "\u{e9}: y\r\nHost: a",
        "X: \u{e9}\r\nHost: a",
        "X: \u{1}\r\nHost: a",
        "X: \u{7f}\r\nHost: a",
        "X: \u{0}\r\nHost: a",
        "X: y\u{b}\r\nHost: a",
        "X: y\r\n\r\nHost: a",
        "X: y\r\r\nHost: a",
        "X: y\n\rHost: a",
        "X: y\rz: 1\r\nHost: a",
        "X: y\nHost: a",
        "X: y\r\n z\r\nHost: a",
        "X: y\r\n\tz\r\nHost: a",
        "X: y\r\n \r\nHost: a",
        "Host: a\r\n x",
        "Host: a\r\n\t",
        "Host: a\r\nConnection: keep-alive, x",
        "Host: a\r\nConnection: Keep-Alive",
        "Host: a\r\nConnection: x, close",
        "Host: a\r\nConnection: close, keep-alive",
        "Host: a\r\nConnection: close\r\nConnection: keep-alive",
        "Host: a\r\nConnection: Host",
        "Host: a\r\nExpect: 100-continue",
        "Host: a\r\nExpect: x",
        "Host: a\r\nUpgrade: websocket\r\nConnection: upgrade",
        "Host: a\r\nTE: trailers",
    ]
    .iter()
    .map(|fields| format!("GET /load HTTP/1.1\r\n{fields}\r\n\r\n").into_bytes())
    .collect();
    for fields in ["", "Host: a\r\nHost: a\r\n", "Host:\r\n", "Host: a b\r\n"] {
        all.push(format!("GET /load HTTP/1.0\r\nConnection: keep-alive\r\n{fields}\r\n").into_bytes());
    }
    for fields in [
        "X: y\r\n".repeat(90),
        "X: y\r\n".repeat(200),
        format!("X: {}\r\n", "y".repeat(12_000)),
        format!("X: {}\r\n", "y".repeat(17_000)),
        format!("X: {}\r\n", "y".repeat(9000)).repeat(3),
        format!("{}: y\r\n", "x".repeat(9000)),
    ] {
        all.push(format!("GET /load HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes());
    }
    for length in [3000, 4090, 5000, 17_000] {
        all.push(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(length)).into_bytes());
    }
    all
}

/// Good messages with some bytes changed, left out, doubled or put in: mostly those that mean something.
pub fn damaged(count: usize, seed: u64) -> impl Iterator<Item = Vec<u8>> {
    const PIECES: &[&str] = &[
        "\r",
        "\n",
        "\r\n",
        "\r\n\r\n",
        "\n\n",
        " ",
        "\t",
        ":",
        ";",
        ",",
        "0",
        "1",
        "5",
        "a",
        "-",
        "+",
        "x",
        "\0",
        "\u{b}",
        "\u{7f}",
        "/",
        "\"",
        "=",
        "0\r\n\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "chunked",
        "HTTP/1.1",
        "HTTP/1.0",
        "Host: a\r\n",
        "GET /load HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    let good = good();
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(move |number| {
        let mut message = good[number % good.len()].clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..message.len());
            let piece = PIECES[random.usize(..PIECES.len())].bytes();
            match random.u8(..5) {
                0 => drop(message.splice(at..=at, piece)),
                1 => drop(message.splice(at..at, piece)),
                2 => drop(message.remove(at)),
                3 => drop(message.drain(at..(at + random.usize(1..20)).min(message.len() - 1))),
                _ => message.extend_from_within(at..(at + 40).min(message.len())),
            }
        }
        message
    })
}
