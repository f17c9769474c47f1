//! What a file of a payload is called to a browser: by its name alone, and never anything that would run there.

/// How a file is given.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// The value of Content-Type.
    pub(super) media_type: &'static str,
    /// Shown, not kept as a file.
    pub(super) is_shown: bool,
}

/// Read as text, whatever they are to others: no browser runs text/plain that may not be sniffed. `out`, `err` and `exit` are those
/// of `.orchestrator.`.
const TEXT: [&str; 21] = [
    "txt", "log", "out", "err", "exit", "md", "csv", "tsv", "json", "yaml", "yml", "toml", "ini", "conf",
    "cfg", "sh", "py", "pdb", "c", "h", "rs",
];

/// Pictures without a program in them, which SVG may have.
const IMAGES: [(&str, &str); 6] = [
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("gif", "image/gif"),
    ("webp", "image/webp"),
    ("bmp", "image/bmp"),
];

/// By the end of its name.
pub(super) fn of(name: &[u8]) -> Kind {
    let end = name.iter().rposition(|byte| *byte == b'.').map_or(&b""[..], |dot| &name[dot + 1..]);
    let is = |known: &str| end.eq_ignore_ascii_case(known.as_bytes());
    if TEXT.into_iter().any(is) {
        return Kind { media_type: "text/plain; charset=utf-8", is_shown: true };
    }
    match IMAGES.into_iter().find(|(known, _)| is(known)) {
        Some((_, media_type)) => Kind { media_type, is_shown: true },
        None => Kind { media_type: "application/octet-stream", is_shown: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_pictures_are_shown_and_nothing_else() {
        for name in ["a.txt", "A.TXT", ".orchestrator.out", "x.html.log"] {
            assert_eq!(of(name.as_bytes()).media_type, "text/plain; charset=utf-8", "{name}");
        }
        assert_eq!(of(b"x.PNG"), Kind { media_type: "image/png", is_shown: true });
        for name in [
            "a.html", "a.svg", "a.xml", "a.xhtml", "a.js", "a.pdf", "run", "", "a.", "txt", "a.txt\n",
            "a.txt ",
        ] {
            let kind = of(name.as_bytes());
            assert_eq!((kind.media_type, kind.is_shown), ("application/octet-stream", false), "{name}");
        }
    }
}
