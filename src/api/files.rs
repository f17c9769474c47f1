//! `GET /payloads/{id}/files` and `GET /payloads/{id}/files/{path}`: what lies in a payload's directory, and one file of it.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use miniserde::Serialize;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use rustix::fs::Stat;
use rustix::io::Errno;

use super::results::Results;
use super::{Api, content_type, value_of};
use crate::archive::{Entry, Kind, Listing, Place};
use crate::clock::{now_ms, rfc3339};
use crate::data::directory;
use crate::event;
use crate::http::{Conditions, HttpError, Opened, Request, Response, Sink};
use crate::payload::{Payload, PayloadId};

/// How many entries a page has, and how long it may be: it is made in memory.
const DEFAULT_LIMIT: usize = 200;
const MAX_LIMIT: usize = 1000;
const MAX_PAGE_BYTES: usize = 256 * 1024;

/// What was changed so short a time ago may change again with the same times: those of inodes go in steps of 10 ms at the most, but on
/// file systems of others (vfat has two seconds).
const SETTLED_MS: i64 = 3000;

/// The list of what an archive had to leave out is the client's own; a payload's file of that name is in no archive.
const NEVER_GIVEN: &[u8] = b".orchestrator.skipped";

/// In a path of a URI all but the unreserved characters of RFC 3986, section 2.3, are encoded, and the slash is kept.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
/// The same for the name in a header (RFC 8187, section 3.2.1).
const IN_HEADER: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

// --- the list

#[derive(Serialize)]
struct Wire<'a> {
    path: &'a str,
    href: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    /// Of a file.
    size: Option<u64>,
    mode: &'a str,
    modified_at: &'a str,
}

#[inline(never)] // as all handlers: see `Api::answer`
pub(super) fn list(api: &Api, id: PayloadId, query: &str) -> Result<Response, HttpError> {
    let limit = value_of(query, "limit").map_or(Ok(DEFAULT_LIMIT), |text| {
        let limit = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
        limit.ok_or_else(|| HttpError::bad_request(format!("limit takes a number, 1 to {MAX_LIMIT}.")))
    })?;
    let after: Option<Place> = value_of(query, "after").map(str::parse).transpose().map_err(|()| {
        HttpError::bad_request("after takes what `next` of the page before was; leave it out to begin anew.")
    })?;
    let (results, lease) = Results::of(api, &*api.find(id)?)?;
    Ok(Response::opened(move |_| {
        results.check()?;
        let json = page(&results, after.as_ref(), limit)?;
        drop(lease);
        let length = Some(json.len() as u64);
        let opened = Opened::whole(length, move |out| out.write_all(json.as_bytes()));
        Ok(opened.header("Content-Type", "application/json"))
    }))
}

fn page(results: &Results, after: Option<&Place>, limit: usize) -> Result<String, HttpError> {
    let mut listing = Listing::open(&results.directory, after, results.is_final).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound && after.is_some() {
            page_gone()
        } else {
            results.refusal_of(&error)
        }
    })?;
    let mut json = String::from("{\"files\":[");
    let mut count = 0;
    let mut next = None;
    loop {
        // Where a further entry shows that there is a next page.
        let place = (count == limit || json.len() >= MAX_PAGE_BYTES).then(|| listing.place());
        let Some(entry) = listing.next().map_err(|error| results.refusal(&error))? else { break };
        if !is_given(entry.path.split(|byte| *byte == b'/').next()) {
            continue;
        }
        if place.is_some() {
            next = place;
            break;
        }
        json.push_str(if count > 0 { "," } else { "" });
        add(&mut json, &entry, results.id);
        count += 1;
    }
    let next = next.map_or("null".to_owned(), |place| format!("\"{place}\""));
    json.extend(["],\"next\":", &*next, "}"]);
    Ok(json)
}

fn add(json: &mut String, entry: &Entry, id: PayloadId) {
    let kind = match entry.kind {
        Kind::File => "file",
        Kind::Directory if entry.is_passed_over => "directory_not_listed",
        Kind::Directory => "directory",
        Kind::Link => "link",
        Kind::Special => "special",
    };
    let href = format!("/payloads/{id}/files/{}", percent_encode(&entry.path, IN_PATH));
    json.push_str(&miniserde::json::to_string(&Wire {
        // What is not UTF-8 is shown by replacement characters: JSON has nothing else. `href` has each byte.
        path: &String::from_utf8_lossy(&entry.path),
        href: &href,
        kind,
        size: (entry.kind == Kind::File).then_some(entry.size),
        mode: &format!("{:04o}", entry.mode),
        modified_at: &rfc3339(entry.modified_at),
    }));
}

fn page_gone() -> HttpError {
    HttpError::new(404, "no_such_file", "The directory where this page begins is gone; begin the list anew.")
}

// --- one file

#[inline(never)] // as all handlers: see `Api::answer`
pub(super) fn get(
    api: &Api,
    id: PayloadId,
    path: &str,
    request: &Request<'_, '_>,
) -> Result<Response, HttpError> {
    let payload: Box<Payload> = api.find(id)?;
    let names = names_of(path).ok_or_else(no_such_file)?;
    let (results, lease) = Results::of(api, &payload)?;
    let conditions = Conditions::of(request);
    Ok(Response::opened(move |_| {
        results.check()?;
        let borrowed: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let (file, stat) = directory::open_file_below(&results.directory, &borrowed, results.is_final)
            .map_err(|errno| refusal(&results, errno))?;
        // It is open: what becomes of its name does not matter.
        drop(lease);
        let name = names.last().map(Vec::as_slice).unwrap_or_default();
        Ok(answer(results, file, &stat, name, &conditions))
    }))
}

/// The names of the entries on the way to a file. `None` where there can be none: an empty one, `.`, `..`, or one with a slash or a
/// NUL in it.
fn names_of(path: &str) -> Option<Vec<Vec<u8>>> {
    let names = path.split('/').map(|name| percent_decode_str(name).collect::<Vec<u8>>());
    let names: Vec<_> = names.collect();
    let is_name = |name: &Vec<u8>| {
        !matches!(&name[..], b"" | b"." | b"..") && !name.iter().any(|byte| b"/\0".contains(byte))
    };
    let first = names.first().map(Vec::as_slice);
    (is_given(first) && names.iter().all(is_name)).then_some(names)
}

/// Whether a path that begins with this name is in the archive too.
fn is_given(first: Option<&[u8]>) -> bool {
    first != Some(NEVER_GIVEN)
}

fn answer(results: Results, file: File, stat: &Stat, name: &[u8], conditions: &Conditions) -> Opened {
    let length = u64::try_from(stat.st_size).unwrap_or(0);
    #[allow(clippy::useless_conversion)] // other types on other machines
    let changed_at = i64::from(stat.st_ctime).saturating_mul(1000);
    let is_settled = (now_ms() - changed_at) >= SETTLED_MS;
    let etag = format!(
        "{}\"{:x}-{length:x}-{:x}.{:x}-{:x}.{:x}\"",
        if is_settled { "" } else { "W/" },
        stat.st_ino,
        stat.st_mtime,
        stat.st_mtime_nsec,
        stat.st_ctime,
        stat.st_ctime_nsec
    );
    #[allow(clippy::useless_conversion)] // other types on other machines
    let modified_at = i64::from(stat.st_mtime).saturating_mul(1000);
    let dated = |opened: Opened| opened.header("ETag", etag.clone()).last_modified(modified_at);
    if conditions.has(&etag) {
        return dated(Opened::not_modified());
    }
    let opened = match conditions.range(&etag).map(|range| range.of(length)) {
        None => Opened::whole(Some(length), move |out| send(&results, &file, 0..length, out)),
        Some(Some(range)) => {
            Opened::part(&range.clone(), length, move |out| send(&results, &file, range, out))
        }
        Some(None) => return dated(Opened::beyond_end(length)),
    };
    let kind = content_type::of(name);
    let opened = dated(opened)
        .header("Accept-Ranges", "bytes")
        .header("Content-Type", kind.media_type)
        .header("X-Content-Type-Options", "nosniff")
        // Should a browser show it all the same: nothing in it runs, or reaches anything.
        .header("Content-Security-Policy", "sandbox; default-src 'none'");
    if kind.is_shown { opened } else { opened.header("Content-Disposition", attachment(name)) }
}

/// The name twice: for those that do not know RFC 8187 with a `_` for what is not plain.
fn attachment(name: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_".contains(byte);
    let plain: String =
        name.iter().map(|byte| if is_plain(byte) { char::from(*byte) } else { '_' }).collect();
    let mut text = format!("attachment; filename=\"{plain}\"");
    if !name.iter().all(is_plain) {
        let name = String::from_utf8_lossy(name);
        let _ = write!(text, "; filename*=UTF-8''{}", percent_encode(name.as_bytes(), IN_HEADER));
    }
    text
}

/// What the file has grown by is not sent; if it has shrunk, the answer is cut.
fn send(results: &Results, file: &File, range: Range<u64>, out: &mut dyn Sink) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
        let mut failed = None;
        let count = out.fill(&mut |space: &mut [u8]| {
            let most = space.len().min(left);
            match file.read_at(&mut space[..most], at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
                Err(error) => {
                    failed = Some(error.kind());
                    Err(error)
                }
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => Ok(count),
            }
        });
        let count = count.map_err(|error| tell_failed(results, error, failed.is_some()))?;
        at += count as u64;
    }
    Ok(())
}

fn tell_failed(results: &Results, error: io::Error, is_of_the_disk: bool) -> io::Error {
    let id = results.id;
    if is_of_the_disk {
        event!(Error, "a file cannot be read to its end", payload = id, error = error);
        return io::Error::other(results.refusal_of(&error));
    }
    let reason =
        if error.kind() == io::ErrorKind::UnexpectedEof { "it has shrunk" } else { "the reader is gone" };
    event!(Info, "a file was not sent to its end", payload = id, reason = reason);
    error
}

fn refusal(results: &Results, errno: Errno) -> HttpError {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::ISDIR | Errno::NXIO => {
            no_such_file()
        }
        Errno::ACCESS | Errno::PERM => {
            let message = "The file is closed to the user of the client: it is another user's, or of a payload that runs.";
            HttpError::new(404, "file_closed", message)
        }
        other => results.refusal_of(&other.into()),
    }
}

fn no_such_file() -> HttpError {
    let message = "The payload has no regular file at this path; links are not followed. /payloads/{id}/files has them all.";
    HttpError::new(404, "no_such_file", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_any_bytes_and_lead_nowhere_else() {
        let names = |path| names_of(path).map(|names| names.join(&b'|'));
        assert_eq!(names("a%20b/%C3%A4/%ff%25").as_deref(), Some(&b"a b|\xc3\xa4|\xff%"[..]));
        assert_eq!(names("...").as_deref(), Some(&b"..."[..]));
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/../b",
            "%2e%2e/b",
            "a/%2E",
            "a%2fb",
            "%2f",
            "a%00",
            ".orchestrator.skipped",
        ] {
            assert_eq!(names(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_name_in_a_header_can_be_nothing_else() {
        assert_eq!(attachment(b"a-b_c.zip"), "attachment; filename=\"a-b_c.zip\"");
        assert_eq!(
            attachment(b"a\"\r\nX: \xff"),
            "attachment; filename=\"a___X___\"; filename*=UTF-8''a%22%0D%0AX%3A%20%EF%BF%BD"
        );
    }
}
