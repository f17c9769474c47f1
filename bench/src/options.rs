//! A command line of one word and `--name value` pairs, each pair read once by who needs it.

use std::fmt::Display;
use std::io;
use std::str::FromStr;

/// What was given and is not yet read.
pub struct Options {
    pairs: Vec<(String, String)>,
}

impl Options {
    /// The first word, and the pairs that follow it.
    pub fn read() -> io::Result<(String, Self)> {
        let mut words = std::env::args().skip(1);
        let first = words.next().ok_or_else(|| io::Error::other("a word is missing that says what to do"))?;
        let mut pairs = Vec::new();
        while let Some(word) = words.next() {
            let name =
                word.strip_prefix("--").ok_or_else(|| io::Error::other(format!("{word} is no --name")))?;
            let value = words.next().ok_or_else(|| io::Error::other(format!("{word} has no value")))?;
            pairs.push((name.to_owned(), value));
        }
        Ok((first, Self { pairs }))
    }

    /// The value of `--name`, which must be there.
    pub fn take<T: FromStr<Err: Display>>(&mut self, name: &str) -> io::Result<T> {
        let found = self.pairs.iter().position(|(given, _)| given == name);
        let index = found.ok_or_else(|| io::Error::other(format!("--{name} is missing")))?;
        let (_, value) = self.pairs.remove(index);
        value.parse().map_err(|error| io::Error::other(format!("--{name} {value}: {error}")))
    }

    /// The value of `--name`, or `default`.
    pub fn take_or<T: FromStr<Err: Display>>(&mut self, name: &str, default: T) -> io::Result<T> {
        let is_given = self.pairs.iter().any(|(given, _)| given == name);
        if is_given { self.take(name) } else { Ok(default) }
    }

    /// Fails if something was given that nobody has read.
    pub fn finish(self) -> io::Result<()> {
        match self.pairs.first() {
            None => Ok(()),
            Some((name, _)) => Err(io::Error::other(format!("--{name} is not known here"))),
        }
    }
}
