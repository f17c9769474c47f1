//! Upload: a multipart/form-data body becomes the files of a payload directory, all of them or none.
//! This file holds the receive loop; what a part may be called, how bodies are cut into parts and how files are made stand
//! in the files beside it. No HTTP status, no async runtime and no log belong here: the caller maps `UploadError::kind`.

mod boundary;
mod disposition;
mod error;
mod params;
mod part_path;
mod parts;
#[cfg(test)]
mod testing;
mod tree;

use std::io;
use std::path::Path;

use bytes::Bytes;

use crate::data::remove::remove_tree;

pub use boundary::{BoundaryError, boundary};
pub use error::{Kind, UploadError};

use disposition::Disposition;
use error::shown;
use parts::{Part, Parts};
use tree::{NotCreated, Tree};

/// Headers by which a part says that its content is not the file's bytes, and the values by which it says that it is. RFC 7578,
/// section 4.7, deprecates the first; the second is none of a part's.
const ENCODINGS: [(&str, &str, &[&str]); 2] = [
    ("content-transfer-encoding", "Content-Transfer-Encoding", &["", "7bit", "8bit", "binary"]),
    ("content-encoding", "Content-Encoding", &["", "identity"]),
];

/// What a body held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Files written.
    pub files: u64,
    /// Their contents together, in bytes.
    pub bytes: u64,
    /// Parts without a file name, which were passed over: form fields, and file fields that were left empty.
    pub fields: u64,
}

/// The form fields whose values are wanted. All others are passed over.
#[derive(Debug, Default)]
pub struct Wanted {
    names: &'static [&'static str],
    values: Vec<(&'static str, String)>,
}

impl Wanted {
    /// Those with these names.
    pub fn of(names: &'static [&'static str]) -> Self {
        Self { names, values: Vec::new() }
    }

    /// Names and values that have come, in their order. What is longer than any value is cut, which is no value either.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.values.iter().map(|(name, value)| (*name, value.as_str()))
    }

    fn name(&self, given: Option<&str>) -> Option<&'static str> {
        self.names.iter().copied().find(|name| Some(*name) == given)
    }
}

/// How much of the value of a form field is kept.
const VALUE_BYTES: usize = 64;

/// Writes the files of a multipart/form-data body into `directory`, which is made here (mode 0755, or 0700 if `is_private`;
/// its parent exists).
///
/// Blocks on `body` and on the disk, so it runs on a disk thread. `body` gives the request body in pieces, ends with `None`,
/// and gives `Err` when the sender broke off or a limit of the transport was hit. On success `body` has been read to its end,
/// and the connection can carry another request; after an error the rest of the body is unread. On any error the directory
/// is removed again before this returns. `wanted` gets the values of the form fields that it names.
///
/// `boundary` is what [`boundary()`] gave for the request's Content-Type.
pub fn receive(
    body: impl Iterator<Item = io::Result<Bytes>> + Send,
    boundary: &str,
    directory: &Path,
    is_private: bool,
    wanted: &mut Wanted,
) -> Result<Received, UploadError> {
    tree::make_directory(directory).map_err(|error| UploadError::disk(name_of(directory), error.into()))?;
    fill(body, boundary, directory, is_private, wanted).map_err(|error| discard(directory, error))
}

/// Reads the body into the directory that [`receive`] made, and would remove.
fn fill(
    body: impl Iterator<Item = io::Result<Bytes>>,
    boundary: &str,
    directory: &Path,
    is_private: bool,
    wanted: &mut Wanted,
) -> Result<Received, UploadError> {
    let tree = Tree::open(directory, is_private)
        .map_err(|error| UploadError::disk(name_of(directory), error.into()))?;
    let mut parts = Parts::new(body, boundary);
    let mut received = Received { files: 0, bytes: 0, fields: 0 };
    while let Some(mut part) = parts.next()? {
        let (path, name) = names_of(&part, wanted)?;
        let first = parts.piece(&mut part)?;
        // A browser sends a file field that was left empty as a file without name and content.
        let Some(path) = path.filter(|path| first.is_some() || !path.is_empty()) else {
            let value = rest_of(&mut parts, &mut part, first)?;
            match name {
                Some(name) => wanted.values.push((name, value)),
                None => received.fields += 1,
            }
            continue;
        };
        check(&part, &path)?;
        received.bytes += write(&mut parts, &mut part, first, &tree, &path)?;
        received.files += 1;
    }
    parts.finish()?;
    match received.files {
        0 => Err(UploadError::NoFiles { fields: received.fields }),
        _ => Ok(received),
    }
}

/// The path of a part's file; `None` for a part without a file name, which is a plain form field. Its name where it is wanted.
fn names_of(part: &Part, wanted: &Wanted) -> Result<(Option<String>, Option<&'static str>), UploadError> {
    let header = part.header("content-disposition").unwrap_or_default();
    let disposition = Disposition::parse(header).map_err(|fault| UploadError::Header {
        part: part.number,
        header: shown(header),
        fault,
    })?;
    let path = part_path::choose(&disposition).map(str::to_owned);
    let name = if path.is_none() { wanted.name(disposition.name.as_deref()) } else { None };
    Ok((path, name))
}

/// Reads a part to its end. Gives the beginning of it.
fn rest_of<B>(parts: &mut Parts<B>, part: &mut Part, first: Option<Bytes>) -> Result<String, UploadError>
where
    B: Iterator<Item = io::Result<Bytes>>,
{
    let (mut value, mut next) = (Vec::new(), first);
    while let Some(piece) = next {
        let free = VALUE_BYTES - value.len();
        value.extend_from_slice(piece.get(..free).unwrap_or(&piece));
        next = parts.piece(part)?;
    }
    Ok(String::from_utf8_lossy(&value).into_owned())
}

/// Whether a part may be written to the file of that path as it is.
fn check(part: &Part, path: &str) -> Result<(), UploadError> {
    part_path::check(path).map_err(|fault| UploadError::BadPath {
        part: part.number,
        path: shown(path.as_bytes()),
        fault,
    })?;
    for (header, name, harmless) in ENCODINGS {
        let is_other =
            |value: &&[u8]| !harmless.iter().any(|word| value.eq_ignore_ascii_case(word.as_bytes()));
        if let Some(value) = part.header(header).filter(is_other) {
            return Err(UploadError::Encoded { part: part.number, header: name, value: shown(value) });
        }
    }
    Ok(())
}

/// Writes one part's content to its file and gives the length.
fn write<B>(
    parts: &mut Parts<B>,
    part: &mut Part,
    first: Option<Bytes>,
    tree: &Tree,
    path: &str,
) -> Result<u64, UploadError>
where
    B: Iterator<Item = io::Result<Bytes>>,
{
    let number = part.number;
    let failed = |error| UploadError::disk(format!("part {number} ({})", shown_path(path)), error);
    let mut file = tree.file(path).map_err(|error| {
        let path = shown_path(path);
        match error {
            NotCreated::GivenTwice => UploadError::GivenTwice { part: number, path },
            NotCreated::InTheWay => UploadError::InTheWay { part: number, path },
            NotCreated::BadName => {
                UploadError::BadPath { part: number, path, fault: part_path::PathFault::Refused }
            }
            NotCreated::Disk(error) => failed(error.into()),
        }
    })?;
    let (mut length, mut next) = (0, first);
    while let Some(piece) = next {
        file.write(&piece).map_err(failed)?;
        length += piece.len() as u64;
        next = parts.piece(part)?;
    }
    file.finish().map_err(failed)?;
    Ok(length)
}

/// Removes what was received of a body that failed, and passes its error on.
fn discard(directory: &Path, error: UploadError) -> UploadError {
    // Most failures come before the first file. This is one call then, and needs no free descriptor, which matters where
    // running out of them was the failure.
    match remove_tree(directory) {
        Ok(()) => error,
        Err(source) => UploadError::RemoveDirectory { after: Box::new(error), source },
    }
}

fn shown_path(path: &str) -> String {
    shown(path.as_bytes())
}

fn name_of(directory: &Path) -> String {
    format!("the payload directory {}", directory.display())
}

#[cfg(test)]
mod tests;
