//! What a small request has to wait while uploads and retrievals run and payloads compute.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bench::result;
use bench::sample::Sample;

use super::caller::{Caller, Wait, retry};
use super::form::{Form, Script};
use super::http::{self, Connection};
use super::process::Client;

/// Between two probes: often enough for thousands of them, and no load of its own.
const PROBE_PAUSE: Duration = Duration::from_millis(1);

pub struct Busy {
    pub client: Client,
    /// What the results are called.
    pub name: String,
    pub script: Script,
    pub uploads: usize,
    pub bytes: usize,
    /// So many at once of a payload as large as an upload, over and over until the uploads have ended.
    pub retrievals: usize,
    /// Payloads that compute meanwhile.
    pub slots: usize,
    /// A file that holds those payloads while it is there.
    pub hold: PathBuf,
}

/// Asks `/health` on new connections, from the start of the uploads to the end of the last.
pub fn measure(plan: &Busy) -> io::Result<()> {
    let at = plan.client.at;
    let form = Form::with_file(at, &plan.script.small(), plan.bytes);
    let retrieved = if plan.retrievals > 0 { Some(prepare(at, &form)?) } else { None };
    let held = Held::new(plan)?;
    plan.client.process.forget_peak()?;
    let is_over = AtomicBool::new(false);
    let begun = Instant::now();
    let (elapsed, probed, transferred) = thread::scope(|scope| {
        let prober = scope.spawn(|| probe(at, &is_over));
        let uploads: Vec<_> =
            (0..plan.uploads).map(|_| scope.spawn(|| form.submit(&mut Connection::open(at)?))).collect();
        let retrievals: Vec<_> = (0..plan.retrievals)
            .filter_map(|_| retrieved.as_deref())
            .map(|id| scope.spawn(|| retrieve(at, id, &is_over)))
            .collect();
        // All are waited for, whatever becomes of one.
        let mut transferred: Vec<_> = uploads
            .into_iter()
            .map(|upload| upload.join().expect("an upload does not panic").map(drop))
            .collect();
        let elapsed = begun.elapsed();
        is_over.store(true, Ordering::Relaxed);
        transferred.extend(retrievals.into_iter().map(|one| one.join().expect("a retrieval does not panic")));
        (elapsed, prober.join().expect("the probe does not panic"), transferred)
    });
    drop(held);
    transferred.into_iter().collect::<io::Result<()>>()?;
    let sample = Sample::of_times(&probed?).ok_or_else(|| io::Error::other("the uploads were too short"))?;
    let name = &plan.name;
    result!(format!("{name}_health_p50_ms"), sample.median());
    result!(format!("{name}_health_p99_ms"), sample.permille(990));
    result!(format!("{name}_health_max_ms"), sample.max());
    result!(format!("{name}_peak_rss_mib"), plan.client.process.peak_rss_mib()?);
    result!(
        format!("{name}_mib_per_s"),
        (plan.bytes >> 20) as f64 * plan.uploads as f64 / elapsed.as_secs_f64()
    );
    Ok(())
}

/// A payload that can be retrieved.
fn prepare(at: SocketAddr, form: &Form) -> io::Result<String> {
    let mut caller = Caller::new(at, Wait::Poll(Duration::from_millis(5)))?;
    let mut id = String::new();
    retry(|| {
        id = caller.submit(form)?;
        caller.end_of(&id)
    })?;
    Ok(id)
}

fn retrieve(at: SocketAddr, id: &str, is_over: &AtomicBool) -> io::Result<()> {
    let path = format!("/retrieve/{id}");
    while !is_over.load(Ordering::Relaxed) {
        let answer = http::get(at, &path)?;
        if !answer.is_zip() {
            return Err(io::Error::other(format!("a retrieval was answered {}", answer.text())));
        }
    }
    Ok(())
}

fn probe(at: SocketAddr, is_over: &AtomicBool) -> io::Result<Vec<Duration>> {
    let mut times = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answer = http::get(at, "/health")?;
        times.push(begun.elapsed());
        if answer.status != 200 {
            return Err(io::Error::other(format!("/health was answered {}", answer.text())));
        }
        thread::sleep(PROBE_PAUSE);
    }
    Ok(times)
}

/// Payloads that compute until this value goes.
struct Held(PathBuf);

impl Held {
    fn new(plan: &Busy) -> io::Result<Self> {
        fs::write(&plan.hold, "")?;
        let held = Self(plan.hold.clone());
        let body = format!("while [ -e '{}' ]; do :; done", plan.hold.display());
        let form = Form::new(plan.client.at, &plan.script.that_does(&body));
        let mut caller = Caller::new(plan.client.at, Wait::LongPoll)?;
        for _ in 0..plan.slots {
            let id = caller.submit(&form)?;
            caller.start_of(&id)?;
        }
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Without the directory that it is in, it is gone, too.
        let _ = fs::remove_file(&self.0);
    }
}
