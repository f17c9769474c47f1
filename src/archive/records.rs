//! ZIP records of one entry: made by rawzip, caught in memory, corrected where rawzip cannot be told what to write.
//! Source of offsets and bits: PKWARE APPNOTE.TXT 6.3.10. Nothing here decides when a record goes out.

use super::ArchiveError;
use rawzip::extra_fields::ExtraFieldId;
use rawzip::path::EntryPath;
use rawzip::time::{DosDateTime, UtcDateTime};
use rawzip::{
    CompressionMethod, Header, WrittenZipEntry, ZipArchiveWriter, ZipDirBuilder, ZipEntryWriter,
    ZipFileBuilder,
};
use std::cell::Cell;
use std::io::{self, Write};

/// 1980-01-01T00:00:00Z and 2107-12-31T23:59:58Z, the first and the last time of MS-DOS, in seconds since 1970.
const FIRST_DOS_S: i64 = 315_532_800;
const LAST_DOS_S: i64 = 4_354_819_198;

/// What stands in the headers of an entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a> {
    /// Relative path with `/` in UTF-8, at most 65,535 bytes; that of a directory ends in `/`.
    pub name: &'a [u8],
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Seconds since 1970.
    pub mtime_s: i64,
}

impl<'a> Head<'a> {
    /// The record of a directory, with all fields.
    pub(super) fn directory<W: Write>(
        &self,
        archive: &'a mut ZipArchiveWriter<W>,
    ) -> Result<WrittenZipEntry, ArchiveError> {
        archive
            .new_dir(EntryPath::verbatim(self.name))
            .unix_permissions(self.mode)
            .last_modified(UtcDateTime::from_unix(self.mtime_s))
            .extra_field(ExtraFieldId::EXTENDED_TIMESTAMP, &self.timestamp(), Header::LOCAL)
            .and_then(ZipDirBuilder::create)
            .map_err(ArchiveError::Record)
    }

    /// The local header of a file or a link, with all fields.
    pub(super) fn file<'archive, W: Write>(
        &self,
        archive: &'archive mut ZipArchiveWriter<W>,
        method: CompressionMethod,
    ) -> Result<ZipEntryWriter<'archive, W>, ArchiveError> {
        archive
            .new_file(EntryPath::verbatim(self.name))
            .compression_method(method)
            .unix_permissions(self.mode)
            .last_modified(UtcDateTime::from_unix(self.mtime_s))
            .extra_field(ExtraFieldId::EXTENDED_TIMESTAMP, &self.timestamp(), Header::LOCAL)
            .and_then(ZipFileBuilder::start)
            .map(|(entry, _)| entry)
            .map_err(ArchiveError::Record)
    }

    /// The extended timestamp of a local header. rawzip writes it to the central record only, but Info-ZIP's unzip takes
    /// times from the local one, and would else read the DOS time, which is UTC here, as local time.
    fn timestamp(&self) -> [u8; 5] {
        let seconds = u32::try_from(self.mtime_s.max(0)).unwrap_or(u32::MAX);
        let [a, b, c, d] = seconds.to_le_bytes();
        [1, a, b, c, d] // 1: the modification time follows, and no other
    }

    /// Time and date as MS-DOS has them (4.4.6), the whole of them within its years. rawzip clamps the year alone.
    fn dos_words(&self) -> [u8; 4] {
        let clamped = self.mtime_s.clamp(FIRST_DOS_S, LAST_DOS_S);
        let dos = DosDateTime::from(&UtcDateTime::from_unix(clamped));
        let ([a, b], [c, d]) = (dos.packed_time().to_le_bytes(), dos.packed_date().to_le_bytes());
        [a, b, c, d]
    }
}

/// CRC and size of data that is known before its header is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub crc: u32,
    /// Bytes before compression. Known data is in memory: far below the 4 GiB of the header's fields.
    pub size: u32,
    pub compressed_size: u32,
}

/// General purpose bits (4.4.4): sizes follow in a descriptor; the name is UTF-8.
const DESCRIPTOR_BIT: u16 = 1 << 3;
const UTF8_BIT: u16 = 1 << 11;

/// What rawzip's records lack.
///
/// It sets the UTF-8 bit only for names that it also normalizes (`a\b` becomes `a/b`, and `c:d` becomes `d`), but names must
/// stay exact. It puts sizes only into a descriptor behind the data, but readers that cannot seek want them in front.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patch {
    utf8: bool,
    dos: [u8; 4],
    known: Option<Known>,
}

impl Patch {
    /// ASCII needs no bit: it is the same in code page 437, the encoding without the bit (appendix D).
    pub(super) fn new(head: &Head<'_>, known: Option<Known>) -> Self {
        Self { utf8: !head.name.is_ascii(), dos: head.dos_words(), known }
    }

    /// Corrects a local header (4.3.7).
    pub(super) fn local(self, header: &mut [u8]) {
        self.bits(header, 6);
        put(header, 10, &self.dos);
        if let Some(known) = self.known {
            put(header, 14, &known.crc.to_le_bytes());
            put(header, 18, &known.compressed_size.to_le_bytes());
            put(header, 22, &known.size.to_le_bytes());
        }
    }

    /// Corrects a central record (4.3.12), and cuts off the end records that rawzip puts behind it.
    pub(super) fn central(self, record: &mut Vec<u8>) {
        self.bits(record, 8);
        put(record, 12, &self.dos);
        // The lengths of name, extra fields and comment, which follow the 46 bytes that are always there.
        let length = [28, 30, 32].map(|at| usize::from(u16_at(record, at)));
        record.truncate(46 + length.iter().sum::<usize>());
    }

    fn bits(self, record: &mut [u8], at: usize) {
        let mut bits = u16_at(record, at);
        if self.utf8 {
            bits |= UTF8_BIT;
        }
        if self.known.is_some() {
            bits &= !DESCRIPTOR_BIT;
        }
        put(record, at, &bits.to_le_bytes());
    }
}

fn put(record: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(field) = record.get_mut(at..at + bytes.len()) {
        field.copy_from_slice(bytes);
    }
}

fn u16_at(record: &[u8], at: usize) -> u16 {
    match record.get(at..at + 2) {
        Some(&[low, high]) => u16::from_le_bytes([low, high]),
        _ => 0,
    }
}

/// Where rawzip writes: its records are kept; data is only counted, as it has gone out already.
#[derive(Default)]
pub(super) struct Caught {
    records: Cell<Vec<u8>>,
    counting: Cell<bool>,
}

impl Caught {
    /// A writer for one entry at `offset`.
    pub(super) fn archive_at(&self, offset: u64) -> ZipArchiveWriter<&Self> {
        ZipArchiveWriter::builder().with_offset(offset).build(self)
    }

    /// Passes what has been caught since the last time to `send`.
    pub(super) fn release(
        &self,
        send: impl FnOnce(&mut Vec<u8>) -> Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        let mut records = self.records.take();
        let result = send(&mut records);
        // The allocation serves the next record.
        records.clear();
        self.records.set(records);
        result
    }

    /// Tells rawzip of data, from which it knows the compressed size.
    pub(super) fn count(
        &self,
        entry: &mut ZipEntryWriter<'_, &Self>,
        data: &[u8],
    ) -> Result<(), ArchiveError> {
        self.counting.set(true);
        let counted = entry.write_all(data);
        self.counting.set(false);
        counted.map_err(ArchiveError::Write)
    }
}

impl Write for &Caught {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.counting.get() {
            let mut records = self.records.take();
            records.extend_from_slice(bytes);
            self.records.set(records);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
