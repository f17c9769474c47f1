//! What lies on the disk: DATA_PATH, the directories of payloads and their records. Nothing here acts by itself; `upkeep`
//! does.

/// What a payload prints to its standard output, in its directory.
pub const STDOUT_FILE: &str = ".orchestrator.out";

/// The same of standard error.
pub const STDERR_FILE: &str = ".orchestrator.err";

pub mod directory;
pub mod disk_error;
pub mod exit_file;
pub mod ids;
pub mod lease;
pub mod owner;
pub mod path;
mod place;
pub mod record;
pub mod remove;
pub mod shared_places;
pub mod slots;
pub mod temporary;
mod unusable;
