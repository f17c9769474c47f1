//! A directory as a ZIP, made while it is sent: constant memory, whatever the number, size or depth of the files.
//! `walk` finds, `content` reads and compresses, `records`, `stream` and `central_directory` know the ZIP format,
//! `output` gathers bytes, `skipped` remembers what was lost. Blocking by design, for a disk thread; no HTTP, no store and
//! no coroutine is known here.

mod central_directory;
mod content;
mod output;
mod records;
mod skipped;
mod stream;
#[cfg(test)]
mod tests;
mod walk;

pub use skipped::Skipped;

use content::{Packer, content_of};
use rawzip::CompressionMethod;
use records::Head;
use skipped::SkipList;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use stream::ZipStream;
use walk::{Found, Meta, Walk};

/// The entry that lists what was left out; the prefix `.orchestrator.` is the client's (CONTRACT.md, "Files").
const SKIPPED_NAME: &[u8] = b".orchestrator.skipped";
/// A regular file that everybody may read, `S_IFREG | 0644`.
const SKIPPED_MODE: u32 = 0o100_644;

/// What an archive holds and what had to be left out.
#[derive(Debug, Default)]
pub struct Summary {
    /// Files, directories and links in the archive, its own list of skipped paths included.
    pub entries: u64,
    /// Bytes read from files, before compression.
    pub input_bytes: u64,
    /// Bytes written to `out`.
    pub output_bytes: u64,
    /// The first paths that were left out or cut short, with the reason; capped, see `skipped_total`.
    pub skipped: Vec<Skipped>,
    /// How many paths were left out or cut short.
    pub skipped_total: u64,
}

/// Why there is no archive, or only the beginning of one.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The directory is missing, is no directory, or may not be read.
    #[error("cannot open directory {}", path.display())]
    OpenDirectory {
        /// The directory that was to be archived.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The receiver failed: most often it went away.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
    /// The temporary file of the central directory failed: most often a full disk.
    #[error("cannot spool the central directory")]
    Spool(#[source] io::Error),
    /// The compressor refused its input; it has no reason to.
    #[error("cannot compress")]
    Deflate(#[source] flate2::CompressError),
    /// rawzip refused a name or a field; lengths are checked before, so it has no reason to.
    #[error("cannot build a ZIP record")]
    Record(#[source] rawzip::Error),
}

/// Writes the ZIP of `directory` to `out`, which need not seek.
///
/// Blocking; for a disk thread. `spool` is a directory for the unlinked temporary file of the central directory, which is
/// made only when that outgrows 256 KiB. The directory may change meanwhile: what is gone is not in the archive, what
/// cannot be read is listed in [`Summary::skipped`] and in a last entry `.orchestrator.skipped`. After an error the output
/// is no archive: whoever receives it must be told that it ended early.
pub fn write_zip(directory: &Path, spool: &Path, out: &mut dyn Write) -> Result<Summary, ArchiveError> {
    let mut walk = Walk::open(directory)
        .map_err(|source| ArchiveError::OpenDirectory { path: directory.to_path_buf(), source })?;
    let mut zip = ZipStream::new(spool, out);
    let mut packer = Packer::new();
    let mut skipped = SkipList::default();
    let mut input_bytes = 0;

    while let Some(found) = walk.next() {
        let name = walk.name();
        if is_reserved(name) {
            skipped.add(name, "the name is reserved for this list");
            continue;
        }
        match found {
            Found::Directory { meta, unlisted } => {
                zip.directory(&head(name, meta))?;
                if let Some(reason) = unlisted {
                    skipped.add(name, format_args!("cannot list it: {reason}"));
                }
            }
            Found::File { file, meta, size } => {
                let done = packer.pack(&mut zip, &head(name, meta), &file, size)?;
                input_bytes += done.bytes;
                if let Some(reason) = done.cut {
                    skipped.add(name, format_args!("cut after {} bytes: {reason}", done.bytes));
                }
            }
            Found::Link { meta, target } => {
                let target = target.as_bytes();
                zip.whole(&head(name, meta), CompressionMethod::STORE, target, content_of(target))?;
            }
            Found::Lost(reason) => skipped.add(name, reason),
        }
    }

    if let Some(list) = skipped.as_text() {
        let head = Head { name: SKIPPED_NAME, mode: SKIPPED_MODE, mtime_s: now_s() };
        zip.whole(&head, CompressionMethod::STORE, list.as_bytes(), content_of(list.as_bytes()))?;
    }
    let totals = zip.finish()?;
    Ok(Summary {
        entries: totals.entries,
        input_bytes,
        output_bytes: totals.bytes,
        skipped_total: skipped.total(),
        skipped: skipped.into_first(),
    })
}

/// Whether the payload has put something where the list of skipped paths goes: two entries of one name would confuse readers.
fn is_reserved(name: &[u8]) -> bool {
    name.strip_prefix(SKIPPED_NAME).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn head(name: &[u8], meta: Meta) -> Head<'_> {
    Head { name, mode: meta.mode, mtime_s: meta.mtime_s }
}

/// Seconds since 1970; a clock before that counts as 1970.
fn now_s() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX)
}
