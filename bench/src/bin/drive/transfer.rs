//! Big files: what they cost in memory and time, and what a small request has to wait meanwhile.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bench::result;
use bench::sample::Sample;

use super::form::{Form, Script};
use super::http;
use super::payloads::wait_for_end;
use super::process::Client;

/// Between two probes: often enough for thousands of them, and no load of its own.
const PROBE_PAUSE: Duration = Duration::from_millis(1);

pub struct Uploads {
    pub client: Client,
    pub script: Script,
    pub count: usize,
    pub bytes: usize,
}

/// Several uploads at once, while `/health` is asked on new connections from their start to the end of the last.
pub fn uploads(plan: &Uploads) -> io::Result<()> {
    let form = Form::with_file(plan.client.at, plan.script, plan.bytes);
    let is_over = AtomicBool::new(false);
    plan.client.process.forget_peak()?;
    let begun = Instant::now();
    let (uploaded, elapsed, probed) = thread::scope(|scope| {
        let prober = scope.spawn(|| probe(plan.client.at, &is_over));
        let callers: Vec<_> = (0..plan.count).map(|_| scope.spawn(|| form.submit(plan.client.at))).collect();
        // All are waited for, whatever becomes of one.
        let uploaded: Vec<_> =
            callers.into_iter().map(|caller| caller.join().expect("an upload does not panic")).collect();
        let elapsed = begun.elapsed();
        is_over.store(true, Ordering::Relaxed);
        (uploaded, elapsed, prober.join().expect("the probe does not panic"))
    });
    uploaded.into_iter().try_for_each(|id| id.map(drop))?;
    let sample = Sample::of_times(&probed?).ok_or_else(|| io::Error::other("the uploads were too short"))?;
    result!("uploads_health_p50_ms", sample.median());
    result!("uploads_health_p99_ms", sample.permille(990));
    result!("uploads_health_max_ms", sample.max());
    result!("uploads_peak_rss_mib", plan.client.process.peak_rss_mib()?);
    result!("uploads_mib_per_s", (plan.bytes >> 20) as f64 * plan.count as f64 / elapsed.as_secs_f64());
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

pub struct Transfer {
    pub client: Client,
    pub script: Script,
    pub bytes: usize,
    pub poll_pause: Duration,
}

/// One upload of bytes that do not compress, and its retrieval, alone.
pub fn one(plan: &Transfer) -> io::Result<()> {
    let form = Form::with_file(plan.client.at, plan.script, plan.bytes);
    plan.client.process.forget_peak()?;
    let begun = Instant::now();
    let id = form.submit(plan.client.at)?;
    result!("transfer_upload_s", begun.elapsed().as_secs_f64());
    let zip = wait_for_end(plan.client.at, &id, plan.poll_pause)?.zip()?;
    result!("transfer_retrieve_s", zip.took.as_secs_f64());
    result!("transfer_peak_rss_mib", plan.client.process.peak_rss_mib()?);
    match zip.bytes {
        bytes if bytes < plan.bytes as u64 => {
            Err(io::Error::other(format!("the ZIP has only {bytes} bytes")))
        }
        _ => Ok(()),
    }
}
