//! The receiver of the archive, with the count of bytes. Nothing here knows what the bytes are.

use super::ArchiveError;
use std::io::Write;

/// It gets many small writes, and gathers them itself where that matters.
pub(super) struct Output<'a> {
    out: &'a mut dyn Write,
    offset: u64,
}

impl<'a> Output<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { out, offset: 0 }
    }

    /// Bytes of the archive so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.out.write_all(bytes).map_err(ArchiveError::Write)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), ArchiveError> {
        self.out.flush().map_err(ArchiveError::Write)
    }
}
