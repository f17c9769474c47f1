//! What a walk finds, as blocks; what is lost on the way goes to the list of skipped paths.
//! Nothing here compresses or writes.

use super::block::{Block, Part};
use super::content::{Filled, Reading, content_of};
use super::deflate::Deflater;
use super::names::zip_name;
use super::records::Head;
use super::skipped::{SkipList, printable};
use super::walk::{Found, Meta, Walk};
use super::window::Source;
use super::{ArchiveError, SKIPPED_NAME};
use std::ffi::CString;
use std::io;
use std::path::Path;

/// `S_ISUID | S_ISGID`.
const SET_ID_BITS: u32 = 0o6000;

/// A directory that is being archived.
#[derive(Debug)]
pub(super) struct Tree {
    walk: Walk,
    /// The file under the walk's name, while some of it is left.
    reading: Option<Reading>,
    input_bytes: u64,
    skipped: SkipList,
    /// Looked for at the top.
    named: Option<String>,
    has_named: bool,
}

impl Tree {
    /// `is_final`: the payload has ended, and nothing may change any more. `named` is looked for at the top on the way.
    pub(super) fn open(directory: &Path, is_final: bool, named: Option<String>) -> io::Result<Self> {
        Ok(Self {
            walk: Walk::open(directory, is_final)?,
            named,
            has_named: false,
            reading: None,
            input_bytes: 0,
            skipped: SkipList::default(),
        })
    }

    /// Whether the name that was looked for has been met, as what it may be.
    pub(super) fn has_named(&self) -> bool {
        self.has_named
    }

    /// When something came to the directory, or went, for the last time: seconds since 1970.
    pub(super) fn mtime_s(&self) -> i64 {
        self.walk.root_mtime_s()
    }

    /// Bytes read from files, and what was left out or cut short.
    pub(super) fn into_input_bytes_and_skipped(self) -> (u64, SkipList) {
        (self.input_bytes, self.skipped)
    }

    /// Whether `found` goes into the archive; `block` is its beginning then.
    fn take(
        &mut self,
        found: Found,
        block: &mut Block,
        deflater: &mut Deflater,
    ) -> Result<bool, ArchiveError> {
        let name = self.walk.name();
        self.has_named |= self.named.as_ref().is_some_and(|named| named.as_bytes() == name);
        if is_reserved(name) {
            self.skipped.add(name, "the name is reserved for this list");
            return Ok(false);
        }
        match found {
            Found::Directory { stat, unlisted } => {
                block.begin(Part::Directory);
                block.set_head(&head(&zip_name(name), Meta::from(&stat)));
                if let Some(reason) = unlisted {
                    self.skipped.add(name, format_args!("cannot list it: {reason}"));
                }
            }
            Found::File { file, meta, size, stamp } => {
                block.set_head(&head(&zip_name(name), meta));
                let reading =
                    Reading::begin(file, size, stamp, block, deflater).map_err(ArchiveError::Deflate)?;
                self.read_on(reading, block)?;
            }
            Found::Link { meta, target } => {
                block.set_head(&head(&zip_name(name), meta));
                fill_link(&target, block)
                    .map_err(|source| ArchiveError::Read { path: printable(self.walk.name()), source })?;
            }
            Found::Lost(reason) => {
                self.skipped.add(name, reason);
                return Ok(false);
            }
            // Only of a walk that opens no files, which this is not.
            Found::Entry(_) => return Ok(false),
        }
        Ok(true)
    }

    fn read_on(&mut self, mut reading: Reading, block: &mut Block) -> Result<(), ArchiveError> {
        let path = || printable(self.walk.name());
        match reading.fill(block) {
            Err(source) => return Err(ArchiveError::Read { path: path(), source }),
            Ok(Filled::Changed) => return Err(ArchiveError::Changed { path: path() }),
            Ok(Filled::More) => self.reading = Some(reading),
            Ok(Filled::Over) => self.input_bytes += reading.bytes(),
        }
        Ok(())
    }
}

impl Source for Tree {
    fn fill(&mut self, block: &mut Block, deflater: &mut Deflater) -> Result<bool, ArchiveError> {
        if let Some(reading) = self.reading.take() {
            self.read_on(reading, block)?;
            return Ok(true);
        }
        while let Some(found) = self.walk.next()? {
            if self.take(found, block, deflater)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A link's data is where it points; the kernel allows 4,095 bytes.
fn fill_link(target: &CString, block: &mut Block) -> io::Result<()> {
    let target = target.as_bytes();
    block.begin(Part::Whole);
    block.space(target.len())?.copy_from_slice(target);
    block.set_data_bytes(target.len());
    block.content = content_of(block.data());
    Ok(())
}

/// Whether the payload has put something where the list of skipped paths goes: two entries of one name would confuse readers.
fn is_reserved(name: &[u8]) -> bool {
    name.strip_prefix(SKIPPED_NAME).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// Nobody gets a program from an archive that runs as somebody else: the bits for that do not travel.
fn head(name: &[u8], meta: Meta) -> Head<'_> {
    Head { name, mode: meta.mode & !SET_ID_BITS, mtime_s: meta.mtime_s }
}
