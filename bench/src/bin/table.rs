//! `table DIR`: the markdown table, made of the results in `DIR/ours`, `DIR/peer`, `DIR/stock` and `DIR/loops`, each of
//! lines of `name value`. A figure that was measured more than once is shown as its median, with the extremes behind it.
//! Here stand all figures and their goals, and nothing that was measured.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use bench::options::Options;
use bench::sample::Sample;

use Better::{Less, More};
use Goal::{Issue2, Later, Open};

/// Which way a figure is better; a goal is an upper or a lower bound accordingly.
#[derive(Clone, Copy, PartialEq)]
enum Better {
    Less,
    More,
}

/// What a figure has to reach.
#[derive(Clone, Copy)]
enum Goal {
    /// Set by issue 2.
    Issue2(f64),
    /// Set by the design or a later issue.
    Later(f64),
    /// Measured to be known.
    Open,
}

/// Name in the results, what the reader is told it is, direction, goal.
struct Figure(&'static str, &'static str, Better, Goal);

/// The counts and sizes in the labels are those that `bench/run` gives to `drive`.
const FIGURES: &[Figure] = &[
    Figure("binary_mib", "binary, MiB", Less, Later(2.0)),
    Figure("start_ms", "start to first good `/health`, ms", Less, Later(5.0)),
    Figure("idle_rss_mib", "idle: RSS, MiB", Less, Issue2(4.0)),
    Figure("idle_wakeups_per_s", "idle: wake-ups per second", Less, Issue2(5.0)),
    Figure("idle_threads", "idle: threads", Less, Open),
    Figure("connections_rss_mib", "2,000 idle connections, each served once: RSS, MiB", Less, Issue2(24.0)),
    Figure("latency_p50_ms", "submit to finished ZIP, one caller: p50, ms", Less, Issue2(5.0)),
    Figure("latency_p99_ms", "the same: p99, ms", Less, Later(10.0)),
    Figure("latency_lost", "the same: payloads that did not come to a ZIP", Less, Later(0.0)),
    Figure("payloads_per_s", "payloads per second, 4 submitters, all retrieved", More, Open),
    Figure("of_bare_loop", "the same, of a bare spawn-and-wait loop", More, Later(0.5)),
    Figure("of_full_loop", "the same, of a loop with directory and files", More, Later(0.7)),
    Figure("payloads_lost", "the same: payloads that did not come to a ZIP", Less, Later(0.0)),
    Figure("zombies", "zombies after them", Less, Later(0.0)),
    Figure("rested_rss_mib", "RSS 7 s after them, MiB", Less, Open),
    Figure("load_p50_ms", "`/load`, a new connection each: p50, ms", Less, Issue2(1.0)),
    Figure("health_p50_ms", "`/health`, kept connection, one caller: p50, ms", Less, Open),
    Figure("fresh_per_s", "`/health`, a new connection each, 4 callers: per second", More, Open),
    Figure("wrk_per_s", "`/health`, wrk with 32 kept connections: per second", More, Open),
    Figure("of_stock", "the same, of `may_minihttp`'s stock server", More, Later(0.9)),
    Figure("uploads_health_p50_ms", "8 uploads of 256 MiB at once: `/health` p50, ms", Less, Open),
    Figure("uploads_health_p99_ms", "the same: `/health` p99, ms", Less, Issue2(50.0)),
    Figure("uploads_health_max_ms", "the same: `/health` max, ms", Less, Open),
    Figure("uploads_peak_rss_mib", "the same: peak RSS, MiB", Less, Later(24.0)),
    Figure("uploads_mib_per_s", "the same: MiB per second", More, Open),
    Figure("transfer_upload_s", "512 MiB that do not compress: upload, s", Less, Open),
    Figure("transfer_retrieve_s", "the same: retrieval, s", Less, Open),
    Figure("transfer_peak_rss_mib", "the same: peak RSS over both, MiB", Less, Issue2(16.0)),
];

/// All values of each name.
type Results = HashMap<String, Vec<f64>>;

fn main() -> io::Result<()> {
    let (dir, options) = Options::read()?;
    options.finish()?;
    let read = |name| read(&Path::new(&dir).join(name));
    let (mut ours, mut peer, stock, loops) = (read("ours")?, read("peer")?, read("stock")?, read("loops")?);
    for results in [&mut ours, &mut peer] {
        add_share(results, "of_bare_loop", "payloads_per_s", &loops, "bare_loop_per_s");
        add_share(results, "of_full_loop", "payloads_per_s", &loops, "full_loop_per_s");
        add_share(results, "of_stock", "wrk_per_s", &stock, "wrk_per_s");
    }
    println!("| figure | this client | 2.3.1 client | ratio | goal | reached |");
    println!("|---|---|---|---|---|---|");
    for figure in FIGURES {
        println!("{}", row(figure, sample(&ours, figure.0).as_ref(), sample(&peer, figure.0).as_ref()));
    }
    println!(
        "\nRatio: how many times better this client is. Goals are of issue 2; * marks those that come later."
    );
    for (name, results, key) in [
        ("may_minihttp's stock server, wrk, requests per second", &stock, "wrk_per_s"),
        ("bare spawn-and-wait loop, payloads per second", &loops, "bare_loop_per_s"),
        ("loop with directory and files, payloads per second", &loops, "full_loop_per_s"),
    ] {
        println!(
            "- {name}: {}",
            sample(results, key).map_or_else(|| "not measured".to_owned(), |s| shown(&s))
        );
    }
    Ok(())
}

/// What was not measured has no file.
fn read(path: &Path) -> io::Result<Results> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    let mut results = Results::new();
    for line in text.lines() {
        let value = line.split_once(' ').and_then(|(name, value)| Some((name, value.parse().ok()?)));
        let (name, value) = value.ok_or_else(|| io::Error::other(format!("{}: {line}", path.display())))?;
        results.entry(name.to_owned()).or_default().push(value);
    }
    Ok(results)
}

fn sample(results: &Results, name: &str) -> Option<Sample> {
    Sample::new(results.get(name)?.clone())
}

/// One median over another.
fn add_share(results: &mut Results, name: &str, part: &str, of: &Results, whole: &str) {
    if let (Some(part), Some(whole)) = (sample(results, part), sample(of, whole)) {
        results.insert(name.to_owned(), vec![part.median() / whole.median()]);
    }
}

fn row(figure: &Figure, ours: Option<&Sample>, peer: Option<&Sample>) -> String {
    let &Figure(_, label, better, goal) = figure;
    let ratio = match (ours.map(Sample::median), peer.map(Sample::median)) {
        (Some(ours), Some(peer)) if better == More && peer > 0.0 => format!("{:.1}", ours / peer),
        (Some(ours), Some(peer)) if better == Less && ours > 0.0 => format!("{:.1}", peer / ours),
        _ => "-".to_owned(),
    };
    let (bound, mark) = match goal {
        Issue2(bound) => (Some(bound), ""),
        Later(bound) => (Some(bound), "*"),
        Open => (None, ""),
    };
    let reached = match (ours.map(Sample::median), bound) {
        (Some(ours), Some(bound)) if better == Less && ours <= bound => "yes",
        (Some(ours), Some(bound)) if better == More && ours >= bound => "yes",
        (Some(_), Some(_)) => "**no**",
        _ => "-",
    };
    let sign = if better == Less { "<=" } else { ">=" };
    let goal = bound.map_or_else(|| "-".to_owned(), |bound| format!("{sign} {bound}{mark}"));
    let cell = |sample: Option<&Sample>| sample.map_or_else(|| "not measured".to_owned(), shown);
    format!("| {label} | {} | {} | {ratio} | {goal} | {reached} |", cell(ours), cell(peer))
}

fn shown(sample: &Sample) -> String {
    let median = number(sample.median());
    let (min, max) = (number(sample.min()), number(sample.max()));
    if min == max { median } else { format!("{median} ({min} to {max})") }
}

/// Whole numbers as they are, others with three digits that count.
fn number(value: f64) -> String {
    match value {
        value if value.abs() < 100.0 && value.fract() == 0.0 => format!("{value:.0}"),
        value if value.abs() >= 100.0 => thousands(&format!("{value:.0}")),
        value if value.abs() >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

fn thousands(digits: &str) -> String {
    let (head, tail) = digits.split_at(digits.len() % 3);
    let groups = tail.as_bytes().chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
    let groups: Vec<_> =
        Some(head.to_owned()).into_iter().filter(|head| !head.is_empty()).chain(groups).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: f64) -> Option<Sample> {
        Sample::new(vec![value])
    }

    #[test]
    fn numbers_keep_what_counts() {
        let shown = [0.0, 9.0, 0.054, 4.996, 12.34, 861.4, 113_000.0, 1_234_567.0].map(number);
        assert_eq!(shown, ["0", "9", "0.05", "5.00", "12.3", "861", "113,000", "1,234,567"]);
    }

    #[test]
    fn a_row_tells_ratio_and_goal_in_the_right_direction() {
        let latency = Figure("latency_p50_ms", "l", Less, Issue2(5.0));
        assert_eq!(
            row(&latency, of(4.0).as_ref(), of(800.0).as_ref()),
            "| l | 4 | 800 | 200.0 | <= 5 | yes |"
        );
        let share = Figure("of_stock", "s", More, Later(0.9));
        assert_eq!(
            row(&share, of(0.8).as_ref(), of(0.4).as_ref()),
            "| s | 0.80 | 0.40 | 2.0 | >= 0.9* | **no** |"
        );
        let none = Figure("zombies", "z", Less, Open);
        assert_eq!(row(&none, of(0.0).as_ref(), None), "| z | 0 | not measured | - | - | - |");
    }

    #[test]
    fn several_values_are_a_median_with_its_extremes() {
        let sample = Sample::new(vec![3.0, 1.0, 2.0]).expect("has values");
        assert_eq!(shown(&sample), "2 (1 to 3)");
    }
}
