//! The boundary of a multipart/form-data body, out of the request's Content-Type.
//! Only that parameter is looked at; the body itself is read in `parts`.

use thiserror::Error;

use super::params::{Params, Value, unquote};

/// RFC 2046 section 5.1.1: "no longer than 70 characters".
const LIMIT_CHARS: usize = 70;

/// Why a Content-Type names no boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BoundaryError {
    /// Another media type, which asks for another answer than a bad boundary does.
    #[error("the Content-Type is not multipart/form-data; send the payload's files as such a form")]
    NotFormData,
    /// None, several, or one that cannot be a boundary.
    #[error(
        "the Content-Type has no usable boundary; send multipart/form-data; boundary=<1 to 70 printable characters>"
    )]
    NoBoundary,
}

impl BoundaryError {
    /// A word for programs, which stays as it is when a message is reworded.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotFormData => "not_multipart",
            Self::NoBoundary => "bad_boundary",
        }
    }
}

/// The boundary parameter of a Content-Type value (RFC 9110 section 8.3.1, RFC 2046 section 5.1.1).
pub fn boundary(content_type: &str) -> Result<String, BoundaryError> {
    let (media_type, params) = Params::split(content_type.as_bytes());
    if !media_type.eq_ignore_ascii_case(b"multipart/form-data") {
        return Err(BoundaryError::NotFormData);
    }
    let mut found = None;
    for param in params {
        let param = param.map_err(|_| BoundaryError::NoBoundary)?;
        if !param.name.eq_ignore_ascii_case("boundary") {
            continue;
        }
        let value = match param.value {
            Value::Plain(value) => value.into(),
            Value::Quoted(value) => unquote(value),
        };
        if found.replace(value).is_some() {
            return Err(BoundaryError::NoBoundary);
        }
    }
    let value = found.ok_or(BoundaryError::NoBoundary)?;
    // RFC 2046 allows fewer characters ("*****", seen from Android apps, is not among them), but what matters to the parser
    // is that no line end is inside and that transport padding cannot be taken for its end.
    let printable = value.iter().all(|byte| matches!(byte, b' '..=b'~'));
    if value.is_empty() || value.len() > LIMIT_CHARS || !printable || value.ends_with(b" ") {
        return Err(BoundaryError::NoBoundary);
    }
    String::from_utf8(value.into_owned()).map_err(|_| BoundaryError::NoBoundary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_of_real_senders_are_found() {
        let seventy = "x".repeat(70);
        for (content_type, expected) in [
            // curl, Firefox, Chrome, python-requests, JavaMail, Android snippets
            (
                "multipart/form-data; boundary=------------------------d74496d66958873e",
                "------------------------d74496d66958873e",
            ),
            ("multipart/form-data; boundary=----geckoformboundary5ab", "----geckoformboundary5ab"),
            ("multipart/form-data; boundary=----WebKitFormBoundaryAbC0", "----WebKitFormBoundaryAbC0"),
            ("multipart/form-data; boundary=0a1b", "0a1b"),
            ("multipart/form-data; boundary=\"----=_Part_1_12.34\"", "----=_Part_1_12.34"),
            ("multipart/form-data; boundary=----=_Part_1_12.34", "----=_Part_1_12.34"),
            ("multipart/form-data;boundary=*****", "*****"),
            ("Multipart/Form-Data ; charset=utf-8 ; BOUNDARY = \"a b\" ;", "a b"),
            ("multipart/form-data; boundary=\"a\\\"b\"", "a\"b"),
            (&format!("multipart/form-data; boundary={seventy}"), &seventy),
        ] {
            assert_eq!(boundary(content_type).as_deref(), Ok(expected), "{content_type}");
        }
    }

    #[test]
    fn another_media_type_is_told_from_a_bad_boundary() {
        let long = format!("multipart/form-data; boundary={}", "x".repeat(71));
        for (content_type, expected) in [
            ("", BoundaryError::NotFormData),
            ("application/json", BoundaryError::NotFormData),
            ("multipart/mixed; boundary=x", BoundaryError::NotFormData),
            ("multipart/form-data-x; boundary=x", BoundaryError::NotFormData),
            ("boundary=x", BoundaryError::NotFormData),
            ("multipart/form-data", BoundaryError::NoBoundary),
            ("multipart/form-data; charset=utf-8", BoundaryError::NoBoundary),
            ("multipart/form-data; boundary", BoundaryError::NoBoundary),
            ("multipart/form-data; boundary=", BoundaryError::NoBoundary),
            ("multipart/form-data; boundary=\"\"", BoundaryError::NoBoundary),
            ("multipart/form-data; boundary=\"x", BoundaryError::NoBoundary),
            ("multipart/form-data; boundary=\"x \"", BoundaryError::NoBoundary),
            ("multipart/form-data; boundary=\"x\r\ny\"", BoundaryError::NoBoundary),
            ("multipart/form-data; boundary=\u{e9}", BoundaryError::NoBoundary),
            ("multipart/form-data; boundary=a; boundary=b", BoundaryError::NoBoundary),
            (long.as_str(), BoundaryError::NoBoundary),
        ] {
            assert_eq!(boundary(content_type), Err(expected), "{content_type}");
        }
    }
}
