//! What the machine says of itself, and who manages this program on it.

/// How many of each there is room for at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Connections.
    pub connections: usize,
    /// Those above that are told so, and waited for while they read it.
    pub refusals: usize,
    /// Uploads that have a thread.
    pub uploads: usize,
    /// Downloads that have a thread.
    pub downloads: usize,
}

pub mod load;
pub mod memory;
pub mod process;
pub mod rlimit;
pub mod sensors;
pub mod service_manager;
pub mod strain;
