//! `Idempotency-Key` of `POST /submit`: the same key gives the same payload again, so that a sender which got no answer can send
//! again without a payload run twice (draft-ietf-httpapi-idempotency-key-header-07). The key stands in the payload's record.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Api, RETRY_AFTER_S};
use crate::http::{HttpError, Request};
use crate::payload::Payload;

/// The longest key, in bytes: it has to fit in a record.
const MAX_KEY_BYTES: usize = 255;

/// The keys of uploads that are under way; cheap to clone.
#[derive(Clone, Default)]
pub struct Keys(Arc<Mutex<BTreeSet<String>>>);

/// What a request with a key is.
pub(super) enum Sent {
    /// The first one, or one without a key.
    New(Option<UnderWay>),
    /// Its payload has been taken.
    Again(Box<Payload>),
}

/// An upload with a key: until this is dropped, no other one with it is taken.
pub(super) struct UnderWay {
    keys: Keys,
    /// The key.
    pub(super) key: String,
}

/// What a request is by its key.
pub(super) fn look(api: &Api, request: &Request<'_, '_>) -> Result<Sent, HttpError> {
    let Some(value) = request.fields.get("idempotency-key") else { return Ok(Sent::New(None)) };
    let key = parse(value).ok_or_else(bad_key)?;
    // Held over the look into the store: a payload is there before its upload is over.
    let mut under_way = api.keys.lock();
    if under_way.contains(&key) {
        return Err(in_use());
    }
    if let Some(payload) = api.store.by_key(&key)? {
        return Ok(Sent::Again(payload));
    }
    under_way.insert(key.clone());
    Ok(Sent::New(Some(UnderWay { keys: api.keys.clone(), key })))
}

impl Keys {
    /// Held for a few instructions and a look into the store, never while waiting.
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.keys.lock().remove(&self.key);
    }
}

/// The draft wants a string in quotes (RFC 8941, section 3.3.3). Many send it bare, which is the same key.
fn parse(value: &str) -> Option<String> {
    let key = match value.strip_prefix('"') {
        Some(quoted) => unquoted(quoted)?,
        None if value.bytes().all(|byte| byte.is_ascii_graphic() && !b"\",;\\".contains(&byte)) => {
            value.to_owned()
        }
        None => return None,
    };
    (1..=MAX_KEY_BYTES).contains(&key.len()).then_some(key)
}

/// The string whose opening quote has been read.
fn unquoted(quoted: &str) -> Option<String> {
    let mut key = String::new();
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' => return chars.as_str().is_empty().then_some(key),
            '\\' => key.push(chars.next().filter(|escaped| matches!(escaped, '"' | '\\'))?),
            plain @ ' '..='~' => key.push(plain),
            _ => return None,
        }
    }
}

fn bad_key() -> HttpError {
    HttpError::bad_request(format!(
        "Idempotency-Key takes one string of 1 to {MAX_KEY_BYTES} printable ASCII characters, best in double quotes."
    ))
}

fn in_use() -> HttpError {
    let message =
        "An upload with this Idempotency-Key is being received; send it again when that one is over.";
    HttpError::new(409, "key_in_use", message).retry_after(RETRY_AFTER_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_string_with_quotes_or_without() {
        for (value, key) in [
            ("\"8e03978e-40d5\"", "8e03978e-40d5"),
            ("8e03978e-40d5", "8e03978e-40d5"),
            ("\"a b, \\\"c\\\\\"", "a b, \"c\\"),
        ] {
            assert_eq!(parse(value).as_deref(), Some(key), "{value}");
        }
        let most = "k".repeat(MAX_KEY_BYTES);
        assert_eq!(parse(&most), Some(most.clone()));
        for bad in [
            "",
            "\"\"",
            "\"",
            "\"a",
            "a\"",
            "\"a\" ",
            "\"a\", \"b\"",
            "a, b",
            "a b",
            "\"a\\b\"",
            "\"\u{e9}\"",
            "\u{e9}",
            "\"a\";b=c",
            &format!("{most}k"),
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
