//! A part of an archive on its way from the disk to the stream: an entry, or a piece of the data of a large one.
//! Its buffers serve one part after the other. Nothing here reads, compresses or writes.

use super::records::Head;
use super::stream::Content;
use rawzip::CompressionMethod;
use rustix::io::Errno;
use std::io;

/// A file up to this size is one part, a larger one has pieces of this size.
pub(super) const DATA_BYTES: usize = 128 * 1024;
/// How far Deflate looks back (RFC 1951, section 2).
const HISTORY_BYTES: usize = 32 * 1024;
/// Data that does not shrink comes to a few bytes more than it had.
pub(super) const OUTPUT_BYTES: usize = DATA_BYTES + 1024;

/// What a block is of its entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it, and it has no data.
    #[default]
    Directory,
    /// All of it.
    Whole,
    /// Some of the data of a file.
    Piece { is_first: bool, is_last: bool },
}

/// At most about 0.3 MiB.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub part: Part,
    /// Name, mode and time of the entry; of pieces, only the first has them.
    pub name: Vec<u8>,
    pub mode: u32,
    pub mtime_s: i64,
    /// Whether the data is to be deflated; once that has been tried, whether `output` is what goes out.
    pub deflates: bool,
    /// Of all of the entry's data; of pieces, only the last has it.
    pub content: Content,
    /// The data deflated.
    pub output: Vec<u8>,
    /// What was before the data, as far as Deflate looks back.
    history: Vec<u8>,
    /// The data, at the start of a room that is as large as the largest so far.
    room: Vec<u8>,
    data_bytes: usize,
}

impl Block {
    /// Makes it the next part of the archive, still without data.
    pub(super) fn begin(&mut self, part: Part) {
        self.part = part;
        self.deflates = false;
        self.content = Content::default();
        self.history.clear();
        self.data_bytes = 0;
        self.output.clear();
    }

    /// Says what the entry is called.
    pub(super) fn set_head(&mut self, head: &Head<'_>) {
        self.name.clear();
        self.name.extend_from_slice(head.name);
        (self.mode, self.mtime_s) = (head.mode, head.mtime_s);
    }

    pub(super) fn head(&self) -> Head<'_> {
        Head { name: &self.name, mode: self.mode, mtime_s: self.mtime_s }
    }

    /// Where `want` bytes of data are read to, `DATA_BYTES` at the most; followed by [`Block::set_data_bytes`]. `ENOMEM`
    /// where no memory is left.
    pub(super) fn space(&mut self, want: usize) -> io::Result<&mut [u8]> {
        let want = want.min(DATA_BYTES);
        if let Some(more) = want.checked_sub(self.room.len()) {
            self.room.try_reserve_exact(more).map_err(|_| Errno::NOMEM)?;
            self.room.resize(want, 0);
        }
        Ok(self.room.get_mut(..want).unwrap_or_default())
    }

    pub(super) fn set_data_bytes(&mut self, bytes: usize) {
        self.data_bytes = bytes;
    }

    /// Takes note of what preceded the data.
    pub(super) fn set_history(&mut self, before: &[u8]) {
        self.history.clear();
        self.history.extend_from_slice(last(before, HISTORY_BYTES));
    }

    pub(super) fn data(&self) -> &[u8] {
        self.room.get(..self.data_bytes).unwrap_or_default()
    }

    /// What of the data the next piece has to know.
    pub(super) fn end_of_data(&self) -> &[u8] {
        last(self.data(), HISTORY_BYTES)
    }

    /// History and data to compress, and where to.
    pub(super) fn buffers(&mut self) -> (&[u8], &[u8], &mut Vec<u8>) {
        let data = self.room.get(..self.data_bytes).unwrap_or_default();
        (&self.history, data, &mut self.output)
    }

    /// Whether no further piece of its entry follows.
    pub(super) fn is_last(&self) -> bool {
        !matches!(self.part, Part::Piece { is_last: false, .. })
    }

    pub(super) fn method(&self) -> CompressionMethod {
        if self.deflates { CompressionMethod::DEFLATE } else { CompressionMethod::STORE }
    }

    /// The data as it goes out.
    pub(super) fn packed(&self) -> &[u8] {
        if self.deflates { &self.output } else { self.data() }
    }
}

fn last(bytes: &[u8], most: usize) -> &[u8] {
    bytes.get(bytes.len().saturating_sub(most)..).unwrap_or_default()
}
