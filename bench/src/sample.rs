//! A set of measurements, and what is said of it.

use std::time::Duration;

/// Measurements in ascending order; never empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// `None` if there are no values.
    #[must_use]
    pub fn new(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        (!values.is_empty()).then_some(Self(values))
    }

    /// In milliseconds.
    #[must_use]
    pub fn of_times(times: &[Duration]) -> Option<Self> {
        Self::new(times.iter().map(|time| time.as_secs_f64() * 1000.0).collect())
    }

    /// The smallest value that at least so many of 1,000 do not exceed (nearest rank).
    #[must_use]
    pub fn permille(&self, permille: usize) -> f64 {
        let rank = (self.0.len() * permille).div_ceil(1000).max(1);
        self.0[rank - 1]
    }

    /// The middle value, or the mean of the two middle ones.
    #[must_use]
    pub fn median(&self) -> f64 {
        let (below, above) = ((self.0.len() - 1) / 2, self.0.len() / 2);
        f64::midpoint(self.0[below], self.0[above])
    }

    /// The smallest value.
    #[must_use]
    pub fn min(&self) -> f64 {
        self.0[0]
    }

    /// The largest value.
    #[must_use]
    pub fn max(&self) -> f64 {
        self.0[self.0.len() - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_the_sorted_values() {
        let sample = Sample::new((1..=100).rev().map(f64::from).collect()).expect("has values");
        assert_eq!((sample.permille(500), sample.permille(990), sample.permille(1000)), (50.0, 99.0, 100.0));
        assert_eq!((sample.min(), sample.median(), sample.max()), (1.0, 50.5, 100.0));
        let one = Sample::new(vec![7.0]).expect("has a value");
        assert_eq!((one.permille(1), one.median(), one.permille(990)), (7.0, 7.0, 7.0));
        assert_eq!(Sample::new(vec![]), None);
    }
}
