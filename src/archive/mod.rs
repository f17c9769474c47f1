//! A directory as a ZIP, made while it is sent: constant memory, whatever the number, size or depth of the files.
//! `walk` finds, `content` reads, `tree` makes `block`s of both, `deflate` compresses them, on the threads of `window`.
//! `fingerprint` tells whether it would be the same as before; `listing` tells what there is, page by page.
//! `records`, `stream` and `central_directory` know the ZIP format, `output` gathers bytes, `skipped` remembers what was lost.
//! Blocking by design, for a disk thread; no HTTP, no store and no coroutine is known here.

mod block;
mod central_directory;
mod content;
mod deflate;
mod fingerprint;
mod listing;
mod names;
mod output;
mod records;
mod skipped;
mod stream;
#[cfg(test)]
mod tests;
mod tree;
mod walk;
mod window;

pub use deflate::DeflateError;
pub use fingerprint::fingerprint;
pub use listing::{Entry, Kind, Listing, Place};
pub use skipped::Skipped;

use block::{Block, Part};
use content::content_of;
use rawzip::CompressionMethod;
use records::Head;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::{mem, thread};
use stream::ZipStream;
use tree::Tree;
use window::{Packer, Source, Window};

/// The entry that lists what was left out; the prefix `.orchestrator.` is the client's (CONTRACT.md, "Files").
const SKIPPED_NAME: &[u8] = b".orchestrator.skipped";
/// A regular file that everybody may read, `S_IFREG | 0644`.
const OWN_MODE: u32 = 0o100_644;

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
    #[error("cannot open directory {}: {source}", path.display())]
    OpenDirectory {
        /// The directory that was to be archived.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The host could not read it: a disk that fails, no more descriptors or memory.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Relative to the directory, made printable; empty for the directory itself.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The payload has ended, and yet something changed while it was sent: another program did that.
    #[error("{path} was changed or removed while it was sent")]
    Changed {
        /// Relative to the directory, made printable; empty for the directory itself.
        path: String,
    },
    /// The receiver failed: most often it went away.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
    /// The temporary file of the central directory failed: most often a full disk.
    #[error("cannot spool the central directory")]
    Spool(#[source] io::Error),
    /// The compressor has no memory, or refused its input.
    #[error("cannot compress: {0}")]
    Deflate(#[source] DeflateError),
    /// rawzip refused a name or a field; lengths are checked before, so it has no reason to.
    #[error("cannot build a ZIP record")]
    Record(#[source] rawzip::Error),
}

/// Writes the ZIP of `directory` to `out`, which need not seek.
///
/// Blocking; for a disk thread. `spool` is a directory for the unlinked temporary file of the central directory, which is
/// made only when that outgrows 256 KiB. What cannot be archived by the payload's own doing (a pipe, a file that another user
/// has closed) is listed in [`Summary::skipped`] and in a last entry `.orchestrator.skipped`. After an error the output is no
/// archive: whoever receives it must be told that it ended early.
///
/// `is_final`: the payload has ended. All that was there is in the archive then, or in that list; a change is an error, and what the
/// payload has closed is opened. Else the directory may change meanwhile: what is gone is not in the archive. What the host cannot
/// read is an error in any case.
///
/// `threads` compress, this one among them; the others are started when there is enough to do, and have ended when this returns.
/// For one it takes about 0.6 MiB, for more about 0.9 MiB each.
///
/// The archive of a directory that has not changed is the same, byte for byte, for one thread as for one, and for several as for any
/// other number of several.
///
/// `stand_in` is a file's name at the top and its content, which the archive has where the directory has no such file.
pub fn write_zip(
    directory: &Path,
    spool: &Path,
    threads: usize,
    is_final: bool,
    stand_in: Option<(&str, &[u8])>,
    out: &mut dyn Write,
) -> Result<Summary, ArchiveError> {
    let mut tree = Tree::open(directory, is_final, stand_in.map(|(name, _)| name.to_owned()))
        .map_err(|source| ArchiveError::OpenDirectory { path: directory.to_path_buf(), source })?;
    let mut zip = ZipStream::new(spool, out);
    pack(&mut tree, threads, &mut zip)?;

    // The archive of a directory that does not change is the same each time.
    let mtime_s = tree.mtime_s();
    let mut add = |name: &[u8], data: &[u8]| {
        let head = Head { name, mode: OWN_MODE, mtime_s };
        zip.whole(&head, CompressionMethod::STORE, data, content_of(data))
    };
    if let Some((name, content)) = stand_in.filter(|_| !tree.has_named()) {
        add(name.as_bytes(), content)?;
    }
    let (input_bytes, skipped) = tree.into_input_bytes_and_skipped();
    if let Some(list) = skipped.as_text() {
        add(SKIPPED_NAME, list.as_bytes())?;
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

/// Writes all that comes from `source`.
fn pack(source: &mut dyn Source, threads: usize, zip: &mut ZipStream<'_>) -> Result<(), ArchiveError> {
    let window = Window::default();
    thread::scope(|scope| {
        let mut packer = Packer::new(scope, &window, threads);
        while let Some(block) = packer.next(source)? {
            match block.part {
                Part::Directory => zip.directory(&block.head())?,
                Part::Whole => zip.whole(&block.head(), block.method(), block.packed(), block.content)?,
                Part::Piece { .. } => {
                    pack_pieces(block, &mut packer, source, zip)?;
                    continue;
                }
            }
            packer.give_back(block);
        }
        Ok(())
    })
}

/// Writes a file in pieces, of which `block` is the first.
fn pack_pieces(
    mut block: Block,
    packer: &mut Packer<'_, '_>,
    source: &mut dyn Source,
    zip: &mut ZipStream<'_>,
) -> Result<(), ArchiveError> {
    let name = mem::take(&mut block.name);
    let head = Head { name: &name, ..block.head() };
    zip.streamed(&head, block.method(), |send| {
        loop {
            send(block.packed())?;
            let (content, is_last) = (block.content, block.is_last());
            packer.give_back(block);
            if is_last {
                return Ok(content);
            }
            // A source ends after the last piece only.
            let Some(next) = packer.next(source)? else { return Ok(content) };
            block = next;
        }
    })
}
