//! What a user of the server does, as `curl` and `unzip` do it: upload a job, look at it, download, terminate.
//! Nothing in here talks to the client.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::rig::{Rig, SOON, poll};

/// The server's own client takes no script without this line, and knows the exit code by it alone.
const TRAP: &str = "trap 'echo $? > .orchestrator.exit' EXIT";

/// The files of a job that is to be uploaded.
pub struct Job {
    dir: TempDir,
    names: Vec<String>,
}

impl Job {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), names: Vec::new() }
    }

    /// A job whose `run.sh` is these lines of shell.
    pub fn of(lines: &str) -> Self {
        Self::new().file("run.sh", &format!("#!/bin/sh\n{TRAP}\n{lines}\n"))
    }

    pub fn file(self, name: &str, content: &str) -> Self {
        self.written_by(name, |file| file.write_all(content.as_bytes()))
    }

    pub fn written_by(
        mut self,
        name: &str,
        write: impl FnOnce(&mut fs::File) -> std::io::Result<()>,
    ) -> Self {
        let mut file = fs::File::create(self.path(name)).unwrap();
        write(&mut file).unwrap();
        self.names.push(name.to_owned());
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// What the server says about a job that has no results (yet).
#[derive(Debug, miniserde::Deserialize)]
pub struct Notice {
    pub id: u32,
    pub status: String,
    pub message: String,
}

pub enum Answer {
    Zip(Outputs),
    Notice(u16, Notice),
}

impl Rig {
    /// Uploads a job; the id is the server's.
    pub fn upload(&self, job: &Job) -> u32 {
        self.upload_to("example", job)
    }

    /// The same, for another service than the usual one.
    pub fn upload_to(&self, service: &str, job: &Job) -> u32 {
        let mut form: Vec<String> = vec!["-Fuser_id=1".into(), format!("-Fservice={service}")];
        for name in &job.names {
            // Quoted, since `;` and `,` mean something to curl.
            form.push(format!("-Ffile=@\"{}\"", job.path(name).display()));
        }
        match self.curl("upload", &form) {
            Answer::Notice(201, notice) => notice.id,
            Answer::Notice(code, notice) => panic!("upload answered {code}: {notice:?}"),
            Answer::Zip(_) => panic!("upload answered a ZIP"),
        }
    }

    pub fn download(&self, id: u32) -> Answer {
        self.curl(&format!("download/{id}"), &[])
    }

    pub fn download_partial(&self, id: u32) -> Answer {
        self.curl(&format!("download_partial/{id}"), &[])
    }

    /// Asks for the end of a job: the code of the answer, and the server's message.
    pub fn terminate(&self, id: u32) -> (u16, String) {
        match self.curl(&format!("terminate/{id}"), &["-XPOST".into()]) {
            Answer::Notice(code, notice) => (code, notice.message),
            Answer::Zip(_) => panic!("terminate answered a ZIP"),
        }
    }

    /// The status that the server tells, `Completed` where it hands out results.
    pub fn status(&self, id: u32) -> String {
        match self.download(id) {
            Answer::Notice(200, notice) => {
                assert_eq!(notice.id, id);
                notice.status
            }
            Answer::Notice(code, notice) => panic!("download answered {code}: {notice:?}"),
            Answer::Zip(_) => "Completed".into(),
        }
    }

    pub fn wait_for_status(&self, id: u32, wanted: &str) {
        poll(&format!("job {id} is {wanted}"), SOON, || {
            let status = self.status(id);
            assert!(status == wanted || !is_final(&status), "job {id} is {status} for good, not {wanted}");
            (status == wanted).then_some(())
        });
    }

    pub fn wait_for_results(&self, id: u32) -> Outputs {
        self.wait_long_for_results(id, SOON)
    }

    pub fn wait_long_for_results(&self, id: u32, limit: Duration) -> Outputs {
        poll(&format!("job {id} has results"), limit, || match self.download(id) {
            Answer::Zip(outputs) => Some(outputs),
            Answer::Notice(code, notice) => {
                assert!(
                    code == 200 && !is_final(&notice.status),
                    "job {id} has no results, {code}: {notice:?}"
                );
                None
            }
        })
    }

    /// The directory of a job as it is now.
    pub fn partial_outputs(&self, id: u32) -> Outputs {
        match self.download_partial(id) {
            Answer::Zip(outputs) => outputs,
            Answer::Notice(code, notice) => panic!("download_partial answered {code}: {notice:?}"),
        }
    }

    fn curl(&self, path: &str, args: &[String]) -> Answer {
        let dir = TempDir::new_in(self.dir()).unwrap();
        let body = dir.path().join("body");
        let output = Command::new("curl")
            .args(["-sS", "--noproxy", "*", "--max-time", "300"])
            .args(["-w", "%{http_code} %{content_type}"])
            .args([OsStr::new("-o"), body.as_os_str()])
            .args(args)
            .arg(format!("http://127.0.0.1:{}/{path}", self.server_port()))
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "curl of {path}: {}", output.status);
        let seen = String::from_utf8(output.stdout).unwrap();
        match seen.split_once(' ').unwrap() {
            ("200", "application/zip") => Answer::Zip(Outputs::unpack(dir, &body)),
            (code, _) => {
                let text = fs::read_to_string(&body).unwrap();
                let notice = miniserde::json::from_str(&text)
                    .unwrap_or_else(|_| panic!("{path} answered {code}: {text}"));
                Answer::Notice(code.parse().unwrap(), notice)
            }
        }
    }
}

/// The server asks the client about a job only until one of these.
pub fn is_final(status: &str) -> bool {
    !matches!(status, "Queued" | "Processing" | "Submitted" | "Prepared" | "Running" | "Locked")
}

/// A downloaded ZIP, unpacked.
pub struct Outputs {
    dir: TempDir,
}

impl Outputs {
    fn unpack(dir: TempDir, zip: &Path) -> Self {
        let output = Command::new("unzip")
            .arg("-qq")
            .arg(zip)
            .arg("-d")
            .arg(dir.path().join("files"))
            .env("LC_ALL", "C.UTF-8") // else names that are not ASCII are spelled as escapes
            .output()
            .unwrap();
        assert!(output.status.success(), "unzip: {output:?}");
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("files").join(name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// The content of a file, without the newline at its end.
    pub fn text(&self, name: &str) -> String {
        let text = fs::read_to_string(self.path(name))
            .unwrap_or_else(|e| panic!("{name} is not in the ZIP ({e}); it has {:?}", self.names()));
        text.trim_end_matches('\n').to_owned()
    }

    pub fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o7777
    }

    /// What lies at the top of the ZIP, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}
