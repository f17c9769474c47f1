//! Who looks after what lies on the disk: each file is a thread, or a step of the start.

pub mod owed;
pub mod quota;
pub mod record_writer;
pub mod recover;
pub mod retention;
pub mod sync;
