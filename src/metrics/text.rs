//! The text format of Prometheus, 0.0.4, and that of OpenMetrics, 1.0: the same lines but for the names in the comments and the last
//! line.

use std::fmt::{Display, Write as _};
use std::sync::atomic::Ordering;

use super::Histogram;

/// What all names begin with.
const PREFIX: &str = "orchestrator_client_";

/// Room for what most clients have to tell.
const USUAL_BYTES: usize = 16 * 1024;

/// Which format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Prometheus text, 0.0.4.
    Prometheus,
    /// OpenMetrics text, 1.0.
    OpenMetrics,
}

impl Form {
    /// The one that is asked for by an Accept field.
    pub fn wanted(accept: &str) -> Self {
        if accept.to_ascii_lowercase().contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// Its Content-Type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A text that is being written. A name is told once, then all that it has; names and labels are the program's own.
pub struct Text {
    form: Form,
    text: String,
}

impl Text {
    /// An empty one.
    pub fn new(form: Form) -> Self {
        Self { form, text: String::with_capacity(USUAL_BYTES) }
    }

    /// A number that may go up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.gauges(name, help, &[], [([], value)]);
    }

    /// Several of these, by the values of these labels.
    pub fn gauges<'v, const L: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str; L],
        samples: impl IntoIterator<Item = ([&'v str; L], impl Display)>,
    ) {
        self.family(name, "", "gauge", help);
        for (values, value) in samples {
            self.sample(name, "", labels, &values, value);
        }
    }

    /// A number that only goes up, from 0 at the start of the client. `name` goes without `_total`.
    pub fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.counters(name, help, &[], [([], value)]);
    }

    /// Several of these, by the values of these labels.
    pub fn counters<'v, const L: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str; L],
        samples: impl IntoIterator<Item = ([&'v str; L], impl Display)>,
    ) {
        self.family(name, "_total", "counter", help);
        for (values, value) in samples {
            self.sample(name, "_total", labels, &values, value);
        }
    }

    /// How long something took, by the values of these labels.
    pub fn histograms<'v, const L: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str; L],
        samples: impl IntoIterator<Item = ([&'v str; L], &'v Histogram)>,
    ) {
        self.family(name, "", "histogram", help);
        for (values, histogram) in samples {
            // The sum first: what comes meanwhile is in a bucket then, and not the other way round.
            let sum_us = histogram.sum_us.load(Ordering::Relaxed);
            let mut count = 0;
            let bounds = histogram.bounds.iter().map(|bound| seconds(*bound)).chain(["+Inf".to_owned()]);
            for (bound, more) in bounds.zip(&histogram.counts) {
                count += more.load(Ordering::Relaxed);
                self.start(name, "_bucket", labels, &values);
                self.text.push_str(if L == 0 { "{" } else { "," });
                self.line(format_args!("le=\"{bound}\"}} {count}"));
            }
            self.sample(name, "_sum", labels, &values, seconds(sum_us));
            self.sample(name, "_count", labels, &values, count);
        }
    }

    /// All of it.
    pub fn finish(mut self) -> String {
        if self.form == Form::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn family(&mut self, name: &str, suffix: &str, kind: &str, help: &str) {
        let suffix = if self.form == Form::Prometheus { suffix } else { "" };
        self.line(format_args!("# HELP {PREFIX}{name}{suffix} {help}\n# TYPE {PREFIX}{name}{suffix} {kind}"));
    }

    fn sample(&mut self, name: &str, suffix: &str, labels: &[&str], values: &[&str], value: impl Display) {
        self.start(name, suffix, labels, values);
        self.text.push_str(if labels.is_empty() { " " } else { "} " });
        self.line(format_args!("{value}"));
    }

    /// Name and labels, without the brace at the end.
    fn start(&mut self, name: &str, suffix: &str, labels: &[&str], values: &[&str]) {
        for part in [PREFIX, name, suffix] {
            self.text.push_str(part);
        }
        for (index, (label, value)) in labels.iter().zip(values).enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            for part in [label, "=\""] {
                self.text.push_str(part);
            }
            for character in value.chars() {
                match character {
                    '\n' => self.text.push_str("\\n"),
                    '"' | '\\' => self.text.extend(['\\', character]),
                    _ => self.text.push(character),
                }
            }
            self.text.push('"');
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.text.write_fmt(line);
        self.text.push('\n');
    }
}

/// Microseconds as seconds, without zeros at the end but one: `0.005`, `1.0`.
pub fn seconds(us: u64) -> String {
    let mut text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    while text.ends_with('0') && !text.ends_with(".0") {
        text.pop();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn text(form: Form) -> String {
        let histogram = Histogram::new(&[500, 1_000_000]);
        for us in [100, 2000, 3_000_000] {
            histogram.add(Duration::from_micros(us));
        }
        let mut text = Text::new(form);
        text.counters("things", "Things.", &["kind"], [(["a\"\\\n"], 1), (["b"], 2)]);
        text.gauge("size_bytes", "Size.", 7);
        text.histograms("took_seconds", "Time.", &[], [([], &histogram)]);
        text.histograms("other_seconds", "Time.", &["of"], [(["x"], &histogram)]);
        text.finish()
    }

    #[test]
    fn both_formats_have_the_same_numbers_under_the_names_that_they_want() {
        let prometheus = text(Form::Prometheus);
        let expected = "# HELP orchestrator_client_things_total Things.\n\
             # TYPE orchestrator_client_things_total counter\n\
             orchestrator_client_things_total{kind=\"a\\\"\\\\\\n\"} 1\n\
             orchestrator_client_things_total{kind=\"b\"} 2\n\
             # HELP orchestrator_client_size_bytes Size.\n\
             # TYPE orchestrator_client_size_bytes gauge\n\
             orchestrator_client_size_bytes 7\n\
             # HELP orchestrator_client_took_seconds Time.\n\
             # TYPE orchestrator_client_took_seconds histogram\n\
             orchestrator_client_took_seconds_bucket{le=\"0.0005\"} 1\n\
             orchestrator_client_took_seconds_bucket{le=\"1.0\"} 2\n\
             orchestrator_client_took_seconds_bucket{le=\"+Inf\"} 3\n\
             orchestrator_client_took_seconds_sum 3.0021\n\
             orchestrator_client_took_seconds_count 3\n";
        assert!(prometheus.starts_with(expected), "{prometheus}");
        assert!(prometheus.contains("\norchestrator_client_other_seconds_bucket{of=\"x\",le=\"+Inf\"} 3\n"));
        let open_metrics = text(Form::OpenMetrics);
        assert!(open_metrics.ends_with("_count{of=\"x\"} 3\n# EOF\n"), "{open_metrics}");
        let same = open_metrics.replace("# EOF\n", "");
        let same = same
            .replace("things Things", "things_total Things")
            .replace("things counter", "things_total counter");
        assert_eq!(same, prometheus);
    }

    #[test]
    fn the_format_is_the_one_that_is_asked_for() {
        let of_prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        assert_eq!(Form::wanted(of_prometheus), Form::OpenMetrics);
        assert_eq!(Form::wanted("*/*"), Form::Prometheus);
        assert_eq!(Form::wanted(""), Form::Prometheus);
    }
}
