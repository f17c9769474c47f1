//! A part of an archive on its way from the disk to the stream: an entry, or a piece of the data of a large one.
//! Its buffers serve one part after the other. Nothing here reads, compresses or writes.

use super::records::Head;
use super::stream::Content;
use rawzip::CompressionMethod;

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
    /// Room for what was before the data, which ends where the data begins. Made when first needed.
    input: Vec<u8>,
    history_bytes: usize,
    data_bytes: usize,
}

impl Block {
    /// Makes it the next part of the archive, still without data.
    pub(super) fn begin(&mut self, part: Part) {
        self.part = part;
        self.deflates = false;
        self.content = Content::default();
        self.history_bytes = 0;
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

    /// Where data is read to: `DATA_BYTES`, followed by [`Block::set_data_bytes`].
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.input.is_empty() {
            self.input = vec![0; HISTORY_BYTES + DATA_BYTES];
        }
        self.input.get_mut(HISTORY_BYTES..).unwrap_or_default()
    }

    pub(super) fn set_data_bytes(&mut self, bytes: usize) {
        self.data_bytes = bytes;
    }

    /// Puts the end of `before`, which preceded the data, in front of it.
    pub(super) fn set_history(&mut self, before: &[u8]) {
        self.space();
        let history = last(before, HISTORY_BYTES);
        let start = HISTORY_BYTES - history.len();
        if let Some(room) = self.input.get_mut(start..HISTORY_BYTES) {
            room.copy_from_slice(history);
        }
        self.history_bytes = history.len();
    }

    pub(super) fn data(&self) -> &[u8] {
        self.input.get(HISTORY_BYTES..HISTORY_BYTES + self.data_bytes).unwrap_or_default()
    }

    /// What of the data the next piece has to know.
    pub(super) fn end_of_data(&self) -> &[u8] {
        last(self.data(), HISTORY_BYTES)
    }

    /// History and data to compress, and where to.
    pub(super) fn buffers(&mut self) -> (&[u8], &[u8], &mut Vec<u8>) {
        let end = HISTORY_BYTES + self.data_bytes;
        let history = self.input.get(HISTORY_BYTES - self.history_bytes..HISTORY_BYTES).unwrap_or_default();
        (history, self.input.get(HISTORY_BYTES..end).unwrap_or_default(), &mut self.output)
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
