//! What a client costs that has nothing to do: alone, and with many connections that wait.

use std::io;
use std::thread;
use std::time::Duration;

use bench::result;

use super::http::{self, Connection};
use super::process::{Client, Process};

/// After a burst of new connections, until memory that was needed for the burst alone is free again.
const CALM: Duration = Duration::from_secs(2);

/// Memory and wake-ups of a client that has answered one request and then nothing for `settle`.
pub fn measure(client: Client, settle: Duration, watch: Duration) -> io::Result<()> {
    http::get(client.at, "/health")?;
    thread::sleep(settle);
    let before = client.process.switches()?;
    thread::sleep(watch);
    let after = client.process.switches()?;
    // Threads that have ended in between are left out; those that were started count from 0.
    let since = |thread: &String, count: &u64| count - before.get(thread).copied().unwrap_or(0).min(*count);
    let switches: u64 = after.iter().map(|(thread, count)| since(thread, count)).sum();
    result!("idle_rss_mib", client.process.rss_mib()?);
    result!("idle_wakeups_per_s", switches as f64 / watch.as_secs_f64());
    result!("idle_threads", after.len() as f64);
    let family = [vec![client.process], client.process.children()?].concat();
    let sum = |memory: fn(Process) -> io::Result<f64>| {
        family.iter().map(|&process| memory(process)).sum::<io::Result<f64>>()
    };
    result!("idle_family_rss_mib", sum(Process::rss_mib)?);
    result!("idle_family_pss_mib", sum(Process::pss_mib)?);
    Ok(())
}

/// Memory with so many open connections, each of which has been served one request; and then with more.
pub fn with_connections(client: Client, counts: &[usize]) -> io::Result<()> {
    let mut connections = Vec::new();
    for &count in counts {
        while connections.len() < count {
            let mut connection = Connection::open(client.at)?;
            expect_ok(&mut connection)?;
            connections.push(connection);
        }
        thread::sleep(CALM);
        result!(format!("connections_{count}_rss_mib"), client.process.rss_mib()?);
        // A connection that was dropped would have cost nothing.
        connections.iter_mut().try_for_each(expect_ok)?;
    }
    Ok(())
}

fn expect_ok(connection: &mut Connection) -> io::Result<()> {
    match connection.get("/health")? {
        answer if answer.status == 200 => Ok(()),
        answer => Err(io::Error::other(format!("an open connection was answered {}", answer.text()))),
    }
}
