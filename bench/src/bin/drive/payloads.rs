//! Small payloads: how long one takes, and how many there are in a second.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use bench::clock::now_ns;
use bench::result;
use bench::sample::Sample;

use super::caller::{Caller, Ended, Wait};
use super::form::{Form, Script};
use super::http::Answer;
use super::process::Client;

/// One caller, one payload at a time.
pub struct Latency {
    pub client: Client,
    pub script: Script,
    pub wait: Wait,
    pub payloads: u32,
    /// Payloads before those that count.
    pub warm_up: u32,
    /// Over which the submits are spread evenly. A client that looks at its payloads at fixed times would otherwise be
    /// met at the same phase by every submit.
    pub spread: Duration,
}

impl Latency {
    /// Runs them all, and gives what `one` makes of those that count.
    fn each<T>(&self, mut one: impl FnMut(&mut Caller) -> io::Result<T>) -> io::Result<Vec<T>> {
        let mut caller = Caller::new(self.client.at, self.wait)?;
        let mut all = Vec::new();
        for number in 0..self.warm_up + self.payloads {
            thread::sleep(self.spread * number / (self.warm_up + self.payloads));
            all.push(one(&mut caller)?);
        }
        Ok(all.split_off(self.warm_up as usize))
    }
}

/// From before the upload to the last byte of the ZIP.
pub fn latency(plan: &Latency) -> io::Result<()> {
    let form = Form::new(plan.client.at, &plan.script.small());
    let times = plan.each(|caller| {
        let begun = Instant::now();
        let id = caller.submit(&form)?;
        let ended = caller.end_of(&id)?;
        let took = begun.elapsed();
        Ok((!is_lost(&ended)).then_some(took))
    })?;
    let lost = times.iter().filter(|time| time.is_none()).count();
    let sample = of_times(&times.into_iter().flatten().collect::<Vec<_>>())?;
    result!("latency_p50_ms", sample.median());
    result!("latency_p99_ms", sample.permille(990));
    result!("latency_lost", lost as f64);
    Ok(())
}

/// From before the upload to the start of the program, and from its end to the answer that tells it. The program is
/// `stamp`, which fails: an end without a ZIP.
pub fn moments(plan: &Latency, stamp: &str) -> io::Result<()> {
    let form = Form::new(plan.client.at, &plan.script.that_is(stamp));
    let pairs = plan.each(|caller| {
        let submitted = now_ns();
        let id = caller.submit(&form)?;
        let Ended::Badly(answer) = caller.end_of(&id)? else {
            return Err(io::Error::other("a payload that fails has ended well"));
        };
        let seen = now_ns();
        let Some((started, ended)) = stamps(&answer) else { return Ok(None) };
        Ok(Some((since(submitted, started)?, since(ended, seen)?)))
    })?;
    let lost = pairs.iter().filter(|pair| pair.is_none()).count();
    let (to_exec, to_visible): (Vec<_>, Vec<_>) = pairs.into_iter().flatten().unzip();
    let (to_exec, to_visible) = (of_times(&to_exec)?, of_times(&to_visible)?);
    result!("exec_p50_ms", to_exec.median());
    result!("exec_p99_ms", to_exec.permille(990));
    result!("visible_p50_ms", to_visible.median());
    result!("visible_p99_ms", to_visible.permille(990));
    result!("moments_lost", lost as f64);
    Ok(())
}

/// What `stamp` has written, read where the payload is: its start and its end. Nothing if it was not run to its end.
fn stamps(answer: &Answer) -> Option<(i64, i64)> {
    let text = fs::read_to_string(Path::new(&answer.json("loc")?).join("stamp")).ok()?;
    let (started, ended) = text.trim().split_once(' ')?;
    Some((started.parse().ok()?, ended.parse().ok()?))
}

fn since(earlier_ns: i64, later_ns: i64) -> io::Result<Duration> {
    let nanoseconds = u64::try_from(later_ns - earlier_ns);
    nanoseconds.map(Duration::from_nanos).map_err(|_| io::Error::other("times are in the wrong order"))
}

fn of_times(times: &[Duration]) -> io::Result<Sample> {
    Sample::of_times(times).ok_or_else(|| io::Error::other("there is no payload that counts"))
}

pub struct Throughput {
    pub client: Client,
    /// What the results are called.
    pub name: String,
    pub script: Script,
    pub wait: Wait,
    pub payloads: usize,
    pub submitters: usize,
    /// How many payloads of each submitter are under way: it retrieves its oldest before it submits one more.
    pub ahead: usize,
}

/// Several callers at once, from their first submit to their last retrieval.
pub fn throughput(plan: &Throughput) -> io::Result<()> {
    let form = Form::new(plan.client.at, &plan.script.small());
    let share = plan.payloads.div_ceil(plan.submitters);
    let begun = Instant::now();
    let lost = thread::scope(|scope| {
        let callers: Vec<_> =
            (0..plan.submitters).map(|_| scope.spawn(|| call(plan, &form, share))).collect();
        let lost = callers.into_iter().map(|caller| caller.join().expect("a caller does not panic"));
        lost.sum::<io::Result<usize>>()
    })?;
    let elapsed = begun.elapsed();
    result!(format!("{}_per_s", plan.name), (share * plan.submitters - lost) as f64 / elapsed.as_secs_f64());
    result!(format!("{}_lost", plan.name), lost as f64);
    Ok(())
}

/// Gives the number of payloads that did not come to a ZIP.
fn call(plan: &Throughput, form: &Form, share: usize) -> io::Result<usize> {
    let mut caller = Caller::new(plan.client.at, plan.wait)?;
    let (mut under_way, mut lost) = (VecDeque::<String>::new(), 0);
    for _ in 0..share {
        if under_way.len() == plan.ahead
            && let Some(oldest) = under_way.pop_front()
        {
            lost += usize::from(is_lost(&caller.end_of(&oldest)?));
        }
        under_way.push_back(caller.submit(form)?);
    }
    for id in under_way {
        lost += usize::from(is_lost(&caller.end_of(&id)?));
    }
    Ok(lost)
}

fn is_lost(ended: &Ended) -> bool {
    matches!(ended, Ended::Badly(_))
}

/// What is left of payloads, so long after them.
pub fn rested(client: Client, rest: Duration) -> io::Result<()> {
    thread::sleep(rest);
    result!("rested_rss_mib", client.process.rss_mib()?);
    result!("zombies", client.process.zombies()? as f64);
    Ok(())
}

/// Prints the id of a payload that waits, behind others that sleep in all `slots`.
pub fn print_waiting(client: Client, script: Script, slots: usize) -> io::Result<()> {
    let form = Form::new(client.at, &script.that_does("exec sleep 20"));
    let mut caller = Caller::new(client.at, Wait::LongPoll)?;
    let mut id = String::new();
    for _ in 0..=slots {
        id = caller.submit(&form)?;
    }
    println!("{id}");
    Ok(())
}
