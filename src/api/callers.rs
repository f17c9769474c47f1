//! Who may call: from which addresses (ALLOW_FROM), and with which token (TOKEN). What is refused here is refused before its body
//! is read.

use std::borrow::Cow;
use std::net::IpAddr;

use base64ct::{Base64, Encoding as _};

use super::Route;
use crate::event;
use crate::http::{HttpError, Request, Response};
use crate::log::Seldom;
use crate::settings::{Network, Token};

/// How a caller may show the token (RFC 9110, section 11.6.1).
const CHALLENGES: &str =
    "Bearer realm=\"job-orchestrator\", Basic realm=\"job-orchestrator\", charset=\"UTF-8\"";

/// The longest credentials that are looked at: a token, and a name before it, as Base64 writes them.
const MAX_CREDENTIALS_BYTES: usize = 4096;

/// Who may call.
pub struct Callers {
    /// From where; empty for anywhere.
    allow_from: Vec<Network>,
    token: Option<Token>,
    refused: Seldom,
}

impl Callers {
    /// Those of these networks, or all if there is none, who know the token, if there is one.
    pub fn new(allow_from: Vec<Network>, token: Option<Token>) -> Self {
        Self { allow_from, token, refused: Seldom::new() }
    }

    /// Whether this address is one of those.
    pub(super) fn are_at(&self, address: IpAddr) -> bool {
        self.allow_from.is_empty() || self.allow_from.iter().any(|network| network.contains(address))
    }

    /// The refusal of a request, if it is to be refused: `route` is where it leads.
    pub(super) fn refuse(&self, request: &Request<'_, '_>, route: Option<&Route<'_>>) -> Option<Response> {
        if matches!(route, Some(Route::Ping | Route::Health | Route::Ready)) {
            return None;
        }
        if let Some(address) = request.peer.address.filter(|_| !request.peer.is_known) {
            return Some(HttpError::stranger(address).into());
        }
        let token = self.token.as_ref()?;
        let given = request.authorization.and_then(given);
        if given.as_ref().is_some_and(|given| token.is(given)) {
            return None;
        }
        if let Some(refused) = self.refused.count() {
            event!(
                Warn,
                "requests refused: no token, or a wrong one",
                path = request.path,
                address = request.peer.address.map(|address| address.to_string()),
                refused = refused
            );
        }
        Some(Response::from(unauthorized(given.is_some())).header("WWW-Authenticate", CHALLENGES))
    }
}

fn unauthorized(has_wrong_one: bool) -> HttpError {
    let what =
        if has_wrong_one { "The token is not that of this client" } else { "This client wants a token" };
    let message = format!(
        "{what}; send the value of its setting TOKEN as Authorization: Bearer, or as the password of a URL \
         (http://any:TOKEN@host:port/)."
    );
    HttpError::new(401, "unauthorized", message)
}

/// What a caller has shown for a token: that of `Bearer` (RFC 6750, section 2.1), or the password of `Basic` (RFC 7617).
fn given(authorization: &[u8]) -> Option<Cow<'_, [u8]>> {
    let end = authorization.iter().position(|byte| *byte == b' ')?;
    let (scheme, rest) = authorization.split_at(end);
    let rest = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"Bearer") {
        return Some(rest.into());
    }
    if !scheme.eq_ignore_ascii_case(b"Basic") || rest.len() > MAX_CREDENTIALS_BYTES {
        return None;
    }
    let mut decoded = vec![0; rest.len()];
    let length = Base64::decode(rest, &mut decoded).ok()?.len();
    // A name has no colon; a password may.
    let colon = decoded[..length].iter().position(|byte| *byte == b':')?;
    Some(decoded[colon + 1..length].to_vec().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_that_of_bearer_or_the_password_of_basic() {
        for (authorization, token) in [
            ("Bearer s3cret", Some("s3cret")),
            ("bearer   s3cret ", Some("s3cret")),
            // any:s3cret
            ("Basic YW55OnMzY3JldA==", Some("s3cret")),
            ("BASIC YW55OnMzY3JldA==", Some("s3cret")),
            // :s3:cret
            ("Basic OnMzOmNyZXQ=", Some("s3:cret")),
            // any:
            ("Basic YW55Og==", Some("")),
            // any
            ("Basic YW55", None),
            ("Basic YW55OnMzY3JldA", None),
            ("Basic !!!!", None),
            ("Basic", None),
            ("Bearer", None),
            ("s3cret", None),
            ("Digest s3cret", None),
            ("", None),
        ] {
            let given = given(authorization.as_bytes());
            assert_eq!(given.as_deref(), token.map(str::as_bytes), "{authorization}");
        }
    }
}
