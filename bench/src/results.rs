//! What was measured of one subject: the lines of `name value` that the programs of the bench have printed.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use crate::sample::Sample;

/// All values of each name.
#[derive(Default)]
pub struct Results(HashMap<String, Vec<f64>>);

impl Results {
    /// Those of `file`; none if there is no such file, as for what was not measured.
    pub fn read(file: &Path) -> io::Result<Self> {
        match fs::read_to_string(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            read => {
                Self::parse(&read?).map_err(|line| io::Error::other(format!("{}: {line}", file.display())))
            }
        }
    }

    /// Fails with a line that is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut results = Self::default();
        for line in text.lines() {
            let pair = line.split_once(' ').and_then(|(name, value)| Some((name, value.parse().ok()?)));
            let (name, value) = pair.ok_or_else(|| line.to_owned())?;
            results.0.entry(name.to_owned()).or_default().push(value);
        }
        Ok(results)
    }

    /// All values of `name`, if there are any.
    #[must_use]
    pub fn sample(&self, name: &str) -> Option<Sample> {
        Sample::new(self.0.get(name)?.clone())
    }

    /// Sets what was worked out of others.
    pub fn set(&mut self, name: &str, value: f64) {
        self.0.insert(name.to_owned(), vec![value]);
    }

    /// The medians of all that is called `<before><number><after>`, by number, in ascending order.
    #[must_use]
    pub fn series(&self, before: &str, after: &str) -> Vec<(f64, f64)> {
        let number = |name: &str| name.strip_prefix(before)?.strip_suffix(after)?.parse().ok();
        let points = self.0.keys().filter_map(|name| Some((number(name)?, self.sample(name)?.median())));
        let mut points: Vec<_> = points.collect();
        points.sort_by(|left, right| f64::total_cmp(&left.0, &right.0));
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_what_differs_by_its_number_alone() {
        let text = "size_16_s 2.5\nsize_4_s 1\nsize_4_s 3\nsize_4_mib 9\nsize_big_s 7\n";
        let results = Results::parse(text).expect("is well formed");
        assert_eq!(results.series("size_", "_s"), [(4.0, 2.0), (16.0, 2.5)]);
    }

    #[test]
    fn a_line_without_a_number_is_named() {
        assert_eq!(Results::parse("a 1\nb\n").err().as_deref(), Some("b"));
    }
}
