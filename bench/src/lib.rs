//! What the programs of the bench share: samples, results, the clock, and the reading of their command lines.
//! A program prints its results as lines of `name value`; `table` and `plots` read them. Units stand in the names.

pub mod clock;
pub mod options;
pub mod results;
pub mod sample;

/// Prints one result.
#[macro_export]
macro_rules! result {
    ($name:expr, $value:expr) => {
        println!("{} {:.4}", $name, $value)
    };
}
