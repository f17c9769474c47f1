//! What an error of the disk means.

use std::io::{Error, ErrorKind};

use rustix::io::Errno;

/// Whether there was no space: the disk is full, or a quota is used up.
pub fn is_full(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// A state of this process, which says nothing about the disk.
pub fn is_out_of_descriptors(error: &Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}
