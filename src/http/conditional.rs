//! Preconditions and ranges of a GET (RFC 9110, sections 13 and 14): what of a representation is asked for. Pure functions.

use std::ops::Range;

use super::Request;

/// The fields of a request that say what it wants, taken along to where that is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditions {
    if_none_match: Option<String>,
    if_range: Option<String>,
    range: Option<String>,
}

/// The bytes that a request asks for, before their number is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// `bytes=7-` and `bytes=7-9`.
    From {
        /// The first one, counted from 0.
        first: u64,
        /// The last one, itself included; none: to the end.
        last: Option<u64>,
    },
    /// `bytes=-7`: so many at the end.
    Last(u64),
}

impl Conditions {
    /// Those of a request. A range is defined for GET alone, not for HEAD (section 14.2).
    pub fn of(request: &Request<'_, '_>) -> Self {
        let owned = |name| request.fields.get(name).map(str::to_owned);
        let range = owned("range").filter(|_| !request.is_head);
        Self { if_none_match: owned("if-none-match"), if_range: owned("if-range"), range }
    }

    /// Whether the caller has this representation already: then the answer is 304. By the weak comparison (section 13.1.2).
    pub fn has(&self, etag: &str) -> bool {
        let Some(list) = &self.if_none_match else { return false };
        list.trim() == "*" || tags(list).any(|tag| opaque(tag) == opaque(etag))
    }

    /// The range that is asked for, where there is one that applies. One that cannot be understood, or several, are none: the
    /// answer is all then (section 14.2). So it is where If-Range names another representation, or is a date: a file may change
    /// more than once in a second, so a date is no strong validator (section 13.1.5).
    pub fn range(&self, etag: &str) -> Option<ByteRange> {
        let is_same = |tag: &String| tag == etag && !etag.starts_with("W/");
        if !self.if_range.as_ref().is_none_or(is_same) {
            return None;
        }
        ByteRange::parse(self.range.as_deref()?)
    }
}

impl ByteRange {
    fn parse(value: &str) -> Option<Self> {
        let (unit, set) = value.split_once('=')?;
        let (first, last) = set.trim().split_once('-')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            // More than any file has.
            is_number.then(|| text.parse().unwrap_or(u64::MAX))
        };
        match (first, last) {
            ("", last) => number(last).map(Self::Last),
            (first, "") => number(first).map(|first| Self::From { first, last: None }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From { first, last: Some(last) })
            }
        }
    }

    /// Which bytes of `length` these are; `None` if there are none of them: then the answer is 416.
    pub fn of(self, length: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::From { first, last } => {
                first..last.map_or(length, |last| last.saturating_add(1).min(length))
            }
            Self::Last(count) => length.saturating_sub(count)..length,
        };
        (range.start < range.end).then_some(range)
    }
}

/// The members of a list of entity tags. A tag may hold a comma.
fn tags(list: &str) -> impl Iterator<Item = &str> {
    let mut rest = list;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([',', ' ', '\t']);
        let opening = if rest.starts_with("W/") { 3 } else { 1 };
        let length = rest.get(opening..)?.find('"')? + opening + 1;
        let (tag, after) = rest.split_at(length);
        rest = after;
        Some(tag)
    })
}

fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(range: &str, if_range: Option<&str>) -> Conditions {
        let owned = str::to_owned;
        Conditions { if_none_match: None, if_range: if_range.map(owned), range: Some(owned(range)) }
    }

    #[test]
    fn a_range_is_cut_to_what_there_is() {
        for (text, length, range) in [
            ("bytes=0-", 10, Some(0..10)),
            ("bytes=3-5", 10, Some(3..6)),
            ("Bytes = 3-99", 10, Some(3..10)),
            ("bytes=-3", 10, Some(7..10)),
            ("bytes=-99", 10, Some(0..10)),
            ("bytes=9-9", 10, Some(9..10)),
            ("bytes=10-", 10, None),
            ("bytes=-0", 10, None),
            ("bytes=0-", 0, None),
            ("bytes=5-99999999999999999999999", 10, Some(5..10)),
            ("bytes=99999999999999999999999-", 10, None),
        ] {
            let asked = asks(text, None).range("\"a\"").expect(text);
            assert_eq!(asked.of(length), range, "{text} of {length}");
        }
    }

    #[test]
    fn what_is_no_single_range_is_all() {
        for text in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-",
            "bytes=5-3",
            "bytes=0-1,3-4",
            "lines=0-1",
            "bytes=+1-",
            "bytes=1-2-3",
        ] {
            assert_eq!(asks(text, None).range("\"a\""), None, "{text}");
        }
    }

    #[test]
    fn if_range_must_name_the_same_representation_strongly() {
        let applies = |if_range, etag| asks("bytes=1-", Some(if_range)).range(etag).is_some();
        assert!(applies("\"a\"", "\"a\""));
        assert!(!applies("\"b\"", "\"a\""));
        assert!(!applies("W/\"a\"", "W/\"a\""));
        assert!(!applies("W/\"a\"", "\"a\""));
        assert!(!applies("Tue, 24 Nov 2026 04:10:00 GMT", "\"a\""));
    }

    #[test]
    fn who_has_it_already_names_its_tag_in_a_list() {
        let has = |list: &str, etag| {
            Conditions { if_none_match: Some(list.to_owned()), ..Conditions::default() }.has(etag)
        };
        for list in ["\"a\"", "W/\"a\"", "\"b\", \"a\"", "\"x,y\" ,W/\"a\"", "*", " * "] {
            assert!(has(list, "\"a\"") && has(list, "W/\"a\""), "{list}");
        }
        for list in ["", "\"b\"", "a", "\"a", "\"b,a\"", "W/", "\"", ","] {
            assert!(!has(list, "\"a\""), "{list}");
        }
        assert!(!Conditions::default().has("\"a\""));
    }
}
