//! All figures and their goals, and nothing that was measured.

use Better::{Less, More};
use Subject::{Accept, Disk, Loops, Nginx, Ours, Peer, Stock, Zip};

/// Whose results stand in which file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Subject {
    Ours,
    Peer,
    /// `may_minihttp`'s stock server.
    Stock,
    /// The bare loops of spawn and wait, on all cores.
    Loops,
    /// The bare loop of accept and close.
    Accept,
    Nginx,
    /// Info-ZIP.
    Zip,
    /// `cp`.
    Disk,
}

impl Subject {
    pub const ALL: [Self; 8] = [Ours, Peer, Stock, Loops, Accept, Nginx, Zip, Disk];

    pub fn file(self) -> &'static str {
        match self {
            Ours => "ours",
            Peer => "peer",
            Stock => "stock",
            Loops => "loops",
            Accept => "accept",
            Nginx => "nginx",
            Zip => "zip",
            Disk => "cp",
        }
    }
}

/// Which way a figure is better; a goal is an upper or a lower bound accordingly.
#[derive(Clone, Copy, PartialEq)]
pub enum Better {
    Less,
    More,
}

/// Name in the results, what the reader is told it is, direction, what it has to reach; without a bound it is measured to
/// be known.
pub struct Figure(pub &'static str, pub &'static str, pub Better, pub Option<f64>);

/// A figure that is one median over another: its name, the part of both clients' results, and whose whole.
pub struct Share(pub &'static str, pub &'static str, pub Whole);

pub enum Whole {
    /// A figure of the same client.
    Own(&'static str),
    /// A figure of another subject.
    Of(Subject, &'static str),
}

use Whole::{Of, Own};

pub const SHARES: &[Share] = &[
    Share("of_bare_loop", "payloads_per_s", Of(Loops, "bare_loop_per_s")),
    Share("of_full_loop", "payloads_per_s", Of(Loops, "full_loop_per_s")),
    Share("queue_flat", "queue_1000_per_s", Own("queue_4_per_s")),
    Share("rows_flat", "rows_20000_per_s", Own("rows_100_per_s")),
    Share("of_stock", "wrk_health_per_s", Of(Stock, "wrk_health_per_s")),
    Share("polls_of_stock", "wrk_poll_per_s", Of(Stock, "wrk_health_per_s")),
    Share("fresh_of_peer", "fresh_per_s", Of(Peer, "fresh_per_s")),
    Share("fresh_of_accept", "fresh_per_s", Of(Accept, "fresh_per_s")),
    Share("upload_of_nginx", "upload_mib_per_s", Of(Nginx, "upload_mib_per_s")),
    Share("upload_of_cp", "upload_mib_per_s", Of(Disk, "cp_mib_per_s")),
    Share("retrieve_of_nginx", "retrieve_mib_per_s", Of(Nginx, "retrieve_mib_per_s")),
    Share("sources_time_of_zip", "sources_ms", Of(Zip, "sources_ms")),
    Share("sources_size_of_zip", "sources_zip_mib", Of(Zip, "sources_zip_mib")),
    Share("pdb_time_of_zip", "pdb_ms", Of(Zip, "pdb_ms")),
    Share("pdb_size_of_zip", "pdb_zip_mib", Of(Zip, "pdb_zip_mib")),
    Share("logs_time_of_zip", "logs_ms", Of(Zip, "logs_ms")),
    Share("logs_size_of_zip", "logs_zip_mib", Of(Zip, "logs_zip_mib")),
    Share("threads_sources_time_of_zip", "threads_sources_ms", Of(Zip, "sources_ms")),
    Share("threads_pdb_time_of_zip", "threads_pdb_ms", Of(Zip, "pdb_ms")),
    Share("threads_logs_time_of_zip", "threads_logs_ms", Of(Zip, "logs_ms")),
    Share("threads_logs_size_of_zip", "threads_logs_zip_mib", Of(Zip, "logs_zip_mib")),
];

/// The counts and sizes in the labels are those that `bench/run` gives to `drive`.
pub const TABLES: &[(&str, &[Figure])] = &[
    (
        "Payloads",
        &[
            Figure("payloads_per_s", "payloads per second, 4 submitters, all retrieved", More, None),
            Figure("of_bare_loop", "the same, of a bare spawn-and-wait loop on all cores", More, Some(0.6)),
            Figure("of_full_loop", "the same, of a loop with directory and files", More, Some(0.8)),
            Figure("payloads_lost", "the same: payloads that did not come to a ZIP", Less, Some(0.0)),
            Figure("zombies", "zombies after them", Less, Some(0.0)),
            Figure("rested_rss_mib", "RSS 7 s after them, MiB", Less, None),
            Figure("queue_1000_per_s", "payloads per second with 1,000 under way", More, None),
            Figure("queue_flat", "the same, of those with 4 under way", More, Some(0.9)),
            Figure("rows_100_per_s", "payloads per second with 100 in the database", More, None),
            Figure("rows_1000_per_s", "with 1,000", More, None),
            Figure("rows_20000_per_s", "with 20,000", More, None),
            Figure("rows_flat", "with 20,000, of those with 100", More, Some(0.9)),
        ],
    ),
    (
        "Latency of one caller",
        &[
            Figure("latency_p50_ms", "submit to finished ZIP: p50, ms", Less, Some(4.0)),
            Figure("latency_p99_ms", "the same: p99, ms", Less, Some(10.0)),
            Figure("latency_lost", "the same: payloads that did not come to a ZIP", Less, Some(0.0)),
            Figure("exec_p50_ms", "submit to exec: p50, ms", Less, Some(0.6)),
            Figure("exec_p99_ms", "the same: p99, ms", Less, None),
            Figure("visible_p50_ms", "exit to visible status: p50, ms", Less, Some(0.5)),
            Figure("visible_p99_ms", "the same: p99, ms", Less, None),
            Figure("moments_lost", "these two: payloads that were not run to their end", Less, Some(0.0)),
        ],
    ),
    (
        "HTTP",
        &[
            Figure("wrk_health_per_s", "`/health`, 32 kept connections: per second", More, None),
            Figure("of_stock", "the same, of `may_minihttp`'s hello-world", More, Some(0.9)),
            Figure("wrk_poll_per_s", "status polls, 32 kept connections: per second", More, None),
            Figure("polls_of_stock", "the same, of `may_minihttp`'s hello-world", More, Some(0.9)),
            Figure("health_p50_ms", "`/health`, kept connection, one caller: p50, ms", Less, None),
            Figure("fresh_per_s", "`/health`, a new connection each, 4 callers: per second", More, None),
            Figure("fresh_of_peer", "the same, of the 2.3.1 client", More, None),
            Figure("fresh_of_accept", "the same, of a bare accept-and-close loop", More, Some(0.65)),
            Figure("fresh_cpu_us", "the same: CPU time of the client for one, µs", Less, None),
            Figure("load_p50_ms", "`/load`, a new connection each: p50, ms", Less, Some(1.0)),
        ],
    ),
    (
        "Transfer",
        &[
            Figure("upload_mib_per_s", "1 GiB, upload: MiB per second", More, None),
            Figure("upload_of_nginx", "the same, of a PUT to nginx", More, Some(1.0)),
            Figure("upload_of_cp", "the same, of `cp`", More, None),
            Figure(
                "retrieve_mib_per_s",
                "1 GiB that does not compress, retrieval: MiB per second",
                More,
                None,
            ),
            Figure("retrieve_of_nginx", "the same, of a static file of nginx", More, Some(0.75)),
            Figure("transfer_peak_rss_mib", "peak RSS over both, MiB", Less, Some(12.0)),
            Figure("uploads8_peak_rss_mib", "8 uploads of 256 MiB at once: peak RSS, MiB", Less, Some(24.0)),
            Figure("uploads8_mib_per_s", "the same: MiB per second", More, None),
            Figure(
                "retrieve8_peak_rss_mib",
                "8 retrievals of 256 MiB at once: peak RSS, MiB",
                Less,
                Some(24.0),
            ),
            Figure("uploads64_peak_rss_mib", "64 uploads of 32 MiB at once: peak RSS, MiB", Less, Some(48.0)),
            Figure(
                "retrieve64_peak_rss_mib",
                "64 retrievals of 32 MiB at once: peak RSS, MiB",
                Less,
                Some(48.0),
            ),
            Figure(
                "sources_time_of_zip",
                "source trees, retrieval: time of that of `zip -6`",
                Less,
                Some(0.5),
            ),
            Figure("sources_size_of_zip", "the same: size of that of `zip -6`", Less, Some(1.1)),
            Figure("pdb_time_of_zip", "PDB files: time", Less, Some(0.5)),
            Figure("pdb_size_of_zip", "the same: size", Less, Some(1.1)),
            Figure("logs_time_of_zip", "logs: time", Less, Some(0.5)),
            Figure("logs_size_of_zip", "the same: size", Less, Some(1.1)),
            Figure(
                "threads_sources_time_of_zip",
                "source trees, `ZIP_THREADS` on all: time",
                Less,
                Some(0.5),
            ),
            Figure("threads_pdb_time_of_zip", "PDB files, the same", Less, Some(0.5)),
            Figure("threads_logs_time_of_zip", "logs, the same", Less, Some(0.5)),
            Figure("threads_logs_size_of_zip", "the same: size", Less, Some(1.1)),
        ],
    ),
    (
        "Footprint",
        &[
            Figure("binary_mib", "binary, MiB", Less, Some(2.0)),
            Figure("start_ms", "start to first good `/health`, ms", Less, Some(3.0)),
            Figure("idle_rss_mib", "idle: RSS, MiB", Less, Some(3.0)),
            Figure("idle_family_rss_mib", "idle: RSS with child processes (the guard), MiB", Less, None),
            Figure("idle_family_pss_mib", "the same: PSS, MiB", Less, None),
            Figure("idle_wakeups_per_s", "idle: wake-ups per second", Less, Some(5.0)),
            Figure("idle_threads", "idle: threads", Less, None),
            Figure(
                "connections_2000_rss_mib",
                "2,000 idle connections, each served once: RSS, MiB",
                Less,
                Some(20.0),
            ),
        ],
    ),
    (
        "Responsiveness: `/health` on new connections",
        &[
            Figure("uploads8_health_p99_ms", "while 8 uploads run: p99, ms", Less, None),
            Figure(
                "busy_health_p50_ms",
                "while 8 uploads and 8 retrievals run and all slots compute: p50, ms",
                Less,
                None,
            ),
            Figure("busy_health_p99_ms", "the same: p99, ms", Less, Some(10.0)),
            Figure("busy_health_max_ms", "the same: max, ms", Less, None),
            Figure("slow_health_p50_ms", "the same on a slow disk: p50, ms", Less, None),
            Figure("slow_health_p99_ms", "the same: p99, ms", Less, Some(10.0)),
            Figure("slow_health_max_ms", "the same: max, ms", Less, None),
        ],
    ),
];

/// Goals that each round has to reach, not the median of all.
pub const EACH_ROUND: &[&str] = &["busy_health_p99_ms"];

/// What the shares are of: whose, name, what the reader is told it is.
pub const OTHERS: &[(Subject, &str, &str)] = &[
    (Loops, "bare_loop_per_s", "bare loop of `posix_spawn` and wait on all cores, payloads per second"),
    (Loops, "full_loop_per_s", "loop with directory and files on all cores, payloads per second"),
    (Stock, "wrk_health_per_s", "`may_minihttp`'s hello-world, wrk with 32 kept connections, per second"),
    (Accept, "fresh_per_s", "bare loop of accept and close, a new connection each, per second"),
    (
        Accept,
        "fresh_cpu_us",
        "the same: CPU time of the loop for one, µs; the rest of both cores is the driver's",
    ),
    (Nginx, "upload_mib_per_s", "nginx, PUT of 1 GiB, MiB per second"),
    (Nginx, "retrieve_mib_per_s", "nginx, GET of 1 GiB, MiB per second"),
    (Disk, "cp_mib_per_s", "`cp` of 1 GiB, MiB per second"),
    (Zip, "sources_ms", "`zip -6` of source trees, ms"),
    (Zip, "pdb_ms", "`zip -6` of PDB files, ms"),
    (Zip, "logs_ms", "`zip -6` of logs, ms"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_share_is_shown() {
        let shown = |name| TABLES.iter().flat_map(|(_, figures)| *figures).any(|figure| figure.0 == name);
        let hidden: Vec<_> = SHARES.iter().map(|share| share.0).filter(|name| !shown(*name)).collect();
        assert!(hidden.is_empty(), "{hidden:?}");
    }
}
