//! Lines as server-sent events (WHATWG HTML, section 9.2). A payload may print anything: nothing of it is taken for a field.

/// What keeps a connection alive that has nothing to tell: proxies end a silent one after a minute. A comment, which no reader sees.
pub const HEARTBEAT: &[u8] = b":\n\n";

/// Adds one line as an event, without its line end. `id` tells where to go on after it.
pub(super) fn add_line(stream: &mut Vec<u8>, event: &str, id: &str, line: &[u8]) {
    begin(stream, event, id);
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // A carriage return ends a line of the stream, too: what comes after it would be a field.
    for part in line.split(|byte| *byte == b'\r' || *byte == b'\n') {
        stream.extend_from_slice(b"data: ");
        stream.extend_from_slice(part);
        stream.push(b'\n');
    }
    stream.push(b'\n');
}

fn begin(stream: &mut Vec<u8>, event: &str, id: &str) {
    for part in ["event: ", event, "\nid: ", id, "\n"] {
        stream.extend_from_slice(part.as_bytes());
    }
}

/// How many bytes come before a character of UTF-8 whose end is missing: a reader of the stream would take each half of it for
/// rubbish.
pub(super) fn whole_characters(bytes: &[u8]) -> usize {
    // A character has four bytes at the most (RFC 3629, section 3).
    let start = bytes.iter().rev().take(4).position(|byte| byte & 0b1100_0000 != 0b1000_0000);
    let Some(back) = start else { return bytes.len() };
    let first = bytes.len() - 1 - back;
    let length = match bytes[first] {
        0b1100_0000..=0b1101_1111 => 2,
        0b1110_0000..=0b1110_1111 => 3,
        0b1111_0000..=0b1111_0111 => 4,
        _ => 1,
    };
    if first + length > bytes.len() { first } else { bytes.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(line: &[u8]) -> String {
        let mut stream = Vec::new();
        add_line(&mut stream, "stdout", "7", line);
        String::from_utf8(stream).expect("UTF-8")
    }

    #[test]
    fn a_line_is_an_event_whatever_is_in_it() {
        assert_eq!(event(b"hello\n"), "event: stdout\nid: 7\ndata: hello\n\n");
        assert_eq!(event(b"\n"), "event: stdout\nid: 7\ndata: \n\n");
        assert_eq!(event(b" x: y\r\n"), "event: stdout\nid: 7\ndata:  x: y\n\n");
        assert_eq!(
            event(b"50 %\rid: 9\r100 %"),
            "event: stdout\nid: 7\ndata: 50 %\ndata: id: 9\ndata: 100 %\n\n"
        );
    }

    #[test]
    fn no_character_is_cut() {
        let text = "aä€𝄞";
        let ends = [0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10];
        for (length, end) in ends.into_iter().enumerate() {
            assert_eq!(whole_characters(&text.as_bytes()[..length]), end, "{length}");
        }
        assert_eq!(whole_characters(&[0x80; 6]), 6);
        assert_eq!(whole_characters(&[0xff]), 1);
    }
}
