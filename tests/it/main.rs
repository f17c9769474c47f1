//! Tests through the door: the real binary on port 0, real sockets, real processes. One crate, a module per subject;
//! `client` starts and stops the program, `wire` speaks HTTP without a library that could hide a mistake.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)] // a test says what is wrong by failing

mod admission;
mod always;
mod bounds;
mod client;
mod disk;
mod ending;
mod escapes;
mod failed_start;
mod fault;
mod hostile;
mod http;
mod killing;
mod limits;
mod logging;
mod logs_live;
mod long_poll;
mod metrics;
mod network;
mod outage;
mod process;
mod queueing;
mod records;
mod resources;
mod restart;
mod retention;
mod retrieve;
mod run_as;
mod sleepers;
mod small_disk;
mod start;
mod stopping;
mod submit;
mod wire;
