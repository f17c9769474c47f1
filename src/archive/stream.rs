//! Entries of an archive as they go out: header, data, descriptor to the receiver, the central record to the spool.
//! rawzip keeps about 200 bytes for each entry of a `ZipArchiveWriter` until its end, so each entry gets a writer of its own,
//! at the offset that has been reached. Nothing here reads files or chooses a method.

use super::ArchiveError;
use super::central_directory::CentralDirectory;
use super::output::Output;
use super::records::{Caught, Head, Known, Patch};
use rawzip::{CompressionMethod, DataDescriptorOutput};
use std::io::Write;
use std::path::Path;

/// Sends compressed data of an entry on its way.
pub(super) type Send<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), ArchiveError>;

/// What the data of an entry turned out to be.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Content {
    pub crc: u32,
    /// Bytes before compression.
    pub size: u64,
}

/// What an archive came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Totals {
    pub entries: u64,
    pub bytes: u64,
}

/// An archive that is being written.
pub(super) struct ZipStream<'a> {
    output: Output<'a>,
    central: CentralDirectory,
    caught: Caught,
}

impl<'a> ZipStream<'a> {
    pub(super) fn new(spool: &Path, out: &'a mut dyn Write) -> Self {
        Self { output: Output::new(out), central: CentralDirectory::new(spool), caught: Caught::default() }
    }

    /// A directory; `head.name` ends in `/`.
    pub(super) fn directory(&mut self, head: &Head<'_>) -> Result<(), ArchiveError> {
        let patch = Patch::new(head, None);
        let mut archive = self.caught.archive_at(self.output.offset());
        head.directory(&mut archive)?;
        self.caught.release(|header| {
            patch.local(header);
            self.output.push(header)
        })?;
        archive.finish().map_err(ArchiveError::Record)?;
        self.add_central(patch)
    }

    /// An entry whose data is all in memory: `data`, which had `size` bytes and this `crc` before `method` was applied.
    /// Its sizes stand in the local header, so that also readers which cannot seek understand it.
    pub(super) fn whole(
        &mut self,
        head: &Head<'_>,
        method: CompressionMethod,
        data: &[u8],
        content: Content,
    ) -> Result<(), ArchiveError> {
        let sizes = (u32::try_from(content.size), u32::try_from(data.len()));
        let known = match sizes {
            (Ok(size), Ok(compressed_size)) => Some(Known { crc: content.crc, size, compressed_size }),
            _ => None,
        };
        self.file(head, method, known, |send| {
            send(data)?;
            Ok(content)
        })
    }

    /// An entry whose sizes are known only at its end: `body` sends its data, as `method` says, and tells what it was.
    pub(super) fn streamed(
        &mut self,
        head: &Head<'_>,
        method: CompressionMethod,
        body: impl FnOnce(Send<'_>) -> Result<Content, ArchiveError>,
    ) -> Result<(), ArchiveError> {
        self.file(head, method, None, body)
    }

    fn file(
        &mut self,
        head: &Head<'_>,
        method: CompressionMethod,
        known: Option<Known>,
        body: impl FnOnce(Send<'_>) -> Result<Content, ArchiveError>,
    ) -> Result<(), ArchiveError> {
        let patch = Patch::new(head, known);
        let mut archive = self.caught.archive_at(self.output.offset());
        let mut entry = head.file(&mut archive, method)?;
        self.caught.release(|header| {
            patch.local(header);
            self.output.push(header)
        })?;

        let content = body(&mut |data| {
            self.output.push(data)?;
            self.caught.count(&mut entry, data)
        })?;

        entry.finish(DataDescriptorOutput::new(content.crc, content.size)).map_err(ArchiveError::Record)?;
        self.caught.release(|descriptor| match known {
            Some(_) => Ok(()), // the header has said it all
            None => self.output.push(descriptor),
        })?;
        archive.finish().map_err(ArchiveError::Record)?;
        self.add_central(patch)
    }

    /// Writes the central directory and the end of the archive.
    pub(super) fn finish(mut self) -> Result<Totals, ArchiveError> {
        let entries = self.central.write_to(&mut self.output)?;
        self.output.flush()?;
        Ok(Totals { entries, bytes: self.output.offset() })
    }

    fn add_central(&mut self, patch: Patch) -> Result<(), ArchiveError> {
        self.caught.release(|record| {
            patch.central(record);
            self.central.add(record)
        })
    }
}
