//! Drives multer without an async runtime: blocking calls that give part after part, and a part's content piece by piece.
//! Bounds what multer itself does not: how far it reads ahead, and how long it looks for a boundary or the end of headers.
//! Knows neither names nor files.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_core::Stream;
use multer::{Field, Multipart};
use thiserror::Error;

use super::error::{HEAD_LIMIT_BYTES, UploadError};

/// A piece of the body that is larger goes to multer, which copies it, in several. Memory is bounded whatever `body` gives.
const PIECE_LIMIT_BYTES: usize = 256 * 1024;

/// A body, as the parts that it consists of.
pub(super) struct Parts<B> {
    multipart: Multipart<'static>,
    feed: Feed<B>,
    number: u64,
}

/// One part. It must be read to its end and dropped before the next one is asked for; multer has one at a time.
pub(super) struct Part {
    /// Counted from 1.
    pub number: u64,
    field: Field<'static>,
}

/// How a body is not laid out as multipart; reads on from "part 3:".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LayoutFault {
    /// What a terminal would act on, and a ZIP would carry on.
    #[error("a header has a control character, most likely in its file name; rename the file")]
    ControlCharacter,
    /// A header in several lines is none: RFC 9112 made folding obsolete, and no sender of forms is known to fold.
    #[error("a line among the headers is none, such as a header in two lines, or a line end in a file name")]
    HeaderLine,
    /// All else.
    #[error(
        "it is not laid out as RFC 7578 wants it; send a boundary line, then headers, then an empty line, with CRLF line ends"
    )]
    Other,
}

impl Part {
    /// The value of the header of that name, which is in lower case; of several, the last one's.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.field.headers().get(name).map(AsRef::as_ref)
    }
}

impl<B: Iterator<Item = io::Result<Bytes>>> Parts<B> {
    /// Nothing is read yet.
    pub fn new(body: B, boundary: &str) -> Self {
        let slot = Slot::default();
        Self {
            multipart: Multipart::new(Source(slot.clone()), boundary),
            feed: Feed { body, slot, held: Bytes::new(), ended: false },
            number: 0,
        }
    }

    /// The next part; `None` after the final boundary. The part before must have been read to its end: what is left of it
    /// would count as this one's head.
    pub fn next(&mut self) -> Result<Option<Part>, UploadError> {
        self.number += 1;
        let mut left = HEAD_LIMIT_BYTES;
        loop {
            match self.multipart.poll_next_field(&mut context()) {
                Poll::Ready(Ok(None)) => return Ok(None),
                Poll::Ready(Ok(Some(field))) => return self.part(field).map(Some),
                Poll::Ready(Err(error)) => return Err(self.explain(&error)),
                Poll::Pending if left == 0 => {
                    return Err(UploadError::HeadTooLong { part: self.number });
                }
                // No more than the limit allows, however large the pieces are. What came whole with the end of the part before
                // is not counted, so that near the limit the cuts decide.
                Poll::Pending => left -= self.feed.give(left, self.number)?,
            }
        }
    }

    /// The next piece of a part's content, never empty; `None` at its end.
    pub fn piece(&mut self, part: &mut Part) -> Result<Option<Bytes>, UploadError> {
        loop {
            match Pin::new(&mut part.field).poll_next(&mut context()) {
                Poll::Ready(None) => return Ok(None),
                Poll::Ready(Some(Ok(piece))) if piece.is_empty() => {}
                Poll::Ready(Some(Ok(piece))) => return Ok(Some(piece)),
                Poll::Ready(Some(Err(error))) => return Err(self.explain(&error)),
                Poll::Pending => {
                    self.feed.give(PIECE_LIMIT_BYTES, self.number)?;
                }
            }
        }
    }

    /// Reads the epilogue (RFC 2046 section 5.1.1), which means nothing, but stands before the connection's next request.
    pub fn finish(mut self) -> Result<(), UploadError> {
        while self.feed.take()?.is_some() {}
        Ok(())
    }

    fn part(&self, field: Field<'static>) -> Result<Part, UploadError> {
        // `next` bounds what it fed; headers that came whole with the end of the part before are bounded here.
        let headers = field.headers().iter();
        let length: usize = headers.map(|(name, value)| name.as_str().len() + value.len()).sum();
        if length > HEAD_LIMIT_BYTES {
            return Err(UploadError::HeadTooLong { part: self.number });
        }
        Ok(Part { number: self.number, field })
    }

    /// multer has one error for a body that ended too early and for one that is wrong; a sender needs to know which it was.
    fn explain(&self, source: &multer::Error) -> UploadError {
        let part = self.number;
        let fault = match source {
            multer::Error::IncompleteFieldData { .. } => return UploadError::Truncated { part },
            multer::Error::IncompleteStream if self.feed.ended => return UploadError::Truncated { part },
            multer::Error::ReadHeaderFailed(httparse::Error::HeaderValue) => LayoutFault::ControlCharacter,
            multer::Error::ReadHeaderFailed(_) => LayoutFault::HeaderLine,
            _ => LayoutFault::Other,
        };
        UploadError::Layout { part, fault }
    }
}

/// Hands the body to multer, a piece at a time and only when multer has done all it can without another.
///
/// multer polls its stream on every call, until that is pending, and keeps what it gets. A stream that just gave a piece per
/// poll would give one for each small part, and most of the body would end up in multer's buffer.
struct Feed<B> {
    body: B,
    slot: Slot,
    /// What was too much of the last piece.
    held: Bytes,
    /// The body gave `None`; it is not asked again.
    ended: bool,
}

impl<B: Iterator<Item = io::Result<Bytes>>> Feed<B> {
    /// Lets multer see up to `limit` more bytes, or the end of the body. Gives their number.
    fn give(&mut self, limit: usize, part: u64) -> Result<usize, UploadError> {
        // multer has seen the end and still wants more. It does not do that; if it did, this would be an endless loop.
        if self.ended {
            return Err(UploadError::Truncated { part });
        }
        let Some(mut piece) = self.take()? else {
            self.slot.lock().ended = true;
            return Ok(0);
        };
        if piece.len() > limit {
            self.held = piece.split_off(limit);
        }
        let length = piece.len();
        self.slot.lock().piece = Some(piece);
        Ok(length)
    }

    fn take(&mut self) -> Result<Option<Bytes>, UploadError> {
        if !self.held.is_empty() {
            return Ok(Some(std::mem::take(&mut self.held)));
        }
        if self.ended {
            return Ok(None);
        }
        let piece = self.body.next().transpose();
        let piece = piece.map_err(|source| UploadError::ReadBody { source })?;
        self.ended = piece.is_none();
        Ok(piece)
    }
}

/// Where `Feed` puts a piece for `Source`. multer wants its stream `Send`, which a `RefCell` is not; the lock is never waited
/// for, as both ends are on one thread.
#[derive(Clone, Default)]
struct Slot(Arc<Mutex<Next>>);

#[derive(Default)]
struct Next {
    piece: Option<Bytes>,
    ended: bool,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Next> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// multer's end of the slot. Its errors stay on `Feed`'s end.
struct Source(Slot);

impl Stream for Source {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut next = self.0.lock();
        match next.piece.take() {
            Some(piece) => Poll::Ready(Some(Ok(piece))),
            None if next.ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// Nobody is to be woken: what is pending is fed and polled again by the same thread.
fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::iter;

    use super::*;
    use crate::upload::testing::{BOUNDARY, form, named};

    #[test]
    fn a_huge_piece_of_the_body_comes_out_in_bounded_ones() {
        let content = vec![b'x'; 3 * PIECE_LIMIT_BYTES];
        let body = Bytes::from(form(&[(&named("a"), &content)]));
        let mut parts = Parts::new(iter::once(Ok(body)), BOUNDARY);
        let mut part = parts.next().unwrap().unwrap();
        let mut length = 0;
        while let Some(piece) = parts.piece(&mut part).unwrap() {
            assert!(!piece.is_empty());
            // What multer held back for a boundary may come on top.
            assert!(piece.len() <= PIECE_LIMIT_BYTES + BOUNDARY.len() + 4);
            length += piece.len();
        }
        assert_eq!(length, content.len());
    }
}
