//! The client under the real job-orchestrator server: user upload -> server -> client -> server -> user download.
//! What is asserted is what a user sees at the server. `.ci/peer-server` builds that server; then
//! `JOB_ORCHESTRATOR_SERVER=$(.ci/peer-server) GDOCK=$(deploy/gdock) cargo test --test server -- --include-ignored`.
//! `CLIENT_BINARY` names another client to run the same suite with: a static build, or the server's own client.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test stops at the first thing that is not as it should be, and says so"
)]

mod crashes;
mod disk;
mod endings;
mod gdock;
#[path = "../it/records.rs"]
mod records;
mod results;
mod rig;
mod scale;
#[allow(dead_code)] // the other test crate uses all of it
#[path = "../it/small_disk.rs"]
mod small_disk;
mod user;
