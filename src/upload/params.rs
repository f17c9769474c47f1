//! The grammar that Content-Type and Content-Disposition share: a word, then `;`-separated `name=value` parameters.
//! Cuts a header value into borrowed slices and resolves quoted-pairs; what a parameter means is known in the files that ask.

use std::borrow::Cow;

/// The header value is not a word and parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotParams;

/// One parameter, as it stands in the header.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Param<'a> {
    /// In the sender's case.
    pub name: &'a str,
    /// Still escaped.
    pub value: Value<'a>,
}

/// A parameter's value, as it stands in the header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// Without quotes.
    Plain(&'a [u8]),
    /// What stood between the quotes, with its escapes.
    Quoted(&'a [u8]),
}

/// The parameters of a header value, in their order. Ends after the first error.
pub(super) struct Params<'a> {
    rest: &'a [u8],
}

impl<'a> Params<'a> {
    /// The word before the parameters, and them.
    pub fn split(header: &'a [u8]) -> (&'a [u8], Self) {
        let end = position(header, b';').unwrap_or(header.len());
        let (word, rest) = header.split_at(end);
        (word.trim_ascii(), Self { rest })
    }

    /// The parameter that `rest`, which is not empty, starts with; `rest` moves behind it.
    fn take(&mut self) -> Result<Param<'a>, NotParams> {
        let equals = position(self.rest, b'=').ok_or(NotParams)?;
        let name = self.rest[..equals].trim_ascii();
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return Err(NotParams);
        }
        let name = str::from_utf8(name).map_err(|_| NotParams)?;
        let after = self.rest[equals + 1..].trim_ascii_start();
        let (value, rest) = match after {
            [b'"', quoted @ ..] => {
                let end = closing_quote(quoted).ok_or(NotParams)?;
                (Value::Quoted(&quoted[..end]), quoted[end + 1..].trim_ascii_start())
            }
            // Senders that do not quote do not keep to tokens either: take all up to the next parameter.
            plain => {
                let end = position(plain, b';').unwrap_or(plain.len());
                (Value::Plain(plain[..end].trim_ascii_end()), &plain[end..])
            }
        };
        match rest {
            [] | [b';', ..] => self.rest = rest,
            _ => return Err(NotParams),
        }
        Ok(Param { name, value })
    }
}

impl<'a> Iterator for Params<'a> {
    type Item = Result<Param<'a>, NotParams>;

    fn next(&mut self) -> Option<Self::Item> {
        // RFC 9110 section 5.6.6 lets parameters be empty.
        while let [b' ' | b'\t' | b';', rest @ ..] = self.rest {
            self.rest = rest;
        }
        if self.rest.is_empty() {
            return None;
        }
        let param = self.take();
        if param.is_err() {
            self.rest = &[];
        }
        Some(param)
    }
}

/// Resolves the quoted-pairs of RFC 9110 section 5.6.4: `\x` is `x`, whatever `x` is.
pub(super) fn unquote(quoted: &[u8]) -> Cow<'_, [u8]> {
    if !quoted.contains(&b'\\') {
        return Cow::Borrowed(quoted);
    }
    let mut plain = Vec::with_capacity(quoted.len());
    let mut bytes = quoted.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => plain.extend(bytes.next()),
            byte => plain.push(byte),
        }
    }
    Cow::Owned(plain)
}

/// Where the quote stands that ends a quoted string, whose first quote is cut off.
fn closing_quote(quoted: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match quoted.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn position(bytes: &[u8], wanted: u8) -> Option<usize> {
    bytes.iter().position(|byte| *byte == wanted)
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(header: &str) -> (String, Result<Vec<(String, String)>, NotParams>) {
        let (word, params) = Params::split(header.as_bytes());
        let params = params
            .map(|param| {
                param.map(|param| {
                    let value = match param.value {
                        Value::Plain(value) => String::from_utf8_lossy(value).into_owned(),
                        Value::Quoted(value) => format!("<{}>", String::from_utf8_lossy(value)),
                    };
                    (param.name.to_owned(), value)
                })
            })
            .collect();
        (String::from_utf8_lossy(word).into_owned(), params)
    }

    #[test]
    fn parameters_come_apart_at_semicolons_outside_quotes_only() {
        for (header, word, expected) in [
            ("form-data", "form-data", vec![]),
            ("form-data;", "form-data", vec![]),
            ("", "", vec![]),
            (" a ; b=c", "a", vec![("b", "c")]),
            ("a;b=c;d=e", "a", vec![("b", "c"), ("d", "e")]),
            ("a;;; b = c ;\td=e ; ", "a", vec![("b", "c"), ("d", "e")]),
            (r#"a; b="c;d=e"; f=g"#, "a", vec![("b", "<c;d=e>"), ("f", "g")]),
            (r#"a; b="c\";d"; f=g"#, "a", vec![("b", r#"<c\";d>"#), ("f", "g")]),
            (r#"a; b="c\\"; f=g"#, "a", vec![("b", r"<c\\>"), ("f", "g")]),
            (r#"a; b="""#, "a", vec![("b", "<>")]),
            ("a; b=", "a", vec![("b", "")]),
            ("a; b=; c=d", "a", vec![("b", ""), ("c", "d")]),
            ("a; b=c d; e=f=g", "a", vec![("b", "c d"), ("e", "f=g")]),
            ("a; b*=utf-8''%e2", "a", vec![("b*", "utf-8''%e2")]),
        ] {
            let expected =
                expected.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            assert_eq!(all(header), (word.to_owned(), Ok(expected)), "{header}");
        }
    }

    #[test]
    fn what_is_no_parameter_is_an_error() {
        for header in [
            "a; b",
            "a; =c",
            "a; b c=d",
            "a; b;c=d",
            "a; \"b\"=c",
            "a; b=\"c",
            r#"a; b="c\""#,
            r#"a; b="c\"#,
            r#"a; b="c"d"#,
            r#"a; b="c" d=e"#,
            "a; \u{e9}=c",
        ] {
            assert_eq!(all(header).1, Err(NotParams), "{header}");
        }
    }

    #[test]
    fn quoted_pairs_stand_for_their_second_byte() {
        for (quoted, plain) in [("ab", "ab"), (r#"a\"b\\c\d"#, r#"a"b\cd"#), (r"a\", "a")] {
            assert_eq!(unquote(quoted.as_bytes()), plain.as_bytes());
        }
    }
}
