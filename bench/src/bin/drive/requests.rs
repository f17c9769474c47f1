//! Small requests, one after the other, by one caller or several at once.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use bench::result;
use bench::sample::Sample;

use super::http::{self, Connection};
use super::process::Client;

pub struct Requests {
    pub client: Client,
    /// What the results are called.
    pub name: String,
    pub path: String,
    pub callers: usize,
    /// Requests of each caller.
    pub each: usize,
    /// One connection for all requests of a caller, not one for each.
    pub is_kept_alive: bool,
}

pub fn measure(plan: &Requests) -> io::Result<()> {
    let used = plan.client.process.cpu()?;
    let begun = Instant::now();
    let times = thread::scope(|scope| {
        let callers: Vec<_> = (0..plan.callers).map(|_| scope.spawn(|| call(plan))).collect();
        let results = callers.into_iter().map(|caller| caller.join().expect("a caller does not panic"));
        results.collect::<io::Result<Vec<_>>>()
    })?;
    let elapsed = begun.elapsed();
    let used = plan.client.process.cpu()?.saturating_sub(used);
    let times = times.concat();
    let sample = Sample::of_times(&times).ok_or_else(|| io::Error::other("no requests were asked for"))?;
    result!(format!("{}_p50_ms", plan.name), sample.median());
    result!(format!("{}_p99_ms", plan.name), sample.permille(990));
    result!(format!("{}_per_s", plan.name), times.len() as f64 / elapsed.as_secs_f64());
    result!(format!("{}_cpu_us", plan.name), used.as_secs_f64() * 1e6 / times.len() as f64);
    Ok(())
}

fn call(plan: &Requests) -> io::Result<Vec<Duration>> {
    let mut kept = if plan.is_kept_alive { Some(Connection::open(plan.client.at)?) } else { None };
    let mut times = Vec::with_capacity(plan.each);
    for _ in 0..plan.each {
        let begun = Instant::now();
        let answer = match &mut kept {
            Some(connection) => connection.get(&plan.path),
            None => http::get(plan.client.at, &plan.path),
        }?;
        times.push(begun.elapsed());
        if answer.status != 200 {
            return Err(io::Error::other(format!("{} was answered {}", plan.path, answer.text())));
        }
    }
    Ok(times)
}
