//! What the fuzz targets share. The client is a binary without a library, and stays one: its modules are compiled here from
//! their own files, under the same names at the root of this crate, so that their `crate::` paths hold. They are linted
//! where they live.

#[allow(dead_code, unused, missing_docs, clippy::all, clippy::pedantic)]
#[path = "../../src/archive/mod.rs"]
pub mod archive;
#[allow(dead_code, unused, missing_docs, clippy::all, clippy::pedantic)]
#[path = "../../src/clock.rs"]
pub mod clock;
#[allow(dead_code, unused, missing_docs, clippy::all, clippy::pedantic)]
#[path = "../../src/data"]
pub mod data {
    pub mod directory;
    pub mod disk_error;
    pub mod place;
    pub mod record;
    pub mod remove;
    pub mod slots;
    mod unusable;
}
#[allow(dead_code, unused, missing_docs, clippy::all, clippy::pedantic)]
#[path = "../../src/disk_threads.rs"]
pub mod disk_threads;
#[allow(dead_code, unused, missing_docs, clippy::all, clippy::pedantic)]
#[path = "../../src/http/mod.rs"]
pub mod http;
#[allow(dead_code, unused, missing_docs, clippy::all, clippy::pedantic)]
#[path = "../../src/log/mod.rs"]
pub mod log;

#[path = "../../src/metrics/mod.rs"]
pub mod metrics;
#[allow(dead_code, unused, missing_docs, clippy::all, clippy::pedantic)]
#[path = "../../src/payload.rs"]
pub mod payload;
#[allow(dead_code, unused, missing_docs, clippy::all, clippy::pedantic)]
#[path = "../../src"]
mod with_a_directory {
    pub mod sys;
}
#[allow(dead_code, unused, missing_docs, clippy::all, clippy::pedantic)]
#[path = "../../src/upload/mod.rs"]
pub mod upload;

pub use with_a_directory::sys;

pub mod place;
pub mod reference;
pub mod script;
