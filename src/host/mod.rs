//! What the machine says of itself, and who manages this program on it.

pub mod load;
pub mod memory;
pub mod rlimit;
pub mod service_manager;
