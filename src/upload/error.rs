//! What can fail while a body becomes files: one enum, whose messages are for the sender and whose sources are for the log.
//! `kind` tells whose fault it was, `code` is the word a program can compare. No HTTP status lives here.

use std::io;

use thiserror::Error;

use super::disposition::HeaderFault;
use super::part_path::PathFault;
use super::parts::LayoutFault;
use crate::data::disk_error::{self, is_full};

/// How much of the body may stand before the first boundary, and between a boundary and the end of its part's headers.
/// multer buffers all of it and searches it anew with each piece.
pub(super) const HEAD_LIMIT_BYTES: usize = 16 * 1024;

/// Whose fault a failed upload was, which is all a caller needs to choose its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The body is not what was asked for; the same body would fail again.
    Sender,
    /// The body could not be read to its end; `UploadError::ReadBody` carries why.
    Interrupted,
    /// The disk is full, or a quota is used up.
    NoSpace,
    /// A file is larger than this process may write.
    TooLarge,
    /// The disk failed in another way.
    Disk,
}

/// Why an upload left no files.
#[derive(Debug, Error)]
pub enum UploadError {
    /// The body's iterator gave an error.
    #[error("the request body broke off before its end; send the whole payload again")]
    ReadBody {
        /// As the iterator gave it.
        source: io::Error,
    },
    /// The body ended, in good order for the transport, before its final boundary line.
    #[error(
        "the body ended at part {part} without a final boundary line; send all of it, with the boundary that Content-Type names"
    )]
    Truncated {
        /// Counted from 1, as in all that follow.
        part: u64,
    },
    /// The body is not laid out as multipart.
    #[error("part {part}: {fault}")]
    Layout {
        /// The part.
        part: u64,
        /// What is wrong with it.
        fault: LayoutFault,
    },
    /// A part's content is not the file's bytes, but something that would have to be decoded.
    #[error(
        "part {part}: its {header} is {value}; send the bytes of the file as they are, without that header"
    )]
    Encoded {
        /// The part.
        part: u64,
        /// The header that says so.
        header: &'static str,
        /// Its value, fit to print.
        value: String,
    },
    /// No end of headers within the limit: a flood, or a body that does not use the boundary of its Content-Type.
    #[error(
        "the boundary line and headers of part {part} do not end within {HEAD_LIMIT_BYTES} bytes; send the boundary that Content-Type names, and short headers"
    )]
    HeadTooLong {
        /// The part.
        part: u64,
    },
    /// A part's Content-Disposition cannot be understood.
    #[error(
        "part {part}: its Content-Disposition {header} {fault}; send form-data; name=\"file\"; filename=\"<path>\" in UTF-8"
    )]
    Header {
        /// The part.
        part: u64,
        /// The header's value, fit to print.
        header: String,
        /// What is wrong with it.
        fault: HeaderFault,
    },
    /// A part's path may not be used.
    #[error("part {part}: the name {path} {fault}")]
    BadPath {
        /// The part.
        part: u64,
        /// The path, fit to print.
        path: String,
        /// The rule it breaks.
        fault: PathFault,
    },
    /// Two parts have one path.
    #[error("part {part}: the path {path} is given twice; send each path once")]
    GivenTwice {
        /// The second of them.
        part: u64,
        /// The path, fit to print.
        path: String,
    },
    /// One part's path is a directory of another's.
    #[error("part {part}: the path {path} needs a file and a directory of one name; rename one of them")]
    InTheWay {
        /// The later of them.
        part: u64,
        /// The path, fit to print.
        path: String,
    },
    /// No part had a file name.
    #[error(
        "the body has no part with a file name ({fields} without); send each file as a part with one, run.sh among them"
    )]
    NoFiles {
        /// How many parts there were.
        fields: u64,
    },
    /// The disk is full, or a quota is used up.
    #[error("{what} does not fit on the disk of this host; free space there, or send a smaller payload")]
    NoSpace {
        /// What was written.
        what: String,
        /// The disk's error.
        source: io::Error,
    },
    /// A file is larger than this process may write, or than the file system can hold.
    #[error(
        "{what} is larger than a file may be here (ulimit -f where the client is started, or the file system); raise that, or send smaller files"
    )]
    TooLarge {
        /// What was written.
        what: String,
        /// The disk's error.
        source: io::Error,
    },
    /// The disk failed in another way.
    #[error(
        "{what} could not be written on this host, and the cause is in the log of its client; send it again later, or elsewhere"
    )]
    Disk {
        /// What was written.
        what: String,
        /// The disk's error.
        source: io::Error,
    },
    /// The upload failed, and its directory could not be removed: somebody has to do it by hand.
    #[error("{after}; what was received of it could not be removed")]
    RemoveDirectory {
        /// Why the upload failed; kind and code are this one's.
        after: Box<UploadError>,
        /// The disk's error.
        source: io::Error,
    },
}

impl UploadError {
    /// A failed disk operation on `what`.
    pub(super) fn disk(what: String, source: io::Error) -> Self {
        match source.kind() {
            _ if is_full(&source) => Self::NoSpace { what, source },
            io::ErrorKind::FileTooLarge => Self::TooLarge { what, source },
            _ => Self::Disk { what, source },
        }
    }

    /// Whose fault it was.
    pub fn kind(&self) -> Kind {
        match self {
            Self::ReadBody { .. } => Kind::Interrupted,
            Self::NoSpace { .. } => Kind::NoSpace,
            Self::TooLarge { .. } => Kind::TooLarge,
            Self::Disk { .. } => Kind::Disk,
            Self::RemoveDirectory { after, .. } => after.kind(),
            Self::Truncated { .. }
            | Self::Layout { .. }
            | Self::Encoded { .. }
            | Self::HeadTooLong { .. }
            | Self::Header { .. }
            | Self::BadPath { .. }
            | Self::GivenTwice { .. }
            | Self::InTheWay { .. }
            | Self::NoFiles { .. } => Kind::Sender,
        }
    }

    /// Whether this process had no descriptor left for a file.
    pub fn is_out_of_descriptors(&self) -> bool {
        match self {
            Self::Disk { source, .. } => disk_error::is_out_of_descriptors(source),
            Self::RemoveDirectory { after, .. } => after.is_out_of_descriptors(),
            _ => false,
        }
    }

    /// A word for programs, which stays as it is when a message is reworded.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ReadBody { .. } => "body_interrupted",
            Self::Truncated { .. } => "multipart_incomplete",
            Self::Layout { .. } => "multipart_malformed",
            Self::Encoded { .. } => "encoded_part",
            Self::HeadTooLong { .. } => "part_head_too_long",
            Self::Header { .. } => "bad_part_header",
            Self::BadPath { .. } => "bad_path",
            Self::GivenTwice { .. } => "duplicate_path",
            Self::InTheWay { .. } => "path_conflict",
            Self::NoFiles { .. } => "no_files",
            Self::NoSpace { .. } => "no_space",
            Self::TooLarge { .. } => "file_too_large",
            Self::Disk { .. } => "disk_error",
            Self::RemoveDirectory { after, .. } => after.code(),
        }
    }
}

/// A sender's bytes in a form that is safe in a message and in a log line: quoted, escaped, and not longer than a line.
pub(super) fn shown(bytes: &[u8]) -> String {
    const LIMIT_CHARS: usize = 80;
    // Four bytes a character at most: the cut falls behind the last character that is shown.
    let head = &bytes[..bytes.len().min(4 * LIMIT_CHARS + 4)];
    let text = String::from_utf8_lossy(head);
    let mut chars = text.chars();
    let line: String = chars.by_ref().take(LIMIT_CHARS).collect();
    let more = if chars.next().is_some() { "..." } else { "" };
    format!("{line:?}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn a_full_disk_and_a_used_up_quota_are_no_space_and_the_rest_is_the_disk() {
        for (errno, kind) in [
            (Errno::NOSPC, Kind::NoSpace),
            (Errno::DQUOT, Kind::NoSpace),
            (Errno::FBIG, Kind::TooLarge),
            (Errno::IO, Kind::Disk),
            (Errno::ROFS, Kind::Disk),
            (Errno::MFILE, Kind::Disk),
        ] {
            let error = UploadError::disk("part 1".into(), errno.into());
            assert_eq!(error.kind(), kind, "{errno:?}");
        }
    }

    #[test]
    fn a_leftover_directory_keeps_the_kind_and_code_of_the_failure_before_it() {
        let error = UploadError::RemoveDirectory {
            after: Box::new(UploadError::NoFiles { fields: 0 }),
            source: Errno::IO.into(),
        };
        assert_eq!((error.kind(), error.code()), (Kind::Sender, "no_files"));
    }

    #[test]
    fn what_a_sender_wrote_is_shown_escaped_and_cut() {
        assert_eq!(shown(b"it's \"a\"\n\x1b[31m\xff"), "\"it's \\\"a\\\"\\n\\u{1b}[31m\u{fffd}\"");
        assert_eq!(shown(&[b'x'; 80]), format!("\"{}\"", "x".repeat(80)));
        assert_eq!(shown(&[b'x'; 81]), format!("\"{}\"...", "x".repeat(80)));
        let wide = "\u{1F600}".repeat(1000);
        assert_eq!(shown(wide.as_bytes()), format!("\"{}\"...", "\u{1F600}".repeat(80)));
    }
}
