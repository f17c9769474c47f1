//! The receiver of the archive, buffered, with the count of bytes. Nothing here knows what the bytes are.

use super::ArchiveError;
use std::io::Write;

/// Small entries are gathered to pieces of this size, since the receiver may be a channel of pieces.
const BUFFER_BYTES: usize = 64 * 1024;

/// Unlike a `BufWriter` it does not write once more when dropped: after an error nothing may follow.
pub(super) struct Output<'a> {
    out: &'a mut dyn Write,
    buffer: Vec<u8>,
    offset: u64,
}

impl<'a> Output<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { out, buffer: Vec::with_capacity(BUFFER_BYTES), offset: 0 }
    }

    /// Bytes of the archive so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.write_buffer()?;
        }
        if bytes.len() >= BUFFER_BYTES {
            self.out.write_all(bytes).map_err(ArchiveError::Write)?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        self.offset += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), ArchiveError> {
        self.write_buffer()?;
        self.out.flush().map_err(ArchiveError::Write)
    }

    fn write_buffer(&mut self) -> Result<(), ArchiveError> {
        self.out.write_all(&self.buffer).map_err(ArchiveError::Write)?;
        self.buffer.clear();
        Ok(())
    }
}
