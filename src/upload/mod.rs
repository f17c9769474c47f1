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

/// What a body held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Files written.
    pub files: u64,
    /// Their contents together, in bytes.
    pub bytes: u64,
}

/// Writes the files of a multipart/form-data body into `directory`, which is made here (mode 0755; its parent exists).
///
/// Blocks on `body` and on the disk, so it runs on a disk thread. `body` gives the request body in pieces, ends with `None`,
/// and gives `Err` when the sender broke off or a limit of the transport was hit. On success `body` has been read to its end,
/// and the connection can carry another request; after an error the rest of the body is unread. On any error the directory
/// is removed again before this returns.
///
/// `boundary` is what [`boundary()`] gave for the request's Content-Type.
pub fn receive(
    body: impl Iterator<Item = io::Result<Bytes>> + Send,
    boundary: &str,
    directory: &Path,
) -> Result<Received, UploadError> {
    tree::make_directory(directory).map_err(|error| UploadError::disk(name_of(directory), error.into()))?;
    fill(body, boundary, directory).map_err(|error| discard(directory, error))
}

/// Reads the body into the directory that [`receive`] made, and would remove.
fn fill(
    body: impl Iterator<Item = io::Result<Bytes>>,
    boundary: &str,
    directory: &Path,
) -> Result<Received, UploadError> {
    let tree = Tree::open(directory).map_err(|error| UploadError::disk(name_of(directory), error.into()))?;
    let mut parts = Parts::new(body, boundary);
    let mut received = Received { files: 0, bytes: 0 };
    while let Some(mut part) = parts.next()? {
        let Some(path) = path_of(&part)? else {
            while parts.piece(&mut part)?.is_some() {}
            continue;
        };
        received.bytes += write(&mut parts, &mut part, &tree, &path)?;
        received.files += 1;
    }
    parts.finish()?;
    match received.files {
        0 => Err(UploadError::NoFiles),
        _ => Ok(received),
    }
}

/// The path of a part's file; `None` for a part without a file name, which is a plain form field and not ours.
fn path_of(part: &Part) -> Result<Option<String>, UploadError> {
    let header = part.disposition();
    let disposition = Disposition::parse(header).map_err(|fault| UploadError::Header {
        part: part.number,
        header: shown(header),
        fault,
    })?;
    let Some(path) = part_path::choose(&disposition) else {
        return Ok(None);
    };
    match part_path::check(path) {
        Ok(()) => Ok(Some(path.to_owned())),
        Err(fault) => Err(UploadError::BadPath { part: part.number, path: shown(path.as_bytes()), fault }),
    }
}

/// Writes one part's content to its file and gives the length.
fn write<B>(parts: &mut Parts<B>, part: &mut Part, tree: &Tree, path: &str) -> Result<u64, UploadError>
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
    let mut length = 0;
    while let Some(piece) = parts.piece(part)? {
        file.write(&piece).map_err(failed)?;
        length += piece.len() as u64;
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
