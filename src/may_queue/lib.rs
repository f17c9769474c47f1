//! What `may` takes from the crate of this name: the same paths and signatures, and no more of them than `may` calls.
//! No pointer carries a mark, no index wraps where it could be noticed, and what is removed is gone.

pub mod mpsc;
pub mod mpsc_list_v1;

/// A queue with one producer and one consumer. One for many producers will do: it is as safe, and costs a few ns more.
pub mod spsc {
    pub use super::mpsc::Queue;
}
