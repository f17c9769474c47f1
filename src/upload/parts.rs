//! Cuts a multipart body into its parts: blocking calls that give part after part, and a part's content piece by piece, as it
//! came, without a copy. Bounded is what has to be held: the head of a part. Knows neither names nor files.
//!
//! The layout is that of RFC 2046, section 5.1.1: CRLF, two dashes and the boundary end a part, wherever they stand, and what is
//! before the first of them means nothing.

use std::io;

use bytes::{Buf as _, Bytes};
use memchr::memmem::Finder;
use thiserror::Error;

use super::error::{HEAD_LIMIT_BYTES, UploadError};
use super::params::is_token;

/// A body, as the parts that it consists of.
pub(super) struct Parts<B> {
    body: B,
    /// The body gave `None`; it is not asked again.
    ended: bool,
    /// What has come and is not used yet.
    rest: Bytes,
    /// CRLF, two dashes and the boundary.
    delimiter: Finder<'static>,
    number: u64,
}

/// The head of a part.
#[derive(Debug)]
pub(super) struct Part {
    /// Counted from 1.
    pub number: u64,
    /// Names in lower case, and values.
    headers: Vec<(String, Vec<u8>)>,
}

/// How a body is not laid out as multipart; reads on from "part 3".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LayoutFault {
    /// Line ends that are not CRLF, most often, or a boundary that begins like the right one.
    #[error("has something else than a line end (CRLF) behind its boundary")]
    BehindBoundary,
    /// Most often a head that is not there.
    #[error("has a line without a colon among its headers; an empty line ends them")]
    NoHeader,
    /// A name of other characters than RFC 9110, section 5.6.2, has.
    #[error("has a header whose name is none")]
    HeaderName,
    /// A line that starts with a space goes on with the one before.
    #[error("begins its headers with a line that goes on with nothing")]
    Folded,
}

impl Part {
    /// The values of the headers of that name, which is in lower case.
    pub fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |header| header.0 == name).map(|header| header.1.as_slice())
    }
}

impl<B: Iterator<Item = io::Result<Bytes>>> Parts<B> {
    /// Nothing is read yet.
    pub fn new(body: B, boundary: &str) -> Self {
        Self {
            body,
            ended: false,
            // As if a line had ended before the body: the first boundary may stand at its beginning.
            rest: Bytes::from_static(b"\r\n"),
            delimiter: Finder::new(&format!("\r\n--{boundary}")).into_owned(),
            number: 0,
        }
    }

    /// The next part; `None` after the final boundary. What is left of the part before is passed over, and counts as this one's
    /// head.
    pub fn next(&mut self) -> Result<Option<Part>, UploadError> {
        self.number += 1;
        let mut left = HEAD_LIMIT_BYTES;
        while let Some(passed_over) = self.piece()? {
            left =
                left.checked_sub(passed_over.len()).ok_or(UploadError::HeadTooLong { part: self.number })?;
        }
        self.rest.advance(self.delimiter.needle().len());
        match self.byte(&mut left)? {
            b'-' if self.byte(&mut left)? == b'-' => return Ok(None),
            first => self.pass_padding(first, &mut left)?,
        }
        Ok(Some(Part { number: self.number, headers: self.head(&mut left)? }))
    }

    /// The next piece of a part's content, never empty; `None` at its end.
    pub fn piece(&mut self) -> Result<Option<Bytes>, UploadError> {
        loop {
            let end = self.delimiter.find(&self.rest);
            let length = end.unwrap_or_else(|| self.rest.len() - self.begun_delimiter());
            match end {
                Some(0) => return Ok(None),
                _ if length > 0 => return Ok(Some(self.rest.split_to(length))),
                _ => self.read()?,
            }
        }
    }

    /// Reads the epilogue (RFC 2046 section 5.1.1), which means nothing, but stands before the connection's next request.
    pub fn finish(mut self) -> Result<(), UploadError> {
        while self.take()?.is_some() {}
        Ok(())
    }

    /// How many bytes at the end of what is here may be the beginning of a delimiter.
    fn begun_delimiter(&self) -> usize {
        let needle = self.delimiter.needle();
        let mut lengths = (1..needle.len()).rev();
        lengths.find(|length| self.rest.ends_with(needle.get(..*length).unwrap_or_default())).unwrap_or(0)
    }

    /// Between a boundary and the end of its line there may be spaces and tabs.
    fn pass_padding(&mut self, first: u8, left: &mut usize) -> Result<(), UploadError> {
        let mut byte = first;
        while matches!(byte, b' ' | b'\t') {
            byte = self.byte(left)?;
        }
        if byte == b'\r' && self.byte(left)? == b'\n' {
            Ok(())
        } else {
            Err(self.layout(LayoutFault::BehindBoundary))
        }
    }

    /// The headers up to the empty line.
    fn head(&mut self, left: &mut usize) -> Result<Vec<(String, Vec<u8>)>, UploadError> {
        let mut headers: Vec<(String, Vec<u8>)> = Vec::new();
        loop {
            let line = self.line(left)?;
            match line.first() {
                None => return Ok(headers),
                // RFC 5322, section 2.2.3: the line goes on, and its end and the space before it mean one space.
                Some(b' ' | b'\t') => {
                    let (_, value) = headers.last_mut().ok_or_else(|| self.layout(LayoutFault::Folded))?;
                    value.push(b' ');
                    value.extend_from_slice(line.trim_ascii());
                }
                Some(_) => {
                    let (name, value) = split_header(&line).map_err(|fault| self.layout(fault))?;
                    headers.push((name, value.to_vec()));
                }
            }
        }
    }

    /// A line without its CRLF.
    fn line(&mut self, left: &mut usize) -> Result<Vec<u8>, UploadError> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(self.byte(left)?);
        }
        line.truncate(line.len() - 2);
        Ok(line)
    }

    fn byte(&mut self, left: &mut usize) -> Result<u8, UploadError> {
        *left = left.checked_sub(1).ok_or(UploadError::HeadTooLong { part: self.number })?;
        while self.rest.is_empty() {
            self.read()?;
        }
        Ok(self.rest.get_u8())
    }

    fn layout(&self, fault: LayoutFault) -> UploadError {
        UploadError::Layout { part: self.number, fault }
    }

    /// Puts more of the body behind what is here, which is the beginning of a delimiter at the most.
    fn read(&mut self) -> Result<(), UploadError> {
        let Some(piece) = self.take()? else {
            return Err(UploadError::Truncated { part: self.number });
        };
        self.rest = if self.rest.is_empty() { piece } else { [&*self.rest, &*piece].concat().into() };
        Ok(())
    }

    fn take(&mut self) -> Result<Option<Bytes>, UploadError> {
        if self.ended {
            return Ok(None);
        }
        let piece = self.body.next().transpose();
        let piece = piece.map_err(|source| UploadError::ReadBody { source })?;
        self.ended = piece.is_none();
        Ok(piece)
    }
}

/// Name, in lower case, and value.
fn split_header(line: &[u8]) -> Result<(String, &[u8]), LayoutFault> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(LayoutFault::NoHeader)?;
    let (name, value) = line.split_at(colon);
    let name = name.trim_ascii_end();
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(LayoutFault::HeaderName);
    }
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    Ok((name, value.get(1..).unwrap_or_default().trim_ascii()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::upload::testing::{BOUNDARY, form, named, pieces};

    #[test]
    fn content_comes_out_as_it_came_in() {
        let content = vec![b'x'; 300_000];
        let body = form(&[(&named("a"), &content)]);
        let mut parts = Parts::new(pieces(&body, 100_000), BOUNDARY);
        parts.next().unwrap().unwrap();
        let mut lengths = Vec::new();
        while let Some(piece) = parts.piece().unwrap() {
            lengths.push(piece.len());
        }
        assert_eq!((lengths.len(), lengths.iter().sum::<usize>()), (4, content.len()));
    }

    #[test]
    fn headers_may_be_folded_and_come_twice() {
        let body = format!(
            "--{BOUNDARY}\r\nA: one\r\n \t two\r\n\tthree\r\na :four\r\nB:\r\n\r\n\r\n--{BOUNDARY}--"
        );
        for piece_bytes in [1, 7, 1000] {
            let mut parts = Parts::new(pieces(body.as_bytes(), piece_bytes), BOUNDARY);
            let part = parts.next().unwrap().unwrap();
            assert_eq!(part.headers("a").collect::<Vec<_>>(), [&b"one two three"[..], b"four"]);
            assert_eq!(part.headers("b").collect::<Vec<_>>(), [b""]);
            assert_eq!(part.headers("c").next(), None);
            assert!(parts.next().unwrap().is_none());
        }
    }

    #[test]
    fn what_is_wrong_with_the_layout_is_told() {
        for (behind, fault) in [
            ("???", LayoutFault::BehindBoundary),
            ("\n\n", LayoutFault::BehindBoundary),
            ("-\r\n", LayoutFault::BehindBoundary),
            ("\r\nno header\r\n\r\n", LayoutFault::NoHeader),
            ("\r\n: x\r\n\r\n", LayoutFault::HeaderName),
            ("\r\na b: x\r\n\r\n", LayoutFault::HeaderName),
            ("\r\n x: y\r\n\r\n", LayoutFault::Folded),
        ] {
            let body = format!("--{BOUNDARY}{behind}");
            let error = Parts::new(pieces(body.as_bytes(), 3), BOUNDARY).next().unwrap_err();
            assert!(
                matches!(error, UploadError::Layout { part: 1, fault: found } if found == fault),
                "{behind:?}"
            );
        }
    }
}
