//! The data of a file: reads it, finds out whether compression pays, and hands it to the stream.
//! All buffers live here and serve all files of an archive. Nothing here opens files or knows the ZIP format.

use super::ArchiveError;
use super::records::Head;
use super::stream::{Content, Send, ZipStream};
use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use rawzip::CompressionMethod;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// A file up to this size is read whole, a larger one in pieces of this size.
const BUFFER_BYTES: usize = 128 * 1024;
/// Measured against Info-ZIP `zip -6` on sources, logs and PDB files (zlib-rs 0.6, x86-64): level 4 takes 0.30 to 0.43 of its
/// time for 1.01 to 1.05 of its size. Level 3 is a fifth faster, but comes to 1.10; level 5 is a tenth slower, for 0.02 less.
const LEVEL: u32 = 4;
/// Below this, what deflate saves is not worth the receiver's inflating it.
const MIN_DEFLATE_BYTES: usize = 128;
/// Up to this size a file is its own sample: it is compressed, and stored if that did not help.
const MIN_SAMPLED_BYTES: usize = 32 * 1024;
/// A sample is three pieces, of the beginning, the middle and the end; this is the length of one.
const MEMORY_SAMPLE_BYTES: usize = 4 * 1024;
const FILE_SAMPLE_BYTES: usize = 16 * 1024;

/// CRC and size of data that is all here. flate2's CRC runs at 8 to 14 GB/s where rawzip's runs at 4.
pub(super) fn content_of(data: &[u8]) -> Content {
    let mut crc = Crc::new();
    crc.update(data);
    Content { crc: crc.sum(), size: data.len() as u64 }
}

/// What became of a file.
#[derive(Debug)]
pub(super) struct Packed {
    /// Bytes read.
    pub bytes: u64,
    /// The entry ends there because reading failed.
    pub cut: Option<io::Error>,
}

/// Buffers and compressor for one archive: about 0.6 MiB.
#[derive(Debug)]
pub(super) struct Packer {
    input: Vec<u8>,
    output: Vec<u8>,
    deflate: Compress,
}

impl Packer {
    pub(super) fn new() -> Self {
        Self {
            input: vec![0; BUFFER_BYTES],
            output: vec![0; BUFFER_BYTES],
            deflate: Compress::new(Compression::new(LEVEL), false), // false: no zlib header, as ZIP wants it
        }
    }

    /// Archives a file that has `size` bytes. What it has grown by since is not read; if it has shrunk, what is left is.
    pub(super) fn pack(
        &mut self,
        zip: &mut ZipStream<'_>,
        head: &Head<'_>,
        file: &File,
        size: u64,
    ) -> Result<Packed, ArchiveError> {
        match usize::try_from(size) {
            Ok(size) if size <= BUFFER_BYTES => self.pack_whole(zip, head, file, size),
            _ if self.sample_gains(file, size)? => self.pack_deflated(zip, head, file, size),
            _ => self.pack_stored(zip, head, file, size),
        }
    }

    fn pack_whole(
        &mut self,
        zip: &mut ZipStream<'_>,
        head: &Head<'_>,
        file: &File,
        size: usize,
    ) -> Result<Packed, ArchiveError> {
        let input = self.input.get_mut(..size).unwrap_or_default();
        let (filled, cut) = read_full(file, input);
        let data = input.get(..filled).unwrap_or_default();
        let content = content_of(data);
        match shrink_whole(&mut self.deflate, data, &mut self.output)? {
            Some(deflated) => zip.whole(head, CompressionMethod::DEFLATE, deflated, content)?,
            None => zip.whole(head, CompressionMethod::STORE, data, content)?,
        }
        Ok(Packed { bytes: filled as u64, cut })
    }

    fn pack_stored(
        &mut self,
        zip: &mut ZipStream<'_>,
        head: &Head<'_>,
        file: &File,
        size: u64,
    ) -> Result<Packed, ArchiveError> {
        let mut pieces = Pieces::new(file, size);
        zip.streamed(head, CompressionMethod::STORE, |send| {
            while let Some(data) = pieces.next(&mut self.input) {
                send(data)?;
            }
            Ok(pieces.content())
        })?;
        Ok(pieces.packed())
    }

    fn pack_deflated(
        &mut self,
        zip: &mut ZipStream<'_>,
        head: &Head<'_>,
        file: &File,
        size: u64,
    ) -> Result<Packed, ArchiveError> {
        let mut pieces = Pieces::new(file, size);
        self.deflate.reset();
        zip.streamed(head, CompressionMethod::DEFLATE, |send| {
            while let Some(data) = pieces.next(&mut self.input) {
                deflate_piece(&mut self.deflate, data, &mut self.output, FlushCompress::None, send)?;
            }
            deflate_piece(&mut self.deflate, &[], &mut self.output, FlushCompress::Finish, send)?;
            Ok(pieces.content())
        })?;
        Ok(pieces.packed())
    }

    /// Whether three pieces of a file shrink. An error counts as no: reading in earnest will meet and report it.
    fn sample_gains(&mut self, file: &File, size: u64) -> Result<bool, ArchiveError> {
        let last = size.saturating_sub(FILE_SAMPLE_BYTES as u64);
        let mut sample = Sample::default();
        for offset in [0, last / 2, last] {
            let room = self.input.get_mut(..FILE_SAMPLE_BYTES).unwrap_or_default();
            let filled = file.read_at(room, offset).unwrap_or(0);
            let piece = self.input.get(..filled).unwrap_or_default();
            sample.add(&mut self.deflate, piece, &mut self.output)?;
        }
        Ok(sample.gains())
    }
}

/// Pieces of a file, each deflated on its own: together, a file that repeats itself further apart than Deflate looks back
/// (32 KiB) would seem to shrink.
#[derive(Default)]
struct Sample {
    bytes: usize,
    deflated_bytes: usize,
}

impl Sample {
    fn add(&mut self, deflate: &mut Compress, piece: &[u8], output: &mut [u8]) -> Result<(), ArchiveError> {
        self.bytes += piece.len();
        self.deflated_bytes += shrink(deflate, piece, output)?.map_or(piece.len(), <[u8]>::len);
        Ok(())
    }

    fn gains(&self) -> bool {
        self.deflated_bytes <= self.bytes - self.bytes / 10
    }
}

/// `data` deflated, if that is at least a tenth smaller. Of what is not small three pieces are tried first.
fn shrink_whole<'out>(
    deflate: &mut Compress,
    data: &[u8],
    output: &'out mut [u8],
) -> Result<Option<&'out [u8]>, ArchiveError> {
    if data.len() < MIN_DEFLATE_BYTES {
        return Ok(None);
    }
    if data.len() > MIN_SAMPLED_BYTES {
        let last = data.len() - MEMORY_SAMPLE_BYTES;
        let mut sample = Sample::default();
        for offset in [0, last / 2, last] {
            let piece = data.get(offset..offset + MEMORY_SAMPLE_BYTES).unwrap_or_default();
            sample.add(deflate, piece, output)?;
        }
        if !sample.gains() {
            return Ok(None);
        }
    }
    shrink(deflate, data, output)
}

/// `data` deflated, if that is at least a tenth smaller.
///
/// Samples use the level of the real thing: level 1 of zlib-rs has fixed Huffman codes, and finds nothing to gain in base64 or
/// in columns of numbers, which shrink by a quarter or by half.
fn shrink<'out>(
    deflate: &mut Compress,
    data: &[u8],
    output: &'out mut [u8],
) -> Result<Option<&'out [u8]>, ArchiveError> {
    let limit = data.len() - data.len() / 10;
    let room = output.get_mut(..limit).unwrap_or_default();
    deflate.reset();
    let status = deflate.compress(data, room, FlushCompress::Finish).map_err(ArchiveError::Deflate)?;
    let length = usize::try_from(deflate.total_out()).unwrap_or(usize::MAX);
    // Any other status: the room was too small.
    Ok(if status == Status::StreamEnd { output.get(..length) } else { None })
}

/// Deflates all of `data`; with `Finish` also what the compressor still holds.
fn deflate_piece(
    deflate: &mut Compress,
    mut data: &[u8],
    output: &mut [u8],
    flush: FlushCompress,
    send: Send<'_>,
) -> Result<(), ArchiveError> {
    loop {
        let (total_in, total_out) = (deflate.total_in(), deflate.total_out());
        let status = deflate.compress(data, output, flush).map_err(ArchiveError::Deflate)?;
        let taken = usize::try_from(deflate.total_in() - total_in).unwrap_or(usize::MAX);
        let made = usize::try_from(deflate.total_out() - total_out).unwrap_or(usize::MAX);
        data = data.get(taken..).unwrap_or_default();
        if made > 0 {
            send(output.get(..made).unwrap_or_default())?;
        }
        // Room left over means that there is nothing more to come for this input.
        if status == Status::StreamEnd || (data.is_empty() && made < output.len()) {
            return Ok(());
        }
    }
}

/// The bytes of a file, piece by piece, up to the size it had when opened.
struct Pieces<'a> {
    file: &'a File,
    left: u64,
    bytes: u64,
    crc: Crc,
    cut: Option<io::Error>,
}

impl<'a> Pieces<'a> {
    fn new(file: &'a File, size: u64) -> Self {
        Self { file, left: size, bytes: 0, crc: Crc::new(), cut: None }
    }

    /// `None` at the end, be it the expected one, an earlier one, or an error.
    fn next<'buffer>(&mut self, buffer: &'buffer mut [u8]) -> Option<&'buffer [u8]> {
        if self.cut.is_some() {
            return None;
        }
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let (filled, cut) = read_full(self.file, buffer.get_mut(..want)?);
        self.cut = cut;
        self.left = if filled < want { 0 } else { self.left - filled as u64 };
        self.bytes += filled as u64;
        let data = buffer.get(..filled).filter(|data| !data.is_empty())?;
        self.crc.update(data);
        Some(data)
    }

    fn content(&self) -> Content {
        Content { crc: self.crc.sum(), size: self.bytes }
    }

    fn packed(self) -> Packed {
        Packed { bytes: self.bytes, cut: self.cut }
    }
}

/// Reads until `buffer` is full or the file ends; an error goes with the bytes read before it.
fn read_full(mut file: &File, buffer: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (filled, Some(error)),
        }
    }
    (filled, None)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::{Entry, noise, read_back};
    use super::*;
    use std::io::Write;
    use std::path::Path;

    const HEAD: Head<'static> = Head { name: b"file", mode: 0o100_644, mtime_s: 1 };

    /// Archives one file as if it had had `size` bytes when opened, and reads the archive back.
    fn pack(
        file: &File,
        size: u64,
        out: impl FnOnce(&mut Vec<u8>) -> Box<dyn Write + '_>,
    ) -> (Packed, Entry) {
        let mut bytes = Vec::new();
        let packed = {
            let mut out = out(&mut bytes);
            let mut zip = ZipStream::new(Path::new("/nonexistent"), &mut *out);
            let packed = Packer::new().pack(&mut zip, &HEAD, file, size).unwrap();
            zip.finish().unwrap();
            packed
        };
        let entry = read_back(&bytes).remove(&b"file"[..]).unwrap();
        (packed, entry)
    }

    fn plain(bytes: &mut Vec<u8>) -> Box<dyn Write + '_> {
        Box::new(bytes)
    }

    fn file_of(data: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(data).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        file
    }

    fn text(length: usize) -> Vec<u8> {
        let lines = (0..).flat_map(|line: u32| {
            format!("line {line} of {}\n", line.wrapping_mul(2_654_435_761)).into_bytes()
        });
        lines.take(length).collect()
    }

    #[test]
    fn every_size_around_the_limits_comes_back() {
        for make in [text, noise] {
            for limit in
                [0, MIN_DEFLATE_BYTES, MIN_SAMPLED_BYTES, BUFFER_BYTES, 2 * BUFFER_BYTES, 9 * BUFFER_BYTES]
            {
                for size in [limit.saturating_sub(1), limit, limit + 1] {
                    let data = make(size);
                    let (packed, entry) = pack(&file_of(&data), size as u64, plain);
                    assert_eq!(packed.bytes, size as u64);
                    assert!(packed.cut.is_none());
                    assert!(entry.data == data, "{size}");
                }
            }
        }
    }

    #[test]
    fn noise_that_repeats_far_apart_is_stored() {
        // The sample of the middle begins half a piece before the third repetition: half of it is the first one again.
        let data = noise(256 * 1024).repeat(4);
        let (_, entry) = pack(&file_of(&data), data.len() as u64, plain);
        assert_eq!(entry.method, CompressionMethod::STORE);
    }

    #[test]
    fn only_what_shrinks_is_deflated() {
        let digits: Vec<u8> = noise(300_000).iter().map(|byte| b'0' + byte % 10).collect();
        let cases = [
            (text(100), CompressionMethod::STORE),
            (text(5_000), CompressionMethod::DEFLATE),
            (text(100_000), CompressionMethod::DEFLATE),
            (text(1_000_000), CompressionMethod::DEFLATE),
            (digits, CompressionMethod::DEFLATE), // no repetition, but few symbols
            (noise(5_000), CompressionMethod::STORE),
            (noise(100_000), CompressionMethod::STORE),
            (noise(1_000_000), CompressionMethod::STORE),
        ];
        for (data, method) in cases {
            let (_, entry) = pack(&file_of(&data), data.len() as u64, plain);
            assert_eq!(entry.method, method, "{} bytes", data.len());
        }
    }

    #[test]
    fn a_file_that_has_grown_is_read_up_to_the_size_it_had() {
        for make in [text, noise] {
            for size in [1_000, 500_000] {
                let data = make(size + 100_000);
                let (packed, entry) = pack(&file_of(&data), size as u64, plain);
                assert_eq!(packed.bytes, size as u64);
                assert!(entry.data == data[..size]);
            }
        }
    }

    /// Cuts a file short when the first bytes of the archive go out.
    struct Shrinker<'a> {
        file: File,
        to: u64,
        bytes: &'a mut Vec<u8>,
    }

    impl Write for Shrinker<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.file.set_len(self.to)?;
            self.bytes.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_file_that_shrinks_while_read_gives_what_was_read() {
        for make in [text, noise] {
            let data = make(3_000_000);
            let file = file_of(&data);
            let size = data.len() as u64;
            let to = 2_000_001;
            let writer = file.try_clone().unwrap();
            let (packed, entry) = pack(&file, size, |bytes| Box::new(Shrinker { file: writer, to, bytes }));
            assert_eq!(packed.bytes, to);
            assert!(packed.cut.is_none());
            assert!(entry.data == data[..2_000_001]);
        }
        let (packed, entry) = pack(&file_of(b"short"), 1_000, plain);
        assert_eq!((packed.bytes, &entry.data[..]), (5, &b"short"[..]));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_cut_there() {
        // The pages at address 0 of a process are never mapped: reading them is EIO.
        for size in [1_000, 1_000_000] {
            let (packed, entry) = pack(&File::open("/proc/self/mem").unwrap(), size, plain);
            assert_eq!(packed.cut.and_then(|error| error.raw_os_error()), Some(5));
            assert_eq!((packed.bytes, entry.data.len()), (0, 0));
        }
    }
}
