//! What a name is called in the archive. ZIP names are UTF-8 here, or ASCII; Linux names are any bytes. Readers in Java refuse the
//! whole archive for one name that is not UTF-8, whether its flag says that it is or not.

use std::borrow::Cow;

/// The name as it is, or, where a part of the path is not UTF-8, with `%XX` in that part for each byte that is not, and `%25` for
/// each `%`: two parts that differ still do.
pub(super) fn zip_name(name: &[u8]) -> Cow<'_, [u8]> {
    if std::str::from_utf8(name).is_ok() {
        return Cow::Borrowed(name);
    }
    let parts: Vec<_> = name.split(|byte| *byte == b'/').map(part).collect();
    Cow::Owned(parts.join(&b'/'))
}

fn part(part: &[u8]) -> Cow<'_, [u8]> {
    if std::str::from_utf8(part).is_ok() {
        return Cow::Borrowed(part);
    }
    let mut escaped = Vec::new();
    for chunk in part.utf8_chunks() {
        escaped.extend_from_slice(chunk.valid().replace('%', "%25").as_bytes());
        for byte in chunk.invalid() {
            escaped.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parts_that_are_not_utf_8_are_told_otherwise() {
        for (name, told) in [
            (&b"plain/100%"[..], &b"plain/100%"[..]),
            ("caf\u{e9}/".as_bytes(), "caf\u{e9}/".as_bytes()),
            (b"latin-\xe9", b"latin-%E9"),
            (b"50%/a\xff%\xfe/b", b"50%/a%FF%25%FE/b"),
            ("\u{fffd}".as_bytes(), "\u{fffd}".as_bytes()),
            (b"\xc3", b"%C3"),
        ] {
            assert_eq!(*zip_name(name), *told, "{}", name.escape_ascii());
        }
    }
}
