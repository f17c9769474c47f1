//! A part's Content-Disposition: which field and file names it gives, in all the spellings that senders have.
//! Decodes names and judges the header; which of the names becomes a path, and which paths are fit, is known in `part_path`.

use std::borrow::Cow;

use percent_encoding::percent_decode;
use thiserror::Error;

use super::params::{Params, Value};

/// The names of a part.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Disposition<'a> {
    /// `name`, or `name*` where that is there.
    pub name: Option<Cow<'a, str>>,
    /// `filename`, or `filename*` where that is there.
    pub file_name: Option<Cow<'a, str>>,
}

/// What is wrong with a Content-Disposition header; reads on from the header's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeaderFault {
    /// The part has no such header, or one without a type.
    #[error("is missing or empty")]
    Missing,
    /// A type that a form has no use for.
    #[error("is not of type form-data")]
    NotFormData,
    /// Not a type and parameters.
    #[error("has a parameter that is not name=value, or a quote that is not closed")]
    Syntax,
    /// Which of the two counts is anyone's guess, so neither does.
    #[error("gives a parameter twice")]
    Repeated,
    /// RFC 2231 continuations, which RFC 7578 and RFC 6266 leave out. Ignored, the file would silently be lost.
    #[error("cuts a name into numbered pieces, which forms do not do")]
    Continued,
    /// An extended value that RFC 8187 does not know.
    #[error("has an extended value that is not UTF-8'' or ISO-8859-1'' and percent-encoded")]
    Extended,
    /// The decoded bytes are no text.
    #[error("has a name that is not UTF-8")]
    NotUtf8,
}

/// How a parameter's value is written.
#[derive(Clone, Copy)]
enum Form {
    /// `name`
    Plain,
    /// `name*`
    Extended,
}

impl<'a> Disposition<'a> {
    /// Parses a header value by RFC 7578 section 4.2 and the grammar of RFC 6266 section 4.1.
    pub fn parse(header: &'a [u8]) -> Result<Self, HeaderFault> {
        let (kind, params) = Params::split(header);
        if kind.is_empty() {
            return Err(HeaderFault::Missing);
        }
        if !kind.eq_ignore_ascii_case(b"form-data") {
            return Err(HeaderFault::NotFormData);
        }
        // Plain and extended spelling of each name.
        let (mut name, mut file_name) = ([None, None], [None, None]);
        for param in params {
            let param = param.map_err(|_| HeaderFault::Syntax)?;
            let (names, form) = match &*param.name.to_ascii_lowercase() {
                "name" => (&mut name, Form::Plain),
                "name*" => (&mut name, Form::Extended),
                "filename" => (&mut file_name, Form::Plain),
                "filename*" => (&mut file_name, Form::Extended),
                other if other.starts_with("name*") || other.starts_with("filename*") => {
                    return Err(HeaderFault::Continued);
                }
                _ => continue,
            };
            let text = match form {
                Form::Plain => plain(&param.value)?,
                Form::Extended => extended(&param.value)?.into(),
            };
            if names[form as usize].replace(text).is_some() {
                return Err(HeaderFault::Repeated);
            }
        }
        // RFC 6266 section 4.3: the extended value is preferred where both are there.
        let prefer = |[plain, extended]: [Option<_>; 2]| extended.or(plain);
        Ok(Self { name: prefer(name), file_name: prefer(file_name) })
    }
}

/// The text of a plain parameter.
fn plain<'a>(value: &Value<'a>) -> Result<Cow<'a, str>, HeaderFault> {
    let bytes = match *value {
        Value::Plain(bytes) => Cow::Borrowed(bytes),
        Value::Quoted(bytes) => unescape(bytes),
    };
    match bytes {
        Cow::Borrowed(bytes) => str::from_utf8(bytes).map(Cow::Borrowed).ok(),
        Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).ok(),
    }
    .ok_or(HeaderFault::NotUtf8)
}

/// Undoes the escapes of a quoted name.
///
/// Two kinds of senders have to be understood. Those that follow RFC 2183 write `\"` and `\\` (curl before 7.81, reqwest).
/// Those that follow the WHATWG form encoding (browsers, curl since 7.81, urllib3 since 2.0) write `%22`, `%0D` and `%0A`, and
/// leave every backslash as it is. So a backslash counts as an escape before a quote or a backslash only, which also spares
/// the `C:\new` of old browsers, and of the percent codes only those three are decoded: a literal `%41` stays what it was.
fn unescape(quoted: &[u8]) -> Cow<'_, [u8]> {
    if !quoted.iter().any(|byte| matches!(byte, b'\\' | b'%')) {
        return Cow::Borrowed(quoted);
    }
    let mut plain = Vec::with_capacity(quoted.len());
    let mut rest = quoted;
    while let [first, tail @ ..] = rest {
        let (byte, length) = match rest {
            [b'\\', escaped @ (b'"' | b'\\'), ..] => (*escaped, 2),
            [b'%', b'2', b'2', ..] => (b'"', 3),
            [b'%', b'0', b'D', ..] => (b'\r', 3),
            [b'%', b'0', b'A', ..] => (b'\n', 3),
            _ => (*first, 1),
        };
        plain.push(byte);
        rest = &tail[length - 1..];
    }
    Cow::Owned(plain)
}

/// The text of an extended parameter: `charset'language'percent-encoded` (RFC 8187 section 3.2).
fn extended(value: &Value) -> Result<String, HeaderFault> {
    // Quotes are against the grammar, but some senders put them, and nothing inside needs an escape.
    let (Value::Plain(bytes) | Value::Quoted(bytes)) = *value;
    let mut pieces = bytes.splitn(3, |byte| *byte == b'\'');
    let (Some(charset), Some(_language), Some(encoded)) = (pieces.next(), pieces.next(), pieces.next())
    else {
        return Err(HeaderFault::Extended);
    };
    if !is_percent_encoded(encoded) {
        return Err(HeaderFault::Extended);
    }
    let decoded = percent_decode(encoded);
    if charset.eq_ignore_ascii_case(b"utf-8") {
        String::from_utf8(decoded.collect()).map_err(|_| HeaderFault::NotUtf8)
    } else if charset.eq_ignore_ascii_case(b"iso-8859-1") {
        // Latin-1 is the first 256 code points of Unicode.
        Ok(decoded.map(char::from).collect())
    } else {
        Err(HeaderFault::Extended)
    }
}

/// Whether each `%` starts a code, and the rest is ASCII. `percent_decode` would let a broken code stand as it is.
fn is_percent_encoded(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    loop {
        rest = match rest {
            [] => return true,
            [b'%', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => tail,
            [b'%', ..] => return false,
            [byte, tail @ ..] if byte.is_ascii() => tail,
            _ => return false,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Header value, field name, file name.
    type Row<'a> = (&'a str, Option<&'a str>, Option<&'a str>);

    fn check(rows: &[Row]) {
        for (header, name, file_name) in rows {
            let expected = Disposition { name: name.map(Cow::from), file_name: file_name.map(Cow::from) };
            assert_eq!(Disposition::parse(header.as_bytes()), Ok(expected), "{header}");
        }
    }

    #[test]
    fn names_of_real_senders_are_understood() {
        check(&[
            // curl before 7.81: backslash escapes
            (r#"form-data; name="file"; filename="run.sh""#, Some("file"), Some("run.sh")),
            (r#"form-data; name="file"; filename="a\"b\\c.txt""#, Some("file"), Some(r#"a"b\c.txt"#)),
            // curl since 7.81, browsers, urllib3 2: WHATWG escapes, raw UTF-8, raw backslashes
            (r#"form-data; name="file"; filename="a%22b\c.txt""#, Some("file"), Some(r#"a"b\c.txt"#)),
            (r#"form-data; name="a%0D%0Ab"; filename="c%0Ad""#, Some("a\r\nb"), Some("c\nd")),
            (
                "form-data; name=\"file\"; filename=\"in put \u{e9}.txt\"",
                Some("file"),
                Some("in put \u{e9}.txt"),
            ),
            // an old browser's full path
            (
                r#"form-data; name="file"; filename="C:\new\table.txt""#,
                Some("file"),
                Some(r"C:\new\table.txt"),
            ),
            // reqwest 0.11 and 0.12, in server 1.4 and 2.x: an extended field name, a raw file name
            (
                "form-data; name*=utf-8''in%20put%20%C3%A9.txt; filename=\"in put \u{e9}.txt\"",
                Some("in put \u{e9}.txt"),
                Some("in put \u{e9}.txt"),
            ),
            ("form-data; name*=utf-8''sub%2Fa.txt; filename=\"a.txt\"", Some("sub/a.txt"), Some("a.txt")),
            (r#"form-data; name="run.sh"; filename="a\\b\"c""#, Some("run.sh"), Some(r#"a\b"c"#)),
            // python-requests on urllib3 1.x: an extended file name, no plain one
            (
                "form-data; name=\"file\"; filename*=utf-8''%C3%A9t%C3%A9.sh",
                Some("file"),
                Some("\u{e9}t\u{e9}.sh"),
            ),
            // Go's mime/multipart, undici
            (r#"form-data; name="file"; filename="a b.txt""#, Some("file"), Some("a b.txt")),
            (r#"form-data; name="user_id""#, Some("user_id"), None),
        ]);
    }

    #[test]
    fn the_grammar_is_followed_in_any_order_and_case() {
        check(&[
            ("form-data", None, None),
            ("FORM-DATA; NAME=a; FileName=b", Some("a"), Some("b")),
            ("form-data;filename=b;name=a", Some("a"), Some("b")),
            ("form-data; filename=\"\"; name=\"\"", Some(""), Some("")),
            // the extended value wins, wherever it stands
            ("form-data; filename=\"e.txt\"; filename*=UTF-8''%C3%A9.txt", None, Some("\u{e9}.txt")),
            ("form-data; filename*=UTF-8'en'%C3%A9.txt; filename=\"e.txt\"", None, Some("\u{e9}.txt")),
            ("form-data; filename*=\"UTF-8''%C3%A9.txt\"", None, Some("\u{e9}.txt")),
            ("form-data; filename*=iso-8859-1''%E9.txt", None, Some("\u{e9}.txt")),
            ("form-data; filename*=utf-8''it's", None, Some("it's")),
            ("form-data; filename*=utf-8''a%00b", None, Some("a\0b")),
            ("form-data; filename*=utf-8''", None, Some("")),
            // a name inside another parameter's value is not a name
            ("form-data; x=\"; filename=a\"; name=b", Some("b"), None),
            ("form-data; xfilename=a; filenamex=b; name=c", Some("c"), None),
            // percent codes other than the three stay, and so do those outside quotes
            (r#"form-data; filename="%41%2F%0d%5C%2""#, None, Some("%41%2F%0d%5C%2")),
            ("form-data; filename=a%22b", None, Some("a%22b")),
            // one pass: what an escape gives is not looked at again
            (r#"form-data; filename="\\%22\\\"""#, None, Some(r#"\"\""#)),
            (r#"form-data; filename="%%22""#, None, Some(r#"%""#)),
        ]);
    }

    #[test]
    fn a_header_that_cannot_be_understood_says_why() {
        for (header, fault) in [
            (&b""[..], HeaderFault::Missing),
            (b"; name=a", HeaderFault::Missing),
            (b"attachment; filename=a", HeaderFault::NotFormData),
            (b"form-data; filename=\"a", HeaderFault::Syntax),
            (b"form-data; filename=\"a\"b\"", HeaderFault::Syntax),
            (b"form-data; filename", HeaderFault::Syntax),
            (b"form-data; filename=a; filename=b", HeaderFault::Repeated),
            (b"form-data; filename=a; FILENAME=a", HeaderFault::Repeated),
            (b"form-data; name*=utf-8''a; name*=utf-8''b", HeaderFault::Repeated),
            (b"form-data; filename*0=a; filename*1=b", HeaderFault::Continued),
            (b"form-data; filename*0*=utf-8''a", HeaderFault::Continued),
            (b"form-data; filename*=a.txt", HeaderFault::Extended),
            (b"form-data; filename*=utf-8'a.txt", HeaderFault::Extended),
            (b"form-data; filename*=koi8-r''a.txt", HeaderFault::Extended),
            (b"form-data; filename*=''a.txt", HeaderFault::Extended),
            (b"form-data; filename*=utf-8''a%", HeaderFault::Extended),
            (b"form-data; filename*=utf-8''a%2", HeaderFault::Extended),
            (b"form-data; filename*=utf-8''a%2x", HeaderFault::Extended),
            (b"form-data; filename*=utf-8''\xc3\xa9", HeaderFault::Extended),
            (b"form-data; filename*=utf-8''%E9", HeaderFault::NotUtf8),
            (b"form-data; filename=\"\xe9.txt\"", HeaderFault::NotUtf8),
            (b"form-data; filename=\"%22\xe9.txt\"", HeaderFault::NotUtf8),
            (b"form-data; filename=\xe9.txt", HeaderFault::NotUtf8),
        ] {
            assert_eq!(Disposition::parse(header), Err(fault), "{}", header.escape_ascii());
        }
    }
}
