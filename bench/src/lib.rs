//! What the programs of the bench share: samples, and the reading of their command lines.
//! A program prints its results as lines of `name value`; `table` reads them. Units stand in the names.

pub mod options;
pub mod sample;

/// Prints one result for `table`.
#[macro_export]
macro_rules! result {
    ($name:expr, $value:expr) => {
        println!("{} {:.3}", $name, $value)
    };
}
