//! `table DIR`: markdown tables, made of the results in the files of `DIR`, one for each subject. A figure that was
//! measured more than once is shown as its median, with the extremes behind it. What was not measured at all is left out.

mod figures;

use std::collections::HashMap;
use std::io;
use std::path::Path;

use bench::options::Options;
use bench::results::Results;
use bench::sample::Sample;

use figures::Better::{Less, More};
use figures::{EACH_ROUND, Figure, OTHERS, SHARES, Share, Subject, TABLES, Whole};

/// By whose they are.
type All = HashMap<Subject, Results>;

fn main() -> io::Result<()> {
    let (dir, options) = Options::read()?;
    options.finish()?;
    let read = |subject: Subject| Ok((subject, Results::read(&Path::new(&dir).join(subject.file()))?));
    let mut all = Subject::ALL.into_iter().map(read).collect::<io::Result<All>>()?;
    for client in [Subject::Ours, Subject::Peer] {
        for share in SHARES {
            add_share(&mut all, client, share);
        }
    }
    for (title, figures) in TABLES {
        let rows: Vec<_> = figures.iter().filter_map(|figure| row(figure, &all)).collect();
        if !rows.is_empty() {
            println!("| {title} | this client | 2.3.1 client | ratio | goal | reached |");
            println!("|---|---|---|---|---|---|\n{}\n", rows.join("\n"));
        }
    }
    println!("Ratio: how many times better this client is. What the shares are of, in the same run:\n");
    for (subject, name, label) in OTHERS {
        if let Some(sample) = all[subject].sample(name) {
            println!("- {label}: {}", shown(&sample));
        }
    }
    Ok(())
}

/// One median over another.
fn add_share(all: &mut All, client: Subject, Share(name, part, whole): &Share) {
    let whole = match whole {
        Whole::Own(whole) => all[&client].sample(whole),
        // Nothing is a share of itself.
        Whole::Of(subject, _) if *subject == client => None,
        Whole::Of(subject, whole) => all[subject].sample(whole),
    };
    if let (Some(part), Some(whole), Some(results)) = (all[&client].sample(part), whole, all.get_mut(&client))
    {
        results.set(name, part.median() / whole.median());
    }
}

fn row(&Figure(name, label, better, bound): &Figure, all: &All) -> Option<String> {
    let (ours, peer) = (all[&Subject::Ours].sample(name), all[&Subject::Peer].sample(name));
    let (our_median, peer_median) = (ours.as_ref().map(Sample::median), peer.as_ref().map(Sample::median));
    let ratio = match (our_median, peer_median) {
        (None, None) => return None,
        (Some(ours), Some(peer)) if better == More && peer > 0.0 => format!("{:.1}", ours / peer),
        (Some(ours), Some(peer)) if better == Less && ours > 0.0 => format!("{:.1}", peer / ours),
        _ => "-".to_owned(),
    };
    let judged = match &ours {
        Some(ours) if EACH_ROUND.contains(&name) => {
            Some(if better == Less { ours.max() } else { ours.min() })
        }
        _ => our_median,
    };
    let reached = match (judged, bound) {
        (Some(ours), Some(bound)) if better == Less && ours <= bound => "yes",
        (Some(ours), Some(bound)) if better == More && ours >= bound => "yes",
        (Some(_), Some(_)) => "**no**",
        _ => "-",
    };
    let sign = if better == Less { "<=" } else { ">=" };
    let goal = bound.map_or_else(|| "-".to_owned(), |bound| format!("{sign} {bound}"));
    let cell = |sample: &Option<Sample>| sample.as_ref().map_or_else(|| "-".to_owned(), shown);
    Some(format!("| {label} | {} | {} | {ratio} | {goal} | {reached} |", cell(&ours), cell(&peer)))
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

    /// Of `ours`, and of `peer` if it is not empty.
    fn results(ours: &str, peer: &str) -> All {
        let mut all: All = Subject::ALL.into_iter().map(|subject| (subject, Results::default())).collect();
        for (subject, text) in [(Subject::Ours, ours), (Subject::Peer, peer)] {
            all.insert(subject, Results::parse(text).expect("is well formed"));
        }
        all
    }

    #[test]
    fn numbers_keep_what_counts() {
        let shown = [0.0, 9.0, 0.054, 4.996, 12.34, 861.4, 113_000.0, 1_234_567.0].map(number);
        assert_eq!(shown, ["0", "9", "0.05", "5.00", "12.3", "861", "113,000", "1,234,567"]);
    }

    #[test]
    fn a_row_tells_ratio_and_goal_in_the_right_direction() {
        let less = Figure("x", "l", Less, Some(5.0));
        let more = Figure("x", "s", More, Some(0.9));
        let open = Figure("x", "z", Less, None);
        assert_eq!(
            row(&less, &results("x 4", "x 800")).as_deref(),
            Some("| l | 4 | 800 | 200.0 | <= 5 | yes |")
        );
        assert_eq!(
            row(&more, &results("x 0.8", "x 0.4")).as_deref(),
            Some("| s | 0.80 | 0.40 | 2.0 | >= 0.9 | **no** |")
        );
        assert_eq!(row(&open, &results("x 0", "")).as_deref(), Some("| z | 0 | - | - | - | - |"));
        assert_eq!(row(&open, &results("", "")), None);
    }

    #[test]
    fn a_goal_of_each_round_is_judged_by_the_worst() {
        let figure = Figure("busy_health_p99_ms", "l", Less, Some(10.0));
        let row =
            row(&figure, &results("busy_health_p99_ms 4\nbusy_health_p99_ms 12\nbusy_health_p99_ms 6", ""));
        assert_eq!(row.as_deref(), Some("| l | 6 (4 to 12) | - | - | <= 10 | **no** |"));
    }

    #[test]
    fn a_share_is_of_medians_and_never_of_itself() {
        let mut all = results("a 1\na 3\na 2\nb 4", "a 1");
        let own = Share("own", "a", Whole::Own("b"));
        let of_peer = Share("of_peer", "a", Whole::Of(Subject::Peer, "a"));
        for client in [Subject::Ours, Subject::Peer] {
            for share in [&own, &of_peer] {
                add_share(&mut all, client, share);
            }
        }
        let median = |subject, name: &str| all[&subject].sample(name).map(|sample: Sample| sample.median());
        assert_eq!(median(Subject::Ours, "own"), Some(0.5));
        assert_eq!(median(Subject::Ours, "of_peer"), Some(2.0));
        assert_eq!(median(Subject::Peer, "of_peer"), None);
    }

    #[test]
    fn several_values_are_a_median_with_its_extremes() {
        let sample = Sample::new(vec![3.0, 1.0, 2.0]).expect("has values");
        assert_eq!(shown(&sample), "2 (1 to 3)");
    }
}
