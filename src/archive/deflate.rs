//! Compresses blocks, and finds out whether that pays. Nothing here reads, writes or knows of threads.

use super::block::{Block, OUTPUT_BYTES, Part};
use flate2::{Compress, CompressError, Compression, FlushCompress, Status};
use std::hint::black_box;

/// Measured against Info-ZIP `zip -6` on sources, logs and PDB files (zlib-rs 0.6, x86-64): level 4 takes 0.30 to 0.43 of its
/// time for 1.01 to 1.05 of its size. Level 3 is a fifth faster, but comes to 1.10; level 5 is a tenth slower, for 0.02 less.
const LEVEL: u32 = 4;
/// Below this, what deflate saves is not worth the receiver's inflating it.
pub(super) const MIN_DEFLATE_BYTES: usize = 128;
/// Up to this size data is its own sample: it is compressed, and stored if that did not help.
pub(super) const MIN_SAMPLED_BYTES: usize = 32 * 1024;
/// A sample is three pieces, of the beginning, the middle and the end; this is the length of one.
const SAMPLE_BYTES: usize = 4 * 1024;
/// By how much the room for output grows, should it ever have to.
const MORE_BYTES: usize = 16 * 1024;
/// More than the tables of a compressor take.
const TABLE_BYTES: usize = 384 * 1024;

/// Why something was not compressed.
#[derive(Debug, thiserror::Error)]
pub enum DeflateError {
    /// There is no memory for the compressor, or for what comes out of it.
    #[error("no memory is left for it")]
    NoMemory,
    /// The compressor refused its input; it has no reason to.
    #[error(transparent)]
    Refused(#[from] CompressError),
}

/// A compressor that takes one block after the other.
#[derive(Debug)]
pub(super) struct Deflater {
    /// About 0.3 MiB, made when first needed: most payloads have nothing that is worth it.
    deflate: Option<Compress>,
    /// All pieces of a file come here, in their order.
    is_only: bool,
}

impl Deflater {
    /// `is_only`: there is no other that some pieces of a file may go to.
    pub(super) fn new(is_only: bool) -> Self {
        Self { deflate: None, is_only }
    }

    fn deflate(&mut self) -> Result<&mut Compress, DeflateError> {
        if self.deflate.is_none() {
            // flate2 has no way to make one that may fail: without memory it would end the program.
            drop(black_box(room(TABLE_BYTES)?));
        }
        // false: no zlib header, as ZIP wants it
        Ok(self.deflate.get_or_insert_with(|| Compress::new(Compression::new(LEVEL), false)))
    }

    /// Gives its memory back, for as long as there is nothing to compress.
    pub(super) fn rest(&mut self) {
        self.deflate = None;
    }

    /// Deflates the data of a block; of a whole entry, only if that makes it at least a tenth smaller.
    pub(super) fn pack(&mut self, block: &mut Block) -> Result<(), DeflateError> {
        let part = block.part;
        let (history, data, output) = block.buffers();
        match part {
            Part::Piece { is_first, is_last } => {
                self.pack_piece(history, data, output, is_first, is_last)?;
            }
            Part::Whole => block.deflates = self.shrink_whole(data, output)?,
            Part::Directory => {}
        }
        Ok(())
    }

    /// Where there are others, a piece is a stream of its own that knows the history and ends at a whole byte, so that the
    /// pieces make one stream when put together.
    ///
    /// Of a dictionary's last bytes zlib-rs 0.6 hashes one more than there is, which is whatever it had there before. A longer one
    /// before puts a byte there that is always the same, so that a piece comes out the same each time.
    fn pack_piece(
        &mut self,
        history: &[u8],
        data: &[u8],
        output: &mut Vec<u8>,
        is_first: bool,
        is_last: bool,
    ) -> Result<(), DeflateError> {
        if is_first || !self.is_only {
            self.deflate()?.reset();
        }
        if !self.is_only && !history.is_empty() {
            let mut longer = room(history.len() + 1)?;
            longer.extend_from_slice(history);
            longer.push(0);
            let deflate = self.deflate()?;
            deflate.set_dictionary(&longer)?;
            deflate.reset();
            deflate.set_dictionary(history)?;
        }
        let flush = match (is_last, self.is_only) {
            (true, _) => FlushCompress::Finish,
            (false, true) => FlushCompress::None,
            (false, false) => FlushCompress::Sync,
        };
        self.feed(data, output, flush)
    }

    /// Whether `output` is `data` deflated, and at least a tenth smaller. Of what is not small three pieces are tried first.
    fn shrink_whole(&mut self, data: &[u8], output: &mut Vec<u8>) -> Result<bool, DeflateError> {
        if data.len() < MIN_DEFLATE_BYTES {
            return Ok(false);
        }
        if data.len() > MIN_SAMPLED_BYTES {
            let last = data.len() - SAMPLE_BYTES;
            let mut sample = Sample::default();
            for offset in [0, last / 2, last] {
                let piece = data.get(offset..offset + SAMPLE_BYTES).unwrap_or_default();
                sample.add(self, piece, output)?;
            }
            if !sample.gains() {
                return Ok(false);
            }
        }
        self.shrink(data, output)
    }

    /// Deflates `data`, and tells whether that makes it at least a tenth smaller.
    ///
    /// Samples use the level of the real thing: level 1 of zlib-rs has fixed Huffman codes, and finds nothing to gain in base64
    /// or in columns of numbers, which shrink by a quarter or by half.
    fn shrink(&mut self, data: &[u8], output: &mut Vec<u8>) -> Result<bool, DeflateError> {
        output.clear();
        self.deflate()?.reset();
        self.feed(data, output, FlushCompress::Finish)?;
        Ok(output.len() <= data.len() - data.len() / 10)
    }

    /// Deflates all of `data` to the end of `output`; with `Sync` and `Finish` also what the compressor still holds.
    ///
    /// Nothing is ever left in it where a reset may follow: zlib-rs 0.6 forgets to reset where its pending output begins
    /// (`Pending::reset_keep`), and panics when that has crept up to the end of its buffer.
    fn feed(
        &mut self,
        mut data: &[u8],
        output: &mut Vec<u8>,
        flush: FlushCompress,
    ) -> Result<(), DeflateError> {
        if output.capacity() == 0 {
            *output = room(OUTPUT_BYTES)?;
        }
        let deflate = self.deflate()?;
        loop {
            if output.len() == output.capacity() {
                output.try_reserve_exact(MORE_BYTES).map_err(|_| DeflateError::NoMemory)?;
            }
            let total_in = deflate.total_in();
            let status = deflate.compress_vec(data, output, flush)?;
            let taken = usize::try_from(deflate.total_in() - total_in).unwrap_or(usize::MAX);
            data = data.get(taken..).unwrap_or_default();
            // Room left over means that there is nothing more to come for this input.
            if status == Status::StreamEnd || (data.is_empty() && output.len() < output.capacity()) {
                return Ok(());
            }
        }
    }
}

/// An empty buffer for so many bytes.
fn room(bytes: usize) -> Result<Vec<u8>, DeflateError> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(bytes).map_err(|_| DeflateError::NoMemory)?;
    Ok(buffer)
}

/// Pieces of a file, each deflated on its own: together, a file that repeats itself further apart than Deflate looks back
/// (32 KiB) would seem to shrink.
#[derive(Debug, Default)]
pub(super) struct Sample {
    bytes: usize,
    deflated_bytes: usize,
}

impl Sample {
    pub(super) fn add(
        &mut self,
        deflater: &mut Deflater,
        piece: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), DeflateError> {
        let shrinks = deflater.shrink(piece, output)?;
        self.bytes += piece.len();
        self.deflated_bytes += if shrinks { output.len() } else { piece.len() };
        Ok(())
    }

    pub(super) fn gains(&self) -> bool {
        self.deflated_bytes <= self.bytes - self.bytes / 10
    }
}
