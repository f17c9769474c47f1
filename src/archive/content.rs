//! The data of a file, read into blocks: all of a small one into one, that of a large one piece by piece.
//! Nothing here opens files, compresses in earnest or knows the ZIP format.

use super::block::{Block, DATA_BYTES, Part};
use super::deflate::{DeflateError, Deflater, MIN_DEFLATE_BYTES, Sample};
use super::stream::Content;
use super::walk::Stamp;
use flate2::Crc;
use rustix::fs::fstat;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// What of a large file is compressed to see whether that pays is three pieces of this length.
const SAMPLE_BYTES: usize = 16 * 1024;

/// CRC and size of data that is all here. flate2's CRC runs at 8 to 14 GB/s where rawzip's runs at 4.
pub(super) fn content_of(data: &[u8]) -> Content {
    let mut crc = Crc::new();
    crc.update(data);
    Content { crc: crc.sum(), size: data.len() as u64 }
}

/// What a piece of a file turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    /// There is more to come.
    More,
    /// It is the last one.
    Over,
    /// The file is not what it was when opened, and had to be.
    Changed,
}

/// A file that is being read, up to the size it had when opened. What it has grown by since is not read; if it has shrunk, what
/// is left is. If it has a stamp it must not change at all.
#[derive(Debug)]
pub(super) struct Reading {
    file: File,
    is_large: bool,
    deflates: bool,
    left: u64,
    bytes: u64,
    crc: Crc,
    stamp: Option<Stamp>,
    /// The end of the piece before.
    history: Vec<u8>,
}

impl Reading {
    /// Begins with a file that has `size` bytes. `block` lends its buffers.
    pub(super) fn begin(
        file: File,
        size: u64,
        stamp: Option<Stamp>,
        block: &mut Block,
        deflater: &mut Deflater,
    ) -> Result<Self, DeflateError> {
        let is_large = size > DATA_BYTES as u64;
        let shrinks = if is_large {
            sample_gains(&file, size, block, deflater)?
        } else {
            size >= MIN_DEFLATE_BYTES as u64
        };
        if is_large && !shrinks {
            // Sending it takes a while: dozens of them at once must not cost a compressor each.
            deflater.rest();
        }
        Ok(Self {
            file,
            is_large,
            deflates: shrinks,
            left: size,
            bytes: 0,
            crc: Crc::new(),
            stamp,
            history: Vec::new(),
        })
    }

    /// Reads all of a small file or the next piece of a large one.
    pub(super) fn fill(&mut self, block: &mut Block) -> io::Result<Filled> {
        let is_first = self.bytes == 0;
        block.begin(Part::Whole);
        block.deflates = self.deflates;
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(DATA_BYTES);
        let filled = read_full(&self.file, block.space(want)?)?;
        block.set_data_bytes(filled);
        self.left = if filled < want { 0 } else { self.left - filled as u64 };
        self.bytes += filled as u64;
        self.crc.update(block.data());
        block.content = Content { crc: self.crc.sum(), size: self.bytes };
        if self.is_large {
            block.part = Part::Piece { is_first, is_last: self.is_over() };
            if self.deflates {
                block.set_history(&self.history);
                self.history.clear();
                self.history.extend_from_slice(block.end_of_data());
            }
        }
        if !self.is_over() {
            return Ok(Filled::More);
        }
        Ok(if self.has_changed()? { Filled::Changed } else { Filled::Over })
    }

    /// Nothing is left of it, be that the expected end or an earlier one.
    fn is_over(&self) -> bool {
        self.left == 0
    }

    fn has_changed(&self) -> io::Result<bool> {
        match self.stamp {
            Some(stamp) => Ok(Stamp::from(&fstat(&self.file)?) != stamp),
            None => Ok(false),
        }
    }

    /// Bytes read.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Whether three pieces of a file shrink. An error counts as no: reading in earnest will meet and report it.
fn sample_gains(
    file: &File,
    size: u64,
    block: &mut Block,
    deflater: &mut Deflater,
) -> Result<bool, DeflateError> {
    let last = size.saturating_sub(SAMPLE_BYTES as u64);
    let mut sample = Sample::default();
    block.begin(Part::Whole);
    for offset in [0, last / 2, last] {
        let filled = block.space(SAMPLE_BYTES).and_then(|space| file.read_at(space, offset)).unwrap_or(0);
        block.set_data_bytes(filled);
        let (_, piece, output) = block.buffers();
        sample.add(deflater, piece, output)?;
    }
    Ok(sample.gains())
}

/// Reads until `buffer` is full or the file ends.
fn read_full(mut file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::records::Head;
    use super::super::stream::ZipStream;
    use super::super::tests::{Entry, noise, read_back};
    use super::super::window::Source;
    use super::super::{ArchiveError, pack as pack_all};
    use super::*;
    use crate::archive::deflate::MIN_SAMPLED_BYTES;
    use rawzip::CompressionMethod;
    use std::collections::VecDeque;
    use std::io::Write;
    use std::path::Path;

    const THREADS: [usize; 3] = [1, 2, 5];

    /// Files as if they had had these sizes when opened, called 0, 1 and so on.
    struct Files {
        queue: VecDeque<(File, u64, Option<Stamp>)>,
        reading: Option<Reading>,
        /// Bytes read of each.
        ended: Vec<u64>,
    }

    impl Source for Files {
        fn fill(&mut self, block: &mut Block, deflater: &mut Deflater) -> Result<bool, ArchiveError> {
            let mut reading = if let Some(reading) = self.reading.take() {
                reading
            } else {
                let Some((file, size, stamp)) = self.queue.pop_front() else { return Ok(false) };
                let name = self.ended.len().to_string();
                block.set_head(&Head { name: name.as_bytes(), mode: 0o100_644, mtime_s: 1 });
                Reading::begin(file, size, stamp, block, deflater).map_err(ArchiveError::Deflate)?
            };
            let path = String::new;
            match reading.fill(block) {
                Ok(Filled::More) => self.reading = Some(reading),
                Ok(Filled::Over) => self.ended.push(reading.bytes()),
                Ok(Filled::Changed) => return Err(ArchiveError::Changed { path: path() }),
                Err(source) => return Err(ArchiveError::Read { path: path(), source }),
            }
            Ok(true)
        }
    }

    fn pack_files(files: Vec<(File, u64)>, threads: usize, out: &mut dyn Write) -> Vec<u64> {
        try_pack_files(files.into_iter().map(|(file, size)| (file, size, None)).collect(), threads, out)
            .unwrap()
    }

    fn try_pack_files(
        queue: VecDeque<(File, u64, Option<Stamp>)>,
        threads: usize,
        out: &mut dyn Write,
    ) -> Result<Vec<u64>, ArchiveError> {
        let mut files = Files { queue, reading: None, ended: Vec::new() };
        let mut zip = ZipStream::new(Path::new("/nonexistent"), out);
        pack_all(&mut files, threads, &mut zip)?;
        zip.finish()?;
        Ok(files.ended)
    }

    /// Archives one file as if it had had `size` bytes when opened, and reads the archive back; gives also the bytes read.
    fn pack(
        file: &File,
        size: u64,
        threads: usize,
        out: impl FnOnce(&mut Vec<u8>) -> Box<dyn Write + '_>,
    ) -> (u64, Entry) {
        let mut bytes = Vec::new();
        let ended = pack_files(vec![(file.try_clone().unwrap(), size)], threads, &mut *out(&mut bytes));
        let entry = read_back(&bytes).remove(&b"0"[..]).unwrap();
        (ended[0], entry)
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
    fn every_size_around_the_limits_comes_back_from_any_number_of_threads() {
        for make in [text, noise] {
            for limit in [0, MIN_DEFLATE_BYTES, MIN_SAMPLED_BYTES, DATA_BYTES, 2 * DATA_BYTES, 9 * DATA_BYTES]
            {
                for size in [limit.saturating_sub(1), limit, limit + 1] {
                    let data = make(size);
                    let mut methods = Vec::new();
                    for threads in THREADS {
                        let (bytes, entry) = pack(&file_of(&data), size as u64, threads, plain);
                        assert_eq!(bytes, size as u64);
                        assert!(entry.data == data, "{size}");
                        methods.push(entry.method);
                    }
                    assert_eq!(methods, [methods[0]; 3]);
                }
            }
        }
    }

    #[test]
    fn noise_that_repeats_far_apart_is_stored() {
        // The sample of the middle begins half a piece before the third repetition: half of it is the first one again.
        let data = noise(256 * 1024).repeat(4);
        let (_, entry) = pack(&file_of(&data), data.len() as u64, 1, plain);
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
            for threads in THREADS {
                let (_, entry) = pack(&file_of(&data), data.len() as u64, threads, plain);
                assert_eq!(entry.method, method, "{} bytes", data.len());
            }
        }
    }

    #[test]
    fn any_number_of_files_that_do_not_shrink_follow_one_another() {
        let sizes = [200, 5_000, 100_000, 200_000];
        for threads in THREADS {
            let files = (0..40).map(|n| sizes[n % sizes.len()]);
            let files = files.map(|size| (file_of(&noise(size)), size as u64)).collect();
            let mut bytes = Vec::new();
            pack_files(files, threads, &mut bytes);
            let entries = read_back(&bytes);
            for n in 0..40 {
                assert!(entries[n.to_string().as_bytes()].data == noise(sizes[n % sizes.len()]), "{n}");
            }
        }
    }

    /// Repeats itself after 30,000 bytes, but is noise within: it shrinks by what is found in the piece before.
    #[test]
    fn a_piece_knows_what_was_before_it() {
        let data = noise(30_000).repeat(100);
        let sample = [text(DATA_BYTES), data.clone(), text(DATA_BYTES)].concat();
        let mut lengths = Vec::new();
        for threads in THREADS {
            let mut bytes = Vec::new();
            pack_files(vec![(file_of(&sample), sample.len() as u64)], threads, &mut bytes);
            assert!(read_back(&bytes)[&b"0"[..]].data == sample);
            lengths.push(bytes.len());
        }
        let apart = lengths[0] / 20;
        assert!(lengths.iter().all(|length| *length < lengths[0] + apart), "{lengths:?}");
    }

    #[test]
    fn a_file_that_becomes_noise_after_its_sample_comes_back() {
        let mut data = noise(3_000_000);
        data[..20_000].copy_from_slice(&text(20_000));
        data[1_480_000..1_520_000].copy_from_slice(&text(40_000));
        for threads in THREADS {
            let (_, entry) = pack(&file_of(&data), data.len() as u64, threads, plain);
            assert_eq!(entry.method, CompressionMethod::DEFLATE);
            assert!(entry.data == data);
        }
    }

    #[test]
    fn a_file_that_has_grown_is_read_up_to_the_size_it_had() {
        for make in [text, noise] {
            for (size, threads) in [(1_000, 1), (500_000, 1), (1_000, 3), (500_000, 3)] {
                let data = make(size + 100_000);
                let (bytes, entry) = pack(&file_of(&data), size as u64, threads, plain);
                assert_eq!(bytes, size as u64);
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
        // The second ends at the end of a piece.
        for (make, threads, to) in [
            (text, 1, 2_000_001),
            (text, 2, 20 * DATA_BYTES),
            (text, 3, 2_500_000),
            (noise, 1, 2_000_001),
            (noise, 2, 2_000_001),
        ] as [(fn(usize) -> Vec<u8>, usize, usize); 5]
        {
            let data = make(4_000_000);
            let file = file_of(&data);
            let size = data.len() as u64;
            let writer = file.try_clone().unwrap();
            let (bytes, entry) =
                pack(&file, size, threads, |bytes| Box::new(Shrinker { file: writer, to: to as u64, bytes }));
            assert_eq!(bytes, to as u64);
            assert!(entry.data == data[..to]);
        }
        for threads in THREADS {
            let (bytes, entry) = pack(&file_of(b"short"), 1_000, threads, plain);
            assert_eq!((bytes, &entry.data[..]), (5, &b"short"[..]));
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error() {
        // The pages at address 0 of a process are never mapped: reading them is EIO.
        for (size, threads) in [(1_000, 1), (1_000_000, 1), (1_000, 3), (1_000_000, 3)] {
            let file = File::open("/proc/self/mem").unwrap();
            let error = try_pack_files([(file, size, None)].into(), threads, &mut Vec::new()).unwrap_err();
            assert!(
                matches!(&error, ArchiveError::Read { source, .. } if source.raw_os_error() == Some(5)),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_that_may_not_change_and_does_is_an_error() {
        for (threads, to) in [(1, 2_000_001), (2, 20 * DATA_BYTES as u64), (1, 5_000_000)] {
            let file = file_of(&noise(4_000_000));
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
            let stamp = Stamp::from(&fstat(&file).unwrap());
            let pack = |out: &mut dyn Write| {
                try_pack_files([(file.try_clone().unwrap(), 4_000_000, Some(stamp))].into(), threads, out)
            };
            io::Seek::rewind(&mut &file).unwrap();
            assert_eq!(pack(&mut Vec::new()).unwrap(), [4_000_000]);
            io::Seek::rewind(&mut &file).unwrap();
            let error = pack(&mut Shrinker { file: file.try_clone().unwrap(), to, bytes: &mut Vec::new() });
            assert!(matches!(error, Err(ArchiveError::Changed { .. })), "{error:?}");
        }
    }
}
