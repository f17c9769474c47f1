//! What the tests of this module share: forms as bytes, bodies as pieces, a place for payload directories.
//! Compiled for tests only.

use std::fs;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use tempfile::TempDir;

use super::{Received, UploadError, Wanted, receive};

pub const BOUNDARY: &str = "XBOUNDARYX";

/// Paths and contents, in the order of the paths.
pub type Files = Vec<(String, Vec<u8>)>;

/// A form of parts, each with the value of its Content-Disposition and its content.
pub fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (disposition, content) in parts {
        body.extend_from_slice(format!("--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n").as_bytes());
        body.extend_from_slice(b"Content-Type: application/octet-stream\r\n\r\n");
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

/// The Content-Disposition of a file.
pub fn named(path: &str) -> String {
    format!("form-data; name=\"file\"; filename=\"{path}\"")
}

/// A body as its transport might give it.
pub fn pieces(body: &[u8], piece_bytes: usize) -> impl Iterator<Item = io::Result<Bytes>> + Send {
    body.chunks(piece_bytes).map(|piece| Ok(Bytes::copy_from_slice(piece)))
}

/// A place where nothing but a payload directory is.
pub struct Place(TempDir);

impl Place {
    #[allow(clippy::unwrap_used)]
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn directory(&self) -> PathBuf {
        self.0.path().join("payload")
    }

    pub fn receive(
        &self,
        body: impl Iterator<Item = io::Result<Bytes>> + Send,
    ) -> Result<Received, UploadError> {
        receive(body, BOUNDARY, &self.directory(), false, &mut Wanted::default())
    }

    /// The files, by path, and the directories, with a slash at their end.
    #[allow(clippy::unwrap_used)]
    pub fn files(&self) -> Files {
        let mut found = Vec::new();
        let mut left = vec![self.directory()];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(self.directory()).unwrap();
                let name = name.to_str().unwrap().to_owned();
                if path.is_dir() {
                    found.push((format!("{name}/"), Vec::new()));
                    left.push(path);
                } else {
                    found.push((name, fs::read(path).unwrap()));
                }
            }
        }
        found.sort();
        found
    }

    #[allow(clippy::unwrap_used)]
    pub fn is_empty(&self) -> bool {
        fs::read_dir(self.0.path()).unwrap().next().is_none()
    }
}
