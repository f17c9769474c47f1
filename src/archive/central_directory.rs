//! The end of an archive: the central directory, spooled while entries are written, and the records that close it.
//! Source: PKWARE APPNOTE.TXT 6.3.10. Nothing here knows files or headers of entries.

use super::ArchiveError;
use super::output::Output;
use std::io::{BufWriter, Read, Seek, Write};
use std::path::Path;
use tempfile::{SpooledTempFile, spooled_tempfile_in};

/// Up to this size the central directory stays in memory: about 2,500 entries.
const MEMORY_BYTES: usize = 256 * 1024;
/// Records have about 100 bytes each: one system call for some 160 of them, once the spool is a file.
const BUFFER_BYTES: usize = 16 * 1024;

/// Versions are in tenths: 4.5 brought ZIP64 (4.4.3.2); the high byte says Unix (4.4.2.2).
const ZIP64_VERSION: u16 = 45;
const MADE_BY_UNIX: u16 = 3 << 8;

/// The central records written so far, in memory or in an unlinked file.
#[derive(Debug)]
pub(super) struct CentralDirectory {
    spool: BufWriter<SpooledTempFile>,
    entries: u64,
    bytes: u64,
}

impl CentralDirectory {
    /// `directory` is where the temporary file goes, should one be needed.
    pub(super) fn new(directory: &Path) -> Self {
        let spool = spooled_tempfile_in(MEMORY_BYTES, directory);
        Self { spool: BufWriter::with_capacity(BUFFER_BYTES, spool), entries: 0, bytes: 0 }
    }

    /// Adds the central record of one entry.
    pub(super) fn add(&mut self, record: &[u8]) -> Result<(), ArchiveError> {
        self.spool.write_all(record).map_err(ArchiveError::Spool)?;
        self.entries += 1;
        self.bytes += record.len() as u64;
        Ok(())
    }

    /// Writes all records and what closes the archive; gives the number of entries.
    pub(super) fn write_to(mut self, output: &mut Output<'_>) -> Result<u64, ArchiveError> {
        let offset = output.offset();
        self.spool.flush().map_err(ArchiveError::Spool)?;
        let spool = self.spool.get_mut();
        spool.rewind().map_err(ArchiveError::Spool)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let filled = spool.read(&mut buffer).map_err(ArchiveError::Spool)?;
            let records = buffer.get(..filled).unwrap_or_default();
            if records.is_empty() {
                break;
            }
            output.push(records)?;
        }
        output.push(&end_records(self.entries, self.bytes, offset))?;
        Ok(self.entries)
    }
}

/// What follows the central directory: the ZIP64 records where a number needs them, then the end record that all archives have.
fn end_records(entries: u64, directory_bytes: u64, directory_offset: u64) -> Vec<u8> {
    // 4.4.1.4: a number that does not fit is written as all ones, and stands in the ZIP64 record. So all ones cannot be
    // the number itself either.
    let short_entries = fits_u16(entries);
    let short_bytes = fits_u32(directory_bytes);
    let short_offset = fits_u32(directory_offset);

    let mut end = Vec::with_capacity(56 + 20 + 22);
    if short_entries.is_none() || short_bytes.is_none() || short_offset.is_none() {
        zip64_end_record(&mut end, entries, directory_bytes, directory_offset);
        zip64_locator(&mut end, directory_offset + directory_bytes);
    }
    // 4.3.16 End of central directory record.
    end.extend(b"PK\x05\x06");
    end.extend([0; 4]); // number of this disk, and of the one where the directory starts
    let short_entries = short_entries.unwrap_or(u16::MAX).to_le_bytes();
    end.extend(short_entries); // entries on this disk
    end.extend(short_entries); // entries in all
    end.extend(short_bytes.unwrap_or(u32::MAX).to_le_bytes());
    end.extend(short_offset.unwrap_or(u32::MAX).to_le_bytes());
    end.extend([0; 2]); // length of the comment
    end
}

/// 4.3.14 Zip64 end of central directory record, 56 bytes.
fn zip64_end_record(end: &mut Vec<u8>, entries: u64, directory_bytes: u64, directory_offset: u64) {
    end.extend(b"PK\x06\x06");
    end.extend(44_u64.to_le_bytes()); // what follows this field
    end.extend((MADE_BY_UNIX | ZIP64_VERSION).to_le_bytes());
    end.extend(ZIP64_VERSION.to_le_bytes()); // version needed to extract
    end.extend([0; 8]); // number of this disk, and of the one where the directory starts
    end.extend(entries.to_le_bytes()); // entries on this disk
    end.extend(entries.to_le_bytes()); // entries in all
    end.extend(directory_bytes.to_le_bytes());
    end.extend(directory_offset.to_le_bytes());
}

/// 4.3.15 Zip64 end of central directory locator, 20 bytes.
fn zip64_locator(end: &mut Vec<u8>, record_offset: u64) {
    end.extend(b"PK\x06\x07");
    end.extend([0; 4]); // the disk where the ZIP64 end record starts
    end.extend(record_offset.to_le_bytes());
    end.extend(1_u32.to_le_bytes()); // disks in all
}

fn fits_u16(number: u64) -> Option<u16> {
    u16::try_from(number).ok().filter(|short| *short != u16::MAX)
}

fn fits_u32(number: u64) -> Option<u32> {
    u32::try_from(number).ok().filter(|short| *short != u32::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_classic_end_has_22_bytes_until_a_number_does_not_fit() {
        let most_32 = u64::from(u32::MAX) - 1;
        assert_eq!(end_records(65_534, most_32, most_32).len(), 22);
        for (entries, bytes, offset) in [(65_535, 1, 1), (1, most_32 + 1, 1), (1, 1, most_32 + 1)] {
            let end = end_records(entries, bytes, offset);
            assert_eq!(end.len(), 56 + 20 + 22);
            assert_eq!(end[32..40], entries.to_le_bytes());
            assert_eq!(end[64..72], (bytes + offset).to_le_bytes());
        }
    }

    #[test]
    fn records_come_back_in_order_from_memory_and_from_a_file() {
        let directory = tempfile::tempdir().unwrap();
        for count in [3_u32, 100_000] {
            let mut central = CentralDirectory::new(directory.path());
            for i in 0..count {
                central.add(&i.to_le_bytes()).unwrap();
            }
            let mut bytes = Vec::new();
            let mut output = Output::new(&mut bytes);
            assert_eq!(central.write_to(&mut output).unwrap(), u64::from(count));
            output.flush().unwrap();
            for i in 0..count {
                let at = i as usize * 4;
                assert_eq!(bytes[at..at + 4], i.to_le_bytes());
            }
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "the spool file has no name");
    }

    #[test]
    fn a_missing_spool_directory_is_an_error_not_a_panic() {
        let mut central = CentralDirectory::new(Path::new("/nonexistent/spool"));
        let result = (0..100_000).try_for_each(|_| central.add(&[0; 100]));
        assert!(matches!(result, Err(ArchiveError::Spool(_))));
    }
}
