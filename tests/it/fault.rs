//! System calls of a client that fail or hang, by strace(1).

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::client::{Client, wait_for};

/// System calls of a client that fail or hang, until it is dropped.
pub struct Fault(Child);

impl Fault {
    /// `calls` as strace names them, `effect` such as `error=EIO`, on these paths only where there are any. `None` where tracing is
    /// not permitted.
    pub fn inject(client: &Client, calls: &str, effect: &str, paths: &[&Path]) -> Option<Self> {
        let mut command = Command::new("strace");
        command.args(["-f", "-I1", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
        command.args(["-e", &format!("inject={calls}:{effect}"), "-p", &client.pid().to_string()]);
        for path in paths {
            command.arg("-P").arg(path);
        }
        let tracer = command.stderr(Stdio::null()).spawn();
        let mut this = Self(tracer.map_err(|error| println!("skipped: strace: {error}")).ok()?);
        let is_traced = |task: fs::DirEntry| {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            !status.contains("\nTracerPid:\t0\n")
        };
        let all_are_traced = wait_for("the tracer", || {
            if this.0.try_wait().unwrap().is_some() {
                return Some(false);
            }
            let mut tasks = fs::read_dir(format!("/proc/{}/task", client.pid())).unwrap().flatten();
            tasks.all(is_traced).then_some(true)
        });
        if !all_are_traced {
            println!("skipped: strace may not trace");
        }
        all_are_traced.then_some(this)
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        // It lets go of the client first.
        let _ = Command::new("kill").arg(self.0.id().to_string()).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}
