//! `plots DIR --to DIR`: how cost grows, as one SVG for each plot, made of the results in `DIR/ours` and `DIR/peer`.

mod svg;

use std::fs;
use std::io;
use std::path::Path;

use bench::options::Options;
use bench::results::Results;

use svg::{Axis, Plot, Scale, Series};

/// File, title, axes, and what the results are called before and behind the number.
struct Growth(&'static str, &'static str, Axis, Axis, &'static str, &'static str);

const PLOTS: &[Growth] = &[
    Growth(
        "queue.svg",
        "Payloads per second against the queue",
        Axis("payloads under way", Scale::Log),
        Axis("payloads per second", Scale::Linear),
        "queue_",
        "_per_s",
    ),
    Growth(
        "rows.svg",
        "Payloads per second against the database",
        Axis("payloads in the database", Scale::Log),
        Axis("payloads per second", Scale::Linear),
        "rows_",
        "_per_s",
    ),
    Growth(
        "connections.svg",
        "Memory against idle connections",
        Axis("connections", Scale::Linear),
        Axis("RSS, MiB", Scale::Linear),
        "connections_",
        "_rss_mib",
    ),
    Growth(
        "size.svg",
        "Retrieval against size (data that does not compress)",
        Axis("size, MiB", Scale::Log),
        Axis("time, ms", Scale::Log),
        "size_",
        "_ms",
    ),
    Growth(
        "files.svg",
        "Retrieval against the number of files (1 KiB each)",
        Axis("files", Scale::Log),
        Axis("time, ms", Scale::Log),
        "files_",
        "_ms",
    ),
];

fn main() -> io::Result<()> {
    let (dir, mut options) = Options::read()?;
    let to: String = options.take("to")?;
    options.finish()?;
    let (dir, to) = (Path::new(&dir), Path::new(&to));
    let (ours, peer) = (Results::read(&dir.join("ours"))?, Results::read(&dir.join("peer"))?);
    fs::create_dir_all(to)?;
    for Growth(file, title, x, y, before, after) in PLOTS {
        let series = |label, results: &Results| Series { label, points: results.series(before, after) };
        let series = [series("this client", &ours), series("2.3.1 client", &peer)];
        // What was not measured has no plot.
        if series.iter().any(|one| !one.points.is_empty()) {
            fs::write(to.join(file), Plot { title, x, y, series: &series }.svg())?;
        }
    }
    Ok(())
}
